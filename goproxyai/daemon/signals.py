"""The signals that Twisted leaves to the daemon."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any


def call_on_hangup(reactor: Any, call: Callable[[], None]) -> None:
    """Make *call* in the reactor for each SIGHUP.

    To be used only where there is a configuration file to read again. Otherwise SIGHUP keeps its
    default action, which ends the process: a terminal sends SIGHUP when it is closed.
    """
    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(call))


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
