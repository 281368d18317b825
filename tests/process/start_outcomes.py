"""Many starts of the daemon that end by themselves, each in a process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

from tests.process.daemon_process import TIMEOUT_SECONDS, environment

RUN_ALL = """
import json, os, signal, sys
from twisted.scripts import twistd
import goproxyai.plugin

for number, (arguments, settings) in enumerate(json.load(sys.stdin)):
    if not os.fork():
        for descriptor, name in (1, "out"), (2, "err"):
            os.dup2(os.open(f"{number}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
        signal.alarm(20)  # a start that succeeds must not hang the test
        sys.argv[:] = arguments
        os.environ.update(settings)
        sys.exit(twistd.run())
    _, status = os.wait()
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
"""Runs twistd in a process for each command line; the imports, which take longest, happen once."""


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
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(starts),
        env=environment(),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS + len(starts),
        check=True,
    )
    assert done.stderr == ""
    outcomes = []
    for number, status in enumerate(done.stdout.split()):
        out, err = [(directory / f"{number}.{name}").read_text() for name in ("out", "err")]
        outcomes.append(Outcome(int(status), out, err))
    return outcomes
