"""Start failures that twistd does not report.

twistd forks after ``makeService``. Afterwards only an ``Exception`` reaches the process that waits
for the result of the start, cut to 100 bytes. A ``SystemExit`` does not reach it, and it waits
forever. Failures are therefore found before the fork, where one line on standard error and status 1
are possible.
"""

from __future__ import annotations

import atexit
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


def check_process_options(options: Mapping[str, Any] | None) -> None:
    """Check the options of twistd itself, which are applied after the fork.

    :param options: ``None`` outside of twistd.
    :raises SystemExit: with one line about the first option that cannot be applied.
    """
    for name, expected in _problems(options or {}):
        value = str((options or {})[name])
        raise SystemExit(f"goproxyai: --{name} is {value!a}, expected {expected}")


def _problems(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the names of the options that cannot be applied, and what is expected of each."""
    problems = []
    if os.geteuid() != 0:
        problems += [
            (name, "to be started by root")
            for name in ("uid", "gid", "chroot")
            if options.get(name) is not None
        ]
    if options.get("chroot") is not None:
        if not os.path.isdir(options["chroot"]):
            problems.append(("chroot", "a directory"))
        return problems  # the other paths are inside of the new root
    if not os.access(options.get("rundir", "."), os.X_OK):
        problems.append(("rundir", "a directory that can be entered"))
    pidfile = options.get("pidfile")
    if pidfile and not _can_write(pidfile):
        problems.append(("pidfile", "a file that can be written, or an empty value for none"))
    return problems


def _can_write(path: str) -> bool:
    """Return whether the file can be written or created; nothing is created."""
    if os.path.exists(path):
        return os.path.isfile(path) and os.access(path, os.W_OK)
    return os.access(os.path.dirname(path) or ".", os.W_OK | os.X_OK)


def release_waiting_process(reactor: Any, options: Mapping[str, Any] | None) -> None:
    """Let the process that waits for a background start end too, however the start ends.

    :param options: of twistd. After the fork, twistd puts the pipe to the waiting process into
        ``statusPipe``. When the reactor runs, twistd has closed the pipe.
    """
    if options is None:
        return

    def report() -> None:
        pipe = options.get("statusPipe")
        with suppress(OSError):  # twistd has reported the failure and closed the pipe
            if pipe is not None and stat.S_ISFIFO(os.fstat(pipe).st_mode):
                os.write(pipe, b"1 the process ended during its start")

    atexit.register(report)
    reactor.callWhenRunning(atexit.unregister, report)
