"""Latency of ``/health/live`` while 20 connections send as much work as they can.

``python -m bench.fair_turns`` prints one row for each kind of work. The daemon has no rate limit,
so that every request is handled. The upstream is nginx (bench/install.sh).
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import select
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bench.machine import LOAD_CORE, Failed, pinned
from bench.peers import PEERS, Role, Setup, goproxyai
from bench.testbed import Testbed

CONNECTIONS = 20
ATTACK_SECONDS = 4.0
MARGIN_SECONDS = 0.5
"""Time of the attack before and after the measurement."""
PAUSE_SECONDS = 0.002
"""Between two requests for ``/health/live``."""
SEND_BYTES = 256 * 1024


@dataclasses.dataclass(frozen=True)
class Work:
    """What each connection sends: ``first`` once, then ``repeated`` over and over."""

    first: bytes
    repeated: bytes


def _get(target: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: a", *lines, b"", b""])


def _large_head(target: bytes, number: int) -> bytes:
    return _get(target, *[b"X-%d-%d: %b" % (number, each, b"x" * 300) for each in range(190)])


def _post(target: bytes, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (
        target,
        len(body),
        body,
    )


_UPLOAD = b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

KINDS = {
    "pipelined 404s": Work(b"", _get(b"/none") * 3000),
    "pipelined /health": Work(b"", _get(b"/health") * 3000),
    "pipelined cache hits": Work(b"", _get(b"/v1/models") * 3000),
    "pipelined misses": Work(b"", _get(b"/v1/models", b"Cache-Control: no-cache") * 3000),
    "chunks of one byte": Work(_UPLOAD, b"1\r\nx\r\n" * 20_000),
    "chunks of blank lines": Work(_UPLOAD, b"1000\r\n" + b"\r\n\r\n" * 1024 + b"\r\n"),
    "blank lines": Work(b"", b"\r\n" * 50_000),
    "60 KB heads": Work(b"", b"".join([_large_head(b"/v1/models", each) for each in range(20)])),
    "10 MB bodies for a key": Work(b"", _post(b"/v1/embeddings", b"x" * 10_000_000)),
}


class Attacker:
    """One connection that sends its work over and over, and reads what it gets."""

    def __init__(self, port: int, work: Work) -> None:
        self._port, self._work = port, work
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port))
        self.socket.setblocking(False)
        self._unsent = memoryview(self._work.first + self._work.repeated)

    def step(self) -> None:
        """Read and send what is possible; connect again after the end of the connection."""
        try:
            with contextlib.suppress(BlockingIOError):
                if not self.socket.recv(1 << 20):
                    raise ConnectionResetError
            with contextlib.suppress(BlockingIOError):
                self._unsent = self._unsent[self.socket.send(self._unsent[:SEND_BYTES]) :]
                if not self._unsent:
                    self._unsent = memoryview(self._work.repeated)
        except OSError:
            self.socket.close()
            self._connect()


def attack(port: int, kind: str) -> None:
    """Send the work of *kind* for :data:`ATTACK_SECONDS`."""
    attackers = [Attacker(port, KINDS[kind]) for _ in range(CONNECTIONS)]
    ends_at = time.monotonic() + ATTACK_SECONDS
    while time.monotonic() < ends_at:
        sockets = [each.socket for each in attackers]
        select.select(sockets, sockets, [], 0.1)
        for each in attackers:
            each.step()


def latencies(port: int, seconds: float) -> list[float]:
    """The sorted times of ``/health/live``, one after the other on one connection."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    times: list[float] = []
    ends_at = time.monotonic() + seconds
    with contextlib.closing(client):
        while time.monotonic() < ends_at:
            began = time.perf_counter()
            client.request("GET", "/health/live")
            client.getresponse().read()
            times.append(time.perf_counter() - began)
            time.sleep(PAUSE_SECONDS)
    return sorted(times)


def measure(port: int, kind: str) -> str:
    """Run one attack; one row of the table."""
    argv = pinned(LOAD_CORE, sys.executable, "-m", "bench.fair_turns", str(port), kind)
    process = subprocess.Popen(argv)
    time.sleep(MARGIN_SECONDS)
    times = latencies(port, ATTACK_SECONDS - 2 * MARGIN_SECONDS)
    if process.wait(60):
        raise Failed(f"the attackers ended with status {process.returncode}")
    median, last = times[len(times) // 2], times[int(len(times) * 0.99)]
    return f"| {kind} | {len(times)} | {median * 1000:.1f} ms | {last * 1000:.1f} ms |"


def main() -> None:
    print("| 20 connections send | requests for /health/live | median | p99 |")
    print("|---|---:|---:|---:|")
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        testbed = Testbed(root, stack)
        command = partial(goproxyai, role=Role.CACHING, RATE_LIMIT="0")
        daemon = testbed.fresh(PEERS["goproxyai"], Setup(Role.CACHING), command)
        running = stack.enter_context(daemon)
        for kind in KINDS:
            print(measure(running.port, kind), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        attack(int(sys.argv[1]), sys.argv[2])
    else:
        main()
