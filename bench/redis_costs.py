"""What the shared state costs a Redis server and a process: CPU time, bytes, scripts per second.

``python -m bench.redis_costs`` starts a server, and makes the calls that requests make, fifty at a
time over a Unix socket. CPU times and bytes of the server are its own numbers. They hardly depend
on other load of the machine, and the rate does. The bytes are those of the protocol: the network
adds its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import deferLater, react

from bench.machine import Failed, processor, tool
from bench.wrk import COMPLETION
from goproxyai.cache.entry import new_entry
from goproxyai.cache.record import Record
from goproxyai.cache.store import Store
from goproxyai.state.redis.client import RedisClient
from goproxyai.state.redis.counts import StateCounts
from goproxyai.state.redis.lanes import Lane, Login
from goproxyai.state.redis.limiter import KIND
from goproxyai.state.redis.names import Names
from goproxyai.state.redis.places import Places
from goproxyai.state.redis.scripts import LEASE
from goproxyai.state.redis.second_level import RedisSecondLevel
from goproxyai.state.redis.servers import FixedServer
from goproxyai.state.second_level import Claim

IN_FLIGHT: Final = 50

OWNER: Final = b"an owner of entries"
PATH: Final = b"/v1/chat/completions"

Done = Callable[[], None]


@contextmanager
def redis_server() -> Iterator[tuple[str, int]]:
    """Run a server; yields its socket and its process ID."""
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "redis.sock")
        options = ["--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no"]
        server = subprocess.Popen(
            [tool("redis-server"), *options], cwd=directory, stdout=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 10
            while not os.path.exists(path):
                if time.monotonic() > deadline or server.poll() is not None:
                    raise Failed("redis-server does not start")
                time.sleep(0.01)
            yield path, server.pid
        finally:
            server.terminate()
            server.wait()


class NoPart:
    """What uses the connections: nothing needs to be prepared or told."""

    def connected(self) -> Deferred[None]:
        return succeed(None)

    def lost(self) -> None:
        """Do nothing."""

    def message(self, payload: bytes) -> None:
        """Do nothing."""

    def beat(self) -> None:
        """Do nothing."""


class State:
    """The shared state of a process."""

    def __init__(self, reactor: Any, path: str) -> None:
        self._names = Names("a secret of the benchmark", "goproxyai:", os.urandom)
        tokens, channel = count(1), self._names.plain(b"events:0")
        endpoint = UNIXClientEndpoint(reactor, path)
        self.client = RedisClient(
            reactor,
            FixedServer(endpoint),
            Login("", None, 0),
            self._names.plain(b"probe"),
            channel,
            StateCounts(),
            lambda _: None,
        )
        self.client.part = NoPart()
        self._level = RedisSecondLevel(
            reactor,
            self.client,
            self._names,
            Places(self._names),
            lambda: b"0123456789abcdef-%d" % next(tokens),
            time.time,
            channel,
            lambda: True,
            lambda _: None,
        )
        self._claims: list[Claim | None] = []
        self._cache = Store(1_000_000_000)
        self._seconds = reactor.seconds
        self.unexpected = 0

    # Each of these makes one call for the request *number*.

    def lease(self, number: int, done: Done) -> None:
        keys = (self._names.hashed(KIND, b"198.51.100.%d" % (number % 1000)),)
        self.client.run(Lane.LIMITS, LEASE, keys, (60_000_000, 10), lambda _: done())

    def miss(self, number: int, done: Done) -> None:
        """Look up what is not there, and claim it."""

        def answered(record: Record | None, claim: Claim | None) -> None:
            self.unexpected += record is not None
            self._claims.append(claim)
            done()

        self._level.look_up(_key(number), OWNER, PATH, True, answered)

    def store(self, number: int, done: Done, body: bytes = COMPLETION.encode()) -> None:
        entry = new_entry(_key(number), 200, b"h" * 300, body, self._seconds(), 3600.0, 0, None)
        self._cache.put(entry, PATH, OWNER, 0)
        claim = self._claims[number]
        if claim is None:
            raise Failed("a look-up was not answered")
        claim.store(entry)
        self.client.check(Lane.CACHE, "PING").addBoth(lambda _: done())

    def hit(self, number: int, done: Done) -> None:
        def answered(record: Record | None, _: Claim | None) -> None:
            self.unexpected += record is None
            done()

        self._level.look_up(_key(number), OWNER, PATH, True, answered)


def _key(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


def _numbers(path: str) -> dict[str, float]:
    """Return the server's numbers."""
    lines = subprocess.run(
        [tool("redis-cli"), "-s", path, "info"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    return {name: float(text) for name, text in pairs if text.replace(".", "", 1).isdigit()}


async def repeated(reactor: Any, call: Callable[[int, Done], None], times: int) -> None:
    """Make *times* calls, :data:`IN_FLIGHT` at a time."""
    finished: Deferred[None] = Deferred()
    numbers = iter(range(times))
    ended = 0

    def start_next() -> None:
        number = next(numbers, None)
        if number is not None:
            call(number, done)

    def done() -> None:
        nonlocal ended
        ended += 1
        reactor.callLater(0, start_next)
        if ended == times:
            finished.callback(None)

    for _ in range(min(IN_FLIGHT, times)):
        start_next()
    await finished


async def measure(reactor: Any, path: str, times: int) -> None:
    """Print a line for each kind of call."""
    state = State(reactor, path)
    state.client.start()
    while not state.client.up:
        await deferLater(reactor, 0.01)
    print(processor())
    for name in ("lease", "miss", "store", "hit"):
        before, own, began = _numbers(path), _own_seconds(), time.monotonic()
        await repeated(reactor, getattr(state, name), times)
        elapsed, used = time.monotonic() - began, _own_seconds() - own
        after = _numbers(path)

        each = {key: (after[key] - before[key]) / times for key in after if key in before}
        cpu = each["used_cpu_user"] + each["used_cpu_sys"]
        sent, back = each["total_net_input_bytes"], each["total_net_output_bytes"]
        print(
            f"{name:6} {times / elapsed:7,.0f}/s   CPU time: Redis {cpu * 1e6:5.1f} us, this "
            f"process {used / times * 1e6:5.1f} us   bytes: to Redis {sent:5,.0f}, "
            f"back {back:5,.0f}, memory {each['used_memory']:5,.0f}"
        )
    if state.unexpected or not state.client.up:
        raise Failed(f"{state.unexpected} answers were not those expected")
    state.client.stop()


def _own_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def main(reactor: Any, times: int) -> None:
    with redis_server() as (path, _):
        await measure(reactor, path, times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=5000)
    given = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, given.times)))
