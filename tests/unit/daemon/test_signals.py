"""The handlers of SIGHUP, SIGTERM and SIGINT."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from goproxyai.daemon import signals
from goproxyai.daemon.signals import call_on_hangup, end_on_next_signal


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """Record the handlers by signal number, instead of installing them."""
    installed: dict[int, Any] = {}
    monkeypatch.setattr(signals.signal, "signal", installed.__setitem__)
    return installed


def test_hangup_makes_the_call_in_the_reactor(handlers: dict[int, Any]) -> None:
    scheduled: list[Any] = []

    class Reactor:
        callFromThread = scheduled.append

    call_on_hangup(Reactor, print)
    assert set(handlers) == {signal.SIGHUP}
    handlers[signal.SIGHUP](signal.SIGHUP, None)
    assert scheduled == [print]


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
