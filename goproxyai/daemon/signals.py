"""The signals that Twisted leaves to the daemon."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, Final

MIN_CALL_INTERVAL_SECONDS: Final = 1.0
"""From the end of a call for a signal to the next one."""


class CoalescedCall:
    """Makes a call for signals, at most one per :data:`MIN_CALL_INTERVAL_SECONDS`.

    All signals between two calls are answered by the second one. A call that starts after a signal
    is never omitted, so that the call sees what was changed before the signal.

    :param reactor: its thread makes the call, and its clock measures the interval.
    """

    def __init__(self, reactor: Any, call: Callable[[], None]) -> None:
        self._reactor = reactor
        self._call = call
        self._pending = False
        self._not_before = float("-inf")

    def signalled(self, number: int, frame: object) -> None:
        """Request a call; a signal handler, which may interrupt any other code."""
        if not self._pending:
            self._pending = True
            self._reactor.callFromThread(self._make_call)

    def _make_call(self) -> None:
        wait = self._not_before - self._reactor.seconds()
        if wait > 0:
            self._reactor.callLater(wait, self._make_call)
            return
        self._pending = False  # a signal from now on needs another call
        try:
            self._call()
        finally:
            self._not_before = self._reactor.seconds() + MIN_CALL_INTERVAL_SECONDS


def call_on_hangup(reactor: Any, call: Callable[[], None]) -> None:
    """Make *call* in the reactor after SIGHUP, as :class:`CoalescedCall` does.

    The default action of SIGHUP would end the process.
    """
    signal.signal(signal.SIGHUP, CoalescedCall(reactor, call).signalled)


def call_on_usr1(call: Callable[[], None]) -> None:
    """Make *call* in the signal handler for each SIGUSR1, whose default action ends the process."""
    signal.signal(signal.SIGUSR1, lambda *_: call())


def end_on_next_signal() -> None:
    """Let the next SIGTERM or SIGINT end the process at once: the first one has begun the drain.

    The kernel ignores signals with the default action for process 1 of a container, so process 1
    gets a handler.
    """
    handler = _exit if os.getpid() == 1 else signal.SIG_DFL
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _exit(number: int, _: object) -> None:
    """End the process with the status that a shell reports for a signal."""
    os._exit(128 + number)


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Call *stop* in the signal handler for the first SIGTERM or SIGINT; the second one ends.

    For a worker: where the whole process group gets the signal, the parent's message to drain may
    arrive before it, and must not make it the second signal.
    """
    signalled = False

    def received(number: int, frame: object) -> None:
        nonlocal signalled
        if signalled:
            _exit(number, frame)
        signalled = True
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, received)
