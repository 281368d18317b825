"""Simulates the rate limit of several processes: what a client gets, and what the limit costs.

One client sends requests to processes that lease tokens. The processes and their grantor are those
of the service: :class:`.LeasedLimiter` and :class:`.Grantor` for workers, :class:`.RedisLimiter`
for machines. Simulated are time, the network with its delays and partitions, Redis, and the ends of
processes. A process that has a clock of its own runs too fast or too slow. Each run is
determined by its seed. ``python -m bench.lease_plot`` compares runs.

The same requests are sent to one process with one bucket, which is what the limit promises.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Protocol

import attrs
from twisted.internet.task import Clock

from bench.simulated_redis import SimulatedRedis
from goproxyai.limits.token_buckets import TokenBuckets
from goproxyai.state.leased_limiter import LeasedLimiter
from goproxyai.state.leases import UNDECIDED, Grantor, lease_size
from goproxyai.state.redis.limiter import RedisLimiter
from goproxyai.state.redis.names import Names
from goproxyai.state.refilled_buckets import RefilledBuckets
from goproxyai.state.shared_state import RateLimiter

CLIENT = "198.51.100.7"

QUIET_SECONDS = 3.0
"""Time without requests after which idle processes have given their tokens back."""


@attrs.frozen
class Plan:
    """One run.

    :ivar per_minute: the limit. :ivar processes: that share it.
    :ivar load: requests per second, as a multiple of the limit.
    :ivar burst_seconds: time with requests, which a pause of as long follows; 0 for no pauses.
    :ivar delay: seconds of a message to the grantor or back, on average.
    :ivar ends: seconds between two ends of a process; 0 for none.
    :ivar partition: seconds for which one process after the other is cut off, and then is not.
    :ivar skew: clocks of processes run faster or slower by up to this part.
    """

    per_minute: int = 600
    processes: int = 4
    load: float = 2.0
    seconds: float = 300.0
    burst_seconds: float = 20.0
    delay: float = 0.0002
    ends: float = 0.0
    partition: float = 0.0
    skew: float = 0.0
    seed: int = 1


class ProcessClock:
    """The clock of one process.

    :param rate: seconds of this clock in a second. :param offset: of its zero.
    """

    def __init__(self, clock: Clock, rate: float, offset: float) -> None:
        self._clock, self._rate, self._offset = clock, rate, offset

    def seconds(self) -> float:
        return self._clock.seconds() * self._rate + self._offset

    def callLater(  # noqa: N802  # Twisted calls it
        self, delay: float, call: Callable[..., object], *args: object
    ) -> Any:
        return self._clock.callLater(delay / self._rate, call, *args)


class Link:
    """The messages between a process and the grantor, in order.

    :ivar is_cut: messages do not arrive. :ivar held: those that will arrive after a cut.
    """

    def __init__(self, clock: Clock, random: Random, delay: float, loses: bool) -> None:
        self._clock, self._random, self._delay, self._loses = clock, random, delay, loses
        self._last = [0.0, 0.0]
        self.is_cut = False
        self.held: list[Callable[[], None]] = []

    def send(self, way: int, arrive: Callable[[], None]) -> None:
        """Send a message; *way* is 0 to the grantor, and 1 back."""
        at = self._clock.seconds() + self._random.uniform(0.5, 1.5) * self._delay
        self._last[way] = at = max(at, self._last[way])
        self._clock.callLater(at - self._clock.seconds(), self._arrive, arrive)

    def heal(self) -> None:
        self.is_cut = False
        held, self.held = self.held, []
        for arrive in held:
            arrive()

    def end(self) -> None:
        """Lose all messages from now on."""
        self.is_cut = self._loses = True
        self.held.clear()

    def _arrive(self, arrive: Callable[[], None]) -> None:
        if not self.is_cut:
            arrive()
        elif not self._loses:
            self.held.append(arrive)


class Service(Protocol):
    """Makes the limiters of the processes.

    :ivar loses: whether a cut loses messages. :ivar round_trips: questions to the grantor.
    """

    loses: bool

    @property
    def round_trips(self) -> int: ...

    def limiter(self, clock: Any, link: Link) -> RateLimiter: ...
    def stop(self) -> None: ...


class ParentService:
    """Workers that share the buckets of their parent."""

    loses = False

    def __init__(self, clock: Clock, plan: Plan) -> None:
        self._plan = plan
        self._buckets = RefilledBuckets(clock, plan.per_minute)
        self._buckets.start()
        self._grantor = Grantor(self._buckets.buckets, plan.processes)
        self._lease = lease_size(plan.per_minute)
        self.round_trips = 0

    def limiter(self, clock: Any, link: Link) -> RateLimiter:
        def ask(client: str, tokens: int) -> None:
            self.round_trips += 1
            link.send(0, lambda: answer(client, tokens))

        def answer(client: str, tokens: int) -> None:
            grant = self._grantor.grant(client, tokens, self._lease)
            link.send(1, lambda: limiter.granted(client, grant))

        def put_back(tokens: list[tuple[str, int]]) -> None:
            for client, number in tokens:
                link.send(0, partial(give, client, number))

        def give(client: str, number: int) -> None:
            self._grantor.put_back(client, number, self._lease)

        limiter = LeasedLimiter(clock, self._plan.per_minute, ask, put_back)
        return limiter

    def stop(self) -> None:
        self._buckets.stop()


class RedisService:
    """Machines that share the buckets of a Redis server, and have their own while cut off."""

    loses = True

    def __init__(self, clock: Clock, plan: Plan) -> None:
        self._plan = plan
        self.redis = SimulatedRedis(clock)
        self._names = Names("0123456789abcdef", "p:", bytes)

    @property
    def round_trips(self) -> int:
        return self.redis.leases

    def limiter(self, clock: Any, link: Link) -> RateLimiter:
        client = self.redis.client(link)
        fallback = RefilledBuckets(clock, self._plan.per_minute)
        limiter = RedisLimiter(
            clock,
            self._plan.per_minute,
            client,  # type: ignore[arg-type]  # has what the limiter uses
            self._names,
            fallback,
        )
        client.lost = limiter.lost
        return limiter

    def stop(self) -> None:
        """Do nothing: the simulated server has no timers."""


@attrs.define
class Found:
    """What a run has found.

    :ivar excess: the most that the client got above one bucket in any time.
    :ivar shortfall: the most that the client was refused and one process would have admitted, since
        the bucket was full.
    :ivar ends: of processes. :ivar waited: requests that waited for the grantor.
    """

    requests: int = 0
    admitted: int = 0
    admitted_by_one: int = 0
    round_trips: int = 0
    waited: int = 0
    ends: int = 0
    excess: float = 0.0
    shortfall: int = 0


class Simulation:
    """One run.

    :param service: makes the service of the plan.
    """

    def __init__(self, plan: Plan, service: Callable[[Clock, Plan], Service]) -> None:
        self._plan = plan
        self._clock = Clock()
        self._random = Random(plan.seed)
        self._service = service(self._clock, plan)
        self._links: list[Link] = []
        self._limiters: list[RateLimiter] = []
        self._one = TokenBuckets(plan.per_minute)
        self._refilled_at = self._asked_at = 0.0
        self._behind = 0
        self._admitted: list[float] = []
        self.found = Found()
        for _ in range(plan.processes):
            self._links.append(Link(self._clock, self._random, plan.delay, self._service.loses))
            self._limiters.append(self._start(len(self._limiters)))

    def run(self) -> Found:
        plan, random, clock, found = self._plan, self._random, self._clock, self.found
        if plan.ends:
            clock.callLater(plan.ends, self._end_a_process)
        if plan.partition:
            clock.callLater(plan.partition, self._cut, 0)
        per_second = plan.load * plan.per_minute / 60
        next_at = 1.0
        while next_at < plan.seconds:
            self._pass_time(next_at)
            self._request(random.randrange(plan.processes))
            next_at += random.expovariate(per_second)
            if plan.burst_seconds and (next_at // plan.burst_seconds) % 2:
                next_at = (next_at // plan.burst_seconds + 1) * plan.burst_seconds
        for link in self._links:
            link.heal()
        self._pass_time(clock.seconds() + QUIET_SECONDS)
        for limiter in self._limiters:
            limiter.stop()
        self._service.stop()
        found.round_trips = self._service.round_trips
        found.admitted = len(self._admitted)
        found.excess = excess(self._admitted, plan.per_minute)
        return found

    def _pass_time(self, until: float) -> None:
        """Let each timer run at its time: ``advance`` would set the time first."""
        clock = self._clock
        while clock.calls and clock.calls[0].getTime() <= until:
            clock.advance(max(0.0, clock.calls[0].getTime() - clock.seconds()))
        clock.advance(max(0.0, until - clock.seconds()))

    def _start(self, index: int) -> RateLimiter:
        plan, random = self._plan, self._random
        rate = 1 + plan.skew * random.uniform(-1, 1)
        offset = plan.skew * random.uniform(0, 1e6)
        own = ProcessClock(self._clock, rate, offset)
        limiter = self._service.limiter(own, self._links[index])
        limiter.start()
        return limiter

    def _request(self, index: int) -> None:
        found = self.found
        found.requests += 1
        by_one = self._ask_one()
        found.admitted_by_one += by_one
        self._behind += by_one
        limiter = self._limiters[index]
        decision = limiter.take(CLIENT)
        if decision == UNDECIDED:
            found.waited += 1
            limiter.when_decided(CLIENT, partial(self._decided, limiter))
        else:
            self._decided(limiter, decision)

    def _decided(self, limiter: RateLimiter, decision: float) -> None:
        if limiter not in self._limiters:  # the process has ended, and its connections with it
            self._behind -= 1
        elif decision == 0.0:
            self._behind -= 1
            self._admitted.append(self._clock.seconds())
        else:
            self.found.shortfall = max(self.found.shortfall, self._behind)

    def _ask_one(self) -> bool:
        """Send the request to the one process; return whether it is admitted."""
        now = self._clock.seconds()
        while self._refilled_at < now:
            step = min(1.0, now - self._refilled_at)
            self._one.refill(step)
            self._refilled_at += step
        if now > self._asked_at + QUIET_SECONDS and (
            self._one.available(CLIENT) == self._plan.per_minute
        ):
            self._behind = 0
        self._asked_at = now
        return not self._one.take(CLIENT)

    def _end_a_process(self) -> None:
        """End a process without a word, and start another one in its place."""
        plan, index = self._plan, self._random.randrange(self._plan.processes)
        self.found.ends += 1
        link = self._links[index]
        link.end()
        dead = self._limiters[index]
        self._links[index] = Link(self._clock, self._random, plan.delay, self._service.loses)
        self._limiters[index] = self._start(index)
        dead.stop()  # what it sends is lost
        self._clock.callLater(plan.ends, self._end_a_process)

    def _cut(self, index: int) -> None:
        self._links[index].is_cut = True
        self._clock.callLater(self._plan.partition, self._heal, index)

    def _heal(self, index: int) -> None:
        self._links[index].heal()
        following = (index + 1) % self._plan.processes
        self._clock.callLater(self._plan.partition, self._cut, following)


def excess(admitted: list[float], per_minute: int) -> float:
    """Return the most that was admitted above one bucket between any two times, at least 0.

    :param admitted: times in seconds, ascending.
    """
    most, lowest = 0.0, float("inf")
    for number, at in enumerate(admitted):
        level = number - at * per_minute / 60
        lowest = min(lowest, level)
        most = max(most, level - lowest + 1 - per_minute)
    return most
