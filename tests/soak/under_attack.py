"""``python -m tests.soak.under_attack``: ordinary clients while others attack memory and turns.

1. Attacks run in processes of their own, one to three at a time, chosen at random: those of
   :mod:`tests.support.memory_attacks` and those of :mod:`bench.fair_turns`.
2. Ordinary clients send requests meanwhile, and check each response to the byte. 503 ``overloaded``
   is permitted, a wrong or incomplete response is not.
3. One client, a process of its own, measures ``/health/live``: the time that passes, and the
   processor time that the daemon takes meanwhile. The second does not depend on what else the
   machine runs. The daemon has a core to itself where the machine has several.
4. After each round all attackers leave. Then no connection may be open, no memory counted, and no
   descriptor more than at the start. The peak of the resident memory must be within the formula of
   docs/reference/limits.md for the round's connections.
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
from functools import partial
from multiprocessing.connection import Connection
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
_CONTEXT = multiprocessing.get_context("spawn")

ATTACKER_NICENESS = 10
"""Above that of the other processes, so that these get processor time first."""


def run_attack(attack_once: Callable[[], None]) -> None:
    """Run an attack in a process of its own."""
    os.nice(ATTACKER_NICENESS)
    attack_once()


def attack_memory(port: int, number: int) -> None:
    """Run an attack on memory, and keep its connections for a while."""
    with Attackers(port) as attackers, suppress(OSError):
        ATTACKS[number](attackers)
        time.sleep(HOLD_SECONDS)


Latency = tuple[float, float]
"""Of a request for ``/health/live``, in seconds: the time that passed, and the processor time of
the daemon within that time. The second is what a client would wait if the core ran nothing else."""


def busy_seconds(process: int) -> float:
    """Return the processor time of the main thread of *process*."""
    return int(Path(f"/proc/{process}/schedstat").read_bytes().split()[0]) / 1e9


def probe(port: int, process: int, latencies: Connection) -> None:
    """Measure ``/health/live`` until the process ends; send each :data:`Latency`."""
    while True:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with suppress(OSError, http.client.HTTPException):
            while True:
                began, busy = time.perf_counter(), busy_seconds(process)
                client.request("GET", "/health/live")
                client.getresponse().read()
                latencies.send((time.perf_counter() - began, busy_seconds(process) - busy))
                time.sleep(PROBE_SECONDS)
        latencies.send(None)
        client.close()


class Probe:
    """The client that measures ``/health/live``.

    :ivar failures: connections that ended.
    """

    def __init__(self, port: int, process: int) -> None:
        self._receiver, sender = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=probe, args=(port, process, sender), daemon=True)
        self._process.start()
        sender.close()
        self.failures = 0

    def take(self) -> list[Latency]:
        """Return the latencies since the last call."""
        times = []
        while self._receiver.poll():
            latency = self._receiver.recv()
            if latency is None:
                self.failures += 1
            else:
                times.append(latency)
        return times

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


@attrs.define(eq=False)
class Clients:
    """The ordinary clients, in threads.

    :ivar outcomes: of requests, by kind.
    """

    port: int
    outcomes: Counter[str] = attrs.field(factory=Counter)
    _stopped: threading.Event = attrs.field(factory=threading.Event)
    _threads: list[threading.Thread] = attrs.field(factory=list)

    def start(self) -> None:
        for target in (self._ask, self._ask, self._post):
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

        :param longest: seconds of the daemon's work that a ``/health/live`` waited for at most.
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
            "connections": stats["connections"]["open"] - 2,  # this one, and the probe's
            "requests": stats["requests"]["in_flight"] - 1,
            "counted": counted if counted > MIB else 0,  # large heads, until they are collected
            "flights": stats["cache"]["flights"],
            "descriptors": max(0, self._count_descriptors() - self._descriptors - 40),
        }
        return ", ".join(f"{name} {number}" for name, number in left.items() if number)


def choose(port: int, rng: random.Random) -> tuple[str, list[BaseProcess]]:
    """Return the attacks of one round, which have not started, and their names."""
    names, processes = [], []
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.5:
            number = rng.randrange(len(ATTACKS))
            names.append(ATTACKS[number].__name__)
            attack_once = partial(attack_memory, port, number)
        else:
            kind = rng.choice(sorted(KINDS))
            names.append(kind)
            attack_once = partial(attack, port, kind)
        processes.append(_CONTEXT.Process(target=run_attack, args=(attack_once,)))
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
    first, *rest = sorted(os.sched_getaffinity(0))
    pinned = ["taskset", "-c", str(first)] if rest else []
    process = DaemonProcess(directory, [*pinned, *command()], settings)
    os.sched_setaffinity(0, rest or [first])
    rng = random.Random(seed)  # not a secret
    latencies: list[Latency] = []
    outcomes: Counter[str] = Counter()
    rounds: Counter[str] = Counter()
    try:
        (port,) = process.listening()
        daemon, live = AttackedDaemon(process, port, verbose), Probe(port, process.pid)
        live.take()
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
            times = live.take()
            daemon.end_round(name, opened, max((busy for _, busy in times), default=0.0))
            latencies += times
            outcomes += clients.outcomes
            rounds.update(name.split(" + "))
        live.stop()
        log = Path(directory, "stdout").read_text()
        daemon.problems += [line for line in log.splitlines() if "Traceback" in line]
        daemon.problems += [f"{number} {name}" for name, number in outcomes.items() if name[:5] in
                            ("wrong", "faile")]  # fmt: skip
    finally:
        process.kill()
    print(f"rounds: {sum(rounds.values())} attacks of {len(rounds)} kinds; {dict(outcomes)}")
    print(f"connections of the client of /health/live that ended: {live.failures}")
    report("/health/live", [passed for passed, _ in latencies])
    report("/health/live, the daemon's processor time", [busy for _, busy in latencies])
    print(f"memory: at most {daemon.worst:.0%} of the formula")
    for problem in daemon.problems:
        print(f"PROBLEM: {problem}")
    return 1 if daemon.problems else 0


def report(name: str, seconds: list[float]) -> None:
    """Print the percentiles of *seconds*."""
    seconds.sort()
    print(
        f"{name}: {len(seconds)} requests, median {seconds[len(seconds) // 2] * 1000:.1f} ms, p99 "
        f"{seconds[int(len(seconds) * 0.99)] * 1000:.1f} ms, longest {seconds[-1] * 1000:.0f} ms"
    )


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
