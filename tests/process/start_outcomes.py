"""Many starts of the daemon that end by themselves, each in a process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from tests.process.daemon_process import DaemonProcess


@attrs.frozen
class Outcome:
    """How a start ended: the exit status, standard output and standard error."""

    status: int
    out: str
    err: str


def outcomes_of(
    directory: Path, starts: Sequence[tuple[list[str], dict[str, str]]]
) -> list[Outcome]:
    """Run each of *starts*, a command line and settings, in *directory*, and wait for its end."""
    outcomes = []
    for arguments, settings in starts:
        process = DaemonProcess(directory, arguments, settings)
        try:
            outcomes.append(Outcome(process.ended(), process.out, process.err))
        finally:
            process.kill()  # a start that succeeded
    return outcomes
