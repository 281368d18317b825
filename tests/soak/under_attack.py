"""``python -m tests.soak.under_attack``: ordinary clients while others attack memory and turns.

1. Attacks run in processes of their own, one to three at a time, chosen at random: those of
   :mod:`tests.support.memory_attacks` and those of :mod:`bench.fair_turns`.
2. Ordinary clients send requests meanwhile, and check each response to the byte. 503 ``overloaded``
   is permitted, a wrong or incomplete response is not.
3. One client measures ``/health/live``.
4. After each round all attackers leave. Then no connection may be open, no memory counted, and no
   descriptor more than at the start. The peak of the resident memory must be within the formula of
   docs/operations.md for the round's connections.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import attrs

from bench.fair_turns import KINDS, attack
from tests.process.daemon_process import DaemonProcess, command, get
from tests.support.attacks import MIB, Attackers, memory_of, reset_peak
from tests.support.memory_attacks import ATTACKS
from tests.support.slow_upstream import SlowUpstream, slow_upstream

CACHE_MIB, REQUEST_MIB = 50, 64
BYTES_PER_CONNECTION = 12 * 1024
MAX_CONNECTIONS = 4_000
HOLD_SECONDS = 2.0
"""For which an attack on memory keeps its connections."""
PROBE_SECONDS = 0.02
"""Between two requests for ``/health/live``."""
RELEASE_SECONDS = 10.0
"""After a round, until nothing of it is left."""


def attack_memory(port: int, number: int) -> None:
    """Run an attack on memory, and keep its connections for a while."""
    with Attackers(port) as attackers, suppress(OSError):
        ATTACKS[number](attackers)
        time.sleep(HOLD_SECONDS)


@attrs.define(eq=False)
class Clients:
    """The ordinary clients and the probe, in threads.

    :ivar outcomes: of requests, by kind.
    :ivar latencies: of ``/health/live`` in seconds.
    """

    port: int
    outcomes: Counter[str] = attrs.field(factory=Counter)
    latencies: list[float] = attrs.field(factory=list)
    _stopped: threading.Event = attrs.field(factory=threading.Event)
    _threads: list[threading.Thread] = attrs.field(factory=list)

    def start(self) -> None:
        for target in (self._probe, self._ask, self._ask, self._post):
            thread = threading.Thread(target=self._repeat, args=(target,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, request: Callable[[http.client.HTTPConnection], None]) -> None:
        while not self._stopped.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                while not self._stopped.is_set():
                    request(connection)
            except (OSError, http.client.HTTPException) as error:
                self.outcomes[f"failed: {type(error).__name__}"] += 1
            finally:
                connection.close()

    def _probe(self, connection: http.client.HTTPConnection) -> None:
        began = time.perf_counter()
        connection.request("GET", "/health/live")
        right = connection.getresponse().read() != b""
        self.latencies.append(time.perf_counter() - began)
        self.outcomes["live" if right else "wrong"] += 1
        time.sleep(PROBE_SECONDS)

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        size = random.choice([10, 1_000, 100_000, 900_000])  # not a secret
        target = f"/v1/models?{random.randrange(200)}&size={size}"
        connection.request("GET", target)
        self._judge(connection.getresponse(), b'"' + b"x" * size + b'"')
        time.sleep(0.05)

    def _post(self, connection: http.client.HTTPConnection) -> None:
        size = random.choice([10, 50_000])
        body = json.dumps({"input": os.urandom(size).hex()})
        target = f"/v1/embeddings?size={size}"
        connection.request("POST", target, body, {"Content-Type": "application/json"})
        self._judge(connection.getresponse(), b'"' + b"x" * size + b'"')
        time.sleep(0.1)

    def _judge(self, response: http.client.HTTPResponse, expected: bytes) -> None:
        body = response.read()
        if response.status == 503 and b'"overloaded"' in body:
            self.outcomes["refused"] += 1
        elif response.status == 200 and body == expected:
            self.outcomes["right"] += 1
        else:
            digest = hashlib.sha256(body).hexdigest()[:8]
            self.outcomes[f"wrong: {response.status} {len(body)} bytes {digest}"] += 1


@attrs.define(eq=False)
class AttackedDaemon:
    """The daemon, and what is checked of it.

    :ivar problems: what must not have happened.
    :ivar connections: the most that a round had: CPython keeps the memory of its small objects.
    :ivar worst: the largest share of the formula that the peak of a round reached.
    """

    process: DaemonProcess
    port: int
    verbose: bool
    problems: list[str] = attrs.field(factory=list)
    worst: float = 0.0
    connections: int = 0
    _start: int = attrs.field(init=False)
    _descriptors: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        get(self.port, "/stats")
        self._start = memory_of(self.process.pid)
        self._descriptors = self._count_descriptors()

    def _count_descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def _stats(self) -> Any:
        return get(self.port, "/stats")[1]

    def begin_round(self) -> int:
        """Reset the peak; return the number of connections that were opened so far."""
        reset_peak(self.process.pid)
        return int(self._stats()["connections"]["opened"])

    def end_round(self, name: str, opened_before: int, longest: float) -> None:
        """Check memory and leftovers after the round *name*.

        :param longest: seconds that ``/health/live`` took at most.
        """
        stats = self._stats()
        opened = stats["connections"]["opened"] - opened_before
        self.connections = max(self.connections, min(MAX_CONNECTIONS, opened))
        bound = self._start + 1.2 * CACHE_MIB * MIB + 1.5 * REQUEST_MIB * MIB
        bound += BYTES_PER_CONNECTION * self.connections
        peak = memory_of(self.process.pid, "VmHWM")
        self.worst = max(self.worst, peak / bound)
        if self.verbose:
            limit = stats["request_memory"]["max_bytes"]
            print(
                f"{peak / bound:.0%} of {bound / MIB:.0f} MB, budget {limit / MIB:.0f} MB, "
                f"/health/live {longest * 1000:.0f} ms: {name}",
                flush=True,
            )
        if peak > bound:
            self.problems.append(f"{name}: {peak / MIB:.1f} MB, the bound is {bound / MIB:.1f}")
        deadline = time.monotonic() + RELEASE_SECONDS
        leftovers = self._leftovers()
        while leftovers and time.monotonic() < deadline:
            time.sleep(0.1)
            leftovers = self._leftovers()
        if leftovers:
            self.problems.append(f"{name}: left behind: {leftovers}")

    def _leftovers(self) -> str:
        stats = self._stats()
        counted = stats["request_memory"]["bytes"]
        left = {
            "connections": stats["connections"]["open"] - 1,
            "requests": stats["requests"]["in_flight"] - 1,
            "counted": counted if counted > MIB else 0,  # large heads, until they are collected
            "flights": stats["cache"]["flights"],
            "descriptors": max(0, self._count_descriptors() - self._descriptors - 40),
        }
        return ", ".join(f"{name} {number}" for name, number in left.items() if number)


def choose(port: int, rng: random.Random) -> tuple[str, list[BaseProcess]]:
    """Return the attacks of one round, which have not started, and their names."""
    context = multiprocessing.get_context("spawn")
    names, processes = [], []
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.5:
            number = rng.randrange(len(ATTACKS))
            names.append(ATTACKS[number].__name__)
            processes.append(context.Process(target=attack_memory, args=(port, number)))
        else:
            kind = rng.choice(sorted(KINDS))
            names.append(kind)
            processes.append(context.Process(target=attack, args=(port, kind)))
    return " + ".join(names), list[BaseProcess](processes)


def run(seconds: float, seed: int, verbose: bool, directory: Path, upstream: SlowUpstream) -> int:
    settings = {
        "LISTEN": "tcp:0:interface=127.0.0.1:backlog=1024",
        "OPENAI_API_URL": f"http://127.0.0.1:{upstream.port}",
        "MAX_CACHE_SIZE": str(CACHE_MIB),
        "MAX_REQUEST_MEMORY": str(REQUEST_MIB),
        "MAX_CONNECTIONS": str(MAX_CONNECTIONS),
        "RATE_LIMIT": "0",
        "COALESCE": "all",
        "BREAKER": "0",
        "LOG_SAMPLE": "0",
    }
    pinned = ["taskset", "-c", "0"] if (os.cpu_count() or 1) > 1 else []
    process = DaemonProcess(directory, [*pinned, *command()], settings)
    rng = random.Random(seed)  # not a secret
    latencies: list[float] = []
    outcomes: Counter[str] = Counter()
    rounds: Counter[str] = Counter()
    try:
        (port,) = process.listening()
        daemon = AttackedDaemon(process, port, verbose)
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            opened, clients = daemon.begin_round(), Clients(port)
            clients.start()
            name, processes = choose(port, rng)
            for each in processes:
                each.start()
            for each in processes:
                each.join()
            clients.stop()
            daemon.end_round(name, opened, max(clients.latencies, default=0.0))
            latencies += clients.latencies
            outcomes += clients.outcomes
            rounds.update(name.split(" + "))
        log = Path(directory, "stdout").read_text()
        daemon.problems += [line for line in log.splitlines() if "Traceback" in line]
        daemon.problems += [f"{number} {name}" for name, number in outcomes.items() if name[:5] in
                            ("wrong", "faile")]  # fmt: skip
    finally:
        process.kill()
    latencies.sort()
    print(f"rounds: {sum(rounds.values())} attacks of {len(rounds)} kinds; {dict(outcomes)}")
    print(
        f"/health/live: {len(latencies)} requests, median "
        f"{latencies[len(latencies) // 2] * 1000:.1f} ms, p99 "
        f"{latencies[int(len(latencies) * 0.99)] * 1000:.1f} ms, longest "
        f"{latencies[-1] * 1000:.0f} ms"
    )
    print(f"memory: at most {daemon.worst:.0%} of the formula")
    for problem in daemon.problems:
        print(f"PROBLEM: {problem}")
    return 1 if daemon.problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="print a line for each round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, slow_upstream() as upstream:
        return run(given.seconds, given.seed, given.verbose, Path(name), upstream)


if __name__ == "__main__":
    sys.exit(main())
