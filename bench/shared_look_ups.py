"""The time that a look-up in the parent's cache adds to a miss of a worker.

``python -m bench.shared_look_ups`` asks one process and a service of two workers in turn, on one
kept connection each, so that both see the same load of the machine. It prints the response times of
each and their difference: of misses, of misses that may be shared, of hits in the process, and of
hits in the second level. With ``chrt -f 5`` in front, other programs on the machine disturb little.

``--cpu`` measures the CPU time that a look-up and a response take in the shared memory instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from twisted.internet.task import Clock

from bench.daemons import Placement, daemon
from bench.machine import BOTH_CORES, Failed, free_port, processor
from bench.peers import Role, goproxyai
from bench.testbed import fixed_upstream
from bench.wrk import COMPLETION, relays
from goproxyai.cache.entry import new_entry
from goproxyai.cache.store import Store
from goproxyai.cache.write_log import UNOWNED
from goproxyai.daemon.shared_memory import make_shared_memory, map_marks, map_records
from goproxyai.state.cache_client import CacheClient
from goproxyai.state.second_level import Claim

HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer sk-bench\r\n"
    "Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
)


class Client:
    """A kept connection that sends one request at a time."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def worker(self) -> bytes:
        """Return what the request IDs of the worker begin with."""
        self._socket.sendall(b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n")
        received = b""
        while not received.endswith(b"}"):
            received += self._socket.recv(65536)
        return received.partition(b"X-Request-Id: ")[2].partition(b"-")[0]

    def seconds(self, question: str, expected: bytes, temperature: int = 1) -> float:
        """Return the response time; fail if the response is not from where it is expected.

        :param expected: the value of ``X-Cache``.
        :param temperature: 0 lets identical requests share an upstream request.
        """
        messages = [{"role": "user", "content": question}]
        body = json.dumps({"model": "m", "messages": messages, "temperature": temperature})
        data = (HEAD.format(size=len(body)) + body).encode()
        started = time.perf_counter()
        self._socket.sendall(data)
        received = b""
        while COMPLETION.encode() not in received:
            piece = self._socket.recv(65536)
            if not piece:
                raise Failed("the connection was closed")
            received += piece
        elapsed = time.perf_counter() - started
        if b"X-Cache: " + expected not in received:
            raise Failed(f"not a {expected.decode()}: {received[:400]!r}")
        return elapsed


def compared(
    name: str, one: Callable[[int], float], two: Callable[[int], float], count: int
) -> None:
    """Print the response times of *one* and *two*, whose argument numbers the request."""
    times = [(one(number), two(number)) for number in range(count)]
    for label, rank in (("5th percentile", 0), ("first quartile", 4), ("median", 9)):
        alone, shared = [
            statistics.quantiles(column, n=20)[rank] * 1e6 for column in zip(*times, strict=True)
        ]
        print(
            f"{name:24} {label:15} one process {alone:7.0f} us   two workers {shared:7.0f} us   "
            f"difference {shared - alone:6.0f} us   ratio {shared / alone:.2f}"
        )


@contextlib.contextmanager
def services() -> Iterator[tuple[int, int]]:
    """Run one process, and two workers; yields the ports."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        (root / "upstream").mkdir()
        upstream = Placement(free_port(), 0, root / "upstream")
        stack.enter_context(daemon(fixed_upstream(upstream), BOTH_CORES, upstream, relays))
        ports = []
        for workers in (1, 2):
            own = root / str(workers)
            own.mkdir()
            placement = Placement(free_port(), upstream.port, own, workers=workers)
            command = goproxyai(placement, Role.CACHING, "warn")
            stack.enter_context(daemon(command, BOTH_CORES, placement, relays))
            ports.append(placement.port)
        yield ports[0], ports[1]


def measure(count: int) -> None:
    """Print the response times."""
    with services() as (one_port, two_port):
        print(processor())
        one, two = Client(one_port), Client(two_port)
        other = two
        while other.worker() == two.worker():
            other = Client(two_port)
        for client in (one, two):
            for number in range(50):
                client.seconds(f"warm {number}", b"MISS")
        compared(
            "miss",
            lambda number: one.seconds(f"miss {number}", b"MISS"),
            lambda number: two.seconds(f"miss {number}", b"MISS"),
            count,
        )
        compared(
            "miss that may be shared",
            lambda number: one.seconds(f"shared {number}", b"MISS", 0),
            lambda number: two.seconds(f"shared {number}", b"MISS", 0),
            count,
        )
        compared(
            "hit in the process",
            lambda _: one.seconds("miss 0", b"HIT"),
            lambda _: two.seconds("miss 0", b"HIT"),
            count,
        )
        compared(
            "hit in the second level",
            lambda _: one.seconds("miss 0", b"HIT"),
            lambda number: other.seconds(f"miss {number}", b"HIT"),
            count,
        )


def measure_cpu(count: int) -> None:
    """Print the CPU time of a miss with its claim, of its response that is stored, and of a hit."""
    shared = make_shared_memory(2)
    clients, clock = [], Clock()
    for own in (0, 1):
        records = map_records(shared, 2, time.monotonic, own)
        records.resize(100_000_000)
        clients.append(CacheClient(clock, lambda _: False, records, map_marks(shared, 2, own)))
    one, other = clients
    keys = []
    for number in range(count):  # in rows of marks of their own
        digest = sha256(b"%d" % number).digest()
        keys.append(digest[:3] + (number % 2**16).to_bytes(2, "little") + digest[5:])
    cache, path = Store(100_000_000), b"/v1/chat/completions"
    body = COMPLETION.encode()
    claims: list[Claim] = []
    entries = []
    for key in keys:
        entry = new_entry(key, 200, b"h" * 300, body, time.monotonic(), 3600.0, 0, None)
        cache.put(entry, path, UNOWNED, 0)
        entries.append(entry)

    def claim(number: int) -> None:
        got = one.claim_at_once(keys[number], UNOWNED, path, True)
        assert got is not None, "no other worker has a claim"
        claims.append(got)

    def store(number: int) -> None:
        claims.pop(0).store(entries[number])

    def hit(number: int) -> None:
        record = other.records.get(keys[number], UNOWNED, path)
        assert record is not None, "every response was stored"

    best = dict.fromkeys(("miss", "store", "hit"), math.inf)
    for begin in range(0, count, 100):
        for name, call in (("miss", claim), ("store", store), ("hit", hit)):
            started = time.process_time()
            for number in range(begin, begin + 100):
                call(number)
            clock.advance(0)  # the responses are stored
            best[name] = min(best[name], (time.process_time() - started) / 100)
    for name, seconds in best.items():
        print(f"  {name:6} {seconds * 1e6:6.1f} us of CPU time")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--cpu", action="store_true")
    given = parser.parse_args()
    if given.cpu:
        measure_cpu(given.count // 100 * 100)
    else:
        measure(given.count)
