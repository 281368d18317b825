"""The handlers of SIGHUP, SIGTERM and SIGINT."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from goproxyai.daemon import signals
from goproxyai.daemon.signals import (
    MIN_CALL_INTERVAL_SECONDS,
    call_on_hangup,
    end_on_next_signal,
)


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """Record the handlers by signal number, instead of installing them."""
    installed: dict[int, Any] = {}
    monkeypatch.setattr(signals.signal, "signal", installed.__setitem__)
    return installed


class Reactor(Clock):
    """A clock with the call that a signal handler uses."""

    def callFromThread(self, call: Callable[[], None]) -> None:
        self.callLater(0, call)


class Hangups:
    """Sends SIGHUP to the handler that :func:`call_on_hangup` installs, and notes the calls."""

    def __init__(self, handlers: dict[int, Any]) -> None:
        self.reactor = Reactor()
        self.called_at: list[float] = []
        self.error: Exception | None = None
        self.during_call = 0
        call_on_hangup(self.reactor, self._called)
        assert set(handlers) == {signal.SIGHUP}
        self._handler = handlers[signal.SIGHUP]

    def _called(self) -> None:
        self.called_at.append(self.reactor.seconds())
        self.send(self.during_call)
        self.during_call = 0
        if self.error is not None:
            raise self.error

    def send(self, count: int = 1) -> None:
        for _ in range(count):
            self._handler(signal.SIGHUP, None)


def test_hangup_makes_the_call_in_the_reactor(handlers: dict[int, Any]) -> None:
    hangups = Hangups(handlers)
    hangups.send()
    assert hangups.called_at == [], "a signal handler may interrupt any other code"
    hangups.reactor.advance(0)
    assert hangups.called_at == [0.0]
    assert hangups.reactor.getDelayedCalls() == []


def test_hangups_before_the_call_are_answered_by_one_call(handlers: dict[int, Any]) -> None:
    hangups = Hangups(handlers)
    hangups.send(200)
    hangups.reactor.advance(0)
    hangups.reactor.advance(10)
    assert hangups.called_at == [0.0]


def test_hangups_after_the_call_wait_for_the_interval(handlers: dict[int, Any]) -> None:
    hangups = Hangups(handlers)
    hangups.during_call = 1
    hangups.send()
    hangups.reactor.advance(0)
    for _ in range(40):
        hangups.reactor.advance(0.25)
        if hangups.reactor.seconds() < 3:
            hangups.send(5)
    assert hangups.called_at == [0.0, 1.0, 2.0, 3.0]


def test_hangup_after_the_interval_is_answered_at_once(handlers: dict[int, Any]) -> None:
    hangups = Hangups(handlers)
    for _ in range(2):
        hangups.send()
        hangups.reactor.advance(MIN_CALL_INTERVAL_SECONDS)
    assert hangups.called_at == [1.0, 2.0]


def test_failed_call_does_not_end_the_handling(handlers: dict[int, Any]) -> None:
    hangups = Hangups(handlers)
    hangups.error = ValueError("a defect")
    for _ in range(2):
        hangups.send()
        with pytest.raises(ValueError, match="a defect"):
            hangups.reactor.advance(MIN_CALL_INTERVAL_SECONDS)
    assert len(hangups.called_at) == 2


def test_next_signal_ends_the_process_by_default(
    handlers: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 2)
    end_on_next_signal()
    assert handlers == {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.SIG_DFL}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_next_signal_ends_process_1_with_the_status_of_a_shell(
    handlers: dict[int, Any], monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    end_on_next_signal()
    assert set(handlers) == {signal.SIGTERM, signal.SIGINT}
    handlers[number](number, None)
    assert exits == [status]
