"""The tool beside wrk: latency at a fixed rate, streams, held connections, transfers.

It checks every byte that comes back and exits with status 1 where one is wrong, so that what it
prints can be taken as it is. It runs on the load core, as its own upstream does.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

from bench.machine import LOAD_CORE, Failed, built, environment, pinned


def _argv(mode: str, port: int, flags: dict[str, float]) -> list[str]:
    given = [text for name, value in flags.items() for text in (f"-{name}", str(value))]
    return pinned(LOAD_CORE, built("gauge"), mode, "-url", f"http://127.0.0.1:{port}", *given)


def _figures(status: int, out: str, err: str) -> dict[str, float]:
    if status:
        raise Failed(err.strip()[-700:] or f"gauge ended with status {status}")
    found: dict[str, float] = json.loads(out.strip().rpartition("\n")[2])
    return found


def gauge(mode: str, port: int, patience: float = 120, **flags: float) -> dict[str, float]:
    """Run it to its end; the figures that it prints. It has ``patience`` seconds."""
    try:
        done = subprocess.run(
            _argv(mode, port, flags),
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"gauge {mode} did not end in {patience:g} s") from None
    return _figures(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def held(port: int, **flags: float) -> Iterator[None]:
    """Hold ``idle`` connections or ``streams`` open; raises at the end where one did not hold."""
    process = subprocess.Popen(
        _argv("hold", port, flags),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if process.stdout is None or not process.stdout.readline().startswith("ready "):
            _end(process)
            raise Failed("gauge hold was not ready")
        yield
        _end(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _end(process: subprocess.Popen[str]) -> None:
    """Close its stdin, which ends it, and raise what it has to say against the peer."""
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        raise Failed("gauge hold did not end") from None
    _figures(process.returncode, out, err)
