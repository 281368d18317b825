"""Runs gauge, the load generator for what wrk cannot measure.

gauge has modes for fresh connections, mixed traffic, latency, streams, held connections, transfers.

It checks every received byte and exits with status 1 if one is wrong. It runs on the load core,
as does its own upstream.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

from bench.machine import LOAD_CORE, Failed, built, environment, pinned


def _argv(mode: str, port: int, flags: dict[str, float | str]) -> list[str]:
    given = [text for name, value in flags.items() for text in (f"-{name}", str(value))]
    return pinned(LOAD_CORE, built("gauge"), mode, "-url", f"http://127.0.0.1:{port}", *given)


def _figures(status: int, out: str, err: str) -> dict[str, float]:
    if status:
        raise Failed(err.strip()[-700:] or f"gauge ended with status {status}")
    found: dict[str, float] = json.loads(out.strip().rpartition("\n")[2])
    return found


def gauge(mode: str, port: int, timeout: float = 120, **flags: float | str) -> dict[str, float]:
    """Run gauge for at most *timeout* seconds and return its figures."""
    try:
        done = subprocess.run(
            _argv(mode, port, flags),
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"gauge {mode} did not end in {timeout:g} s") from None
    return _figures(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def held(port: int, **flags: float | str) -> Iterator[None]:
    """Hold ``idle`` connections or ``streams`` open; raises at the end if one was closed."""
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
    """End gauge by closing its standard input; raises if it reports an error."""
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        raise Failed("gauge hold did not end") from None
    _figures(process.returncode, out, err)
