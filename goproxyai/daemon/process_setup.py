"""What every process that serves requests does to its reactor and interpreter."""

from __future__ import annotations

import sys
import time
from typing import Any

from goproxyai.config.settings import Settings
from goproxyai.daemon.memory import configure_memory
from goproxyai.daemon.tracer import make_tracer
from goproxyai.egress.resolver import SharedResolver
from goproxyai.reactor.lean_loop import install_lean_poll
from goproxyai.telemetry.trace_protocol import Tracer

THREAD_SWITCH_SECONDS = 0.0005
"""The interpreter's switch interval with tracing: how long the thread that sends spans may keep the
reactor's thread waiting after a system call. At the default of 5 ms, one request in a thousand took
20 ms (500 requests a second, all sampled); at 0.5 ms it takes 5 ms, as without tracing."""


def use_monotonic_clock(reactor: Any) -> None:
    """Let timers follow a monotonic clock, because the wall clock may be set."""
    reactor.seconds = time.monotonic


def prepare_to_serve(reactor: Any, settings: Settings) -> Tracer | None:
    """Prepare the reactor for serving requests; return the tracer.

    :raises SystemExit: with one line, where a part of the settings is not installed.
    """
    use_monotonic_clock(reactor)
    install_lean_poll(reactor)
    reactor.installNameResolver(SharedResolver(reactor))
    reactor.callWhenRunning(configure_memory, reactor)
    tracer = make_tracer(reactor, settings)
    if tracer is not None:
        sys.setswitchinterval(THREAD_SWITCH_SECONDS)
    return tracer
