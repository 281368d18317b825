"""A world: clients, the pipeline and upstreams, who act in the order that a seed draws."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogEvent

from goproxyai.cache.store import Store
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.response import ResponseReceiver
from goproxyai.proxy.handler import ProxyHandler
from goproxyai.proxy.request_plan import ProxyOptions
from goproxyai.proxy.upstreams import Upstream, Upstreams
from goproxyai.telemetry.access_log import AccessLog, Event
from goproxyai.telemetry.counters import Counters
from goproxyai.upstream.breaker import Breaker
from tests.simulation.checks import check, check_now, check_step
from tests.simulation.clients import Client
from tests.simulation.messages import Wrong
from tests.simulation.plans import COMPLETIONS, RETRY_STATUS, Ask, Plan, a_plan, an_ask
from tests.simulation.upstreams import Asked

MOST_ROUNDS = 20_000
"""In which everything must have come to an end."""


class _Route:
    """To an upstream."""

    def head(self, method: bytes, target: bytes) -> bytes:
        return b"%b %b\r\n" % (method, target)


class _Open:
    """An admission that limits nobody."""

    def client(self, exchange: Exchange) -> str:
        return "client"

    def wait(self, client: str) -> float:
        return 0.0


class _Sending:
    """The daemon's client, whose requests come upstream without a way there."""

    pool = None

    def __init__(self, world: World) -> None:
        self._world = world

    def relay(
        self,
        route: Any,
        method: bytes,
        head: bytes,
        body: Any,
        framed: bool,
        receiver: ResponseReceiver,
    ) -> Asked:
        return Asked(self._world, receiver, head, body or b"")


class World:
    """What a seed makes.

    :ivar same: how likely upstream is to answer the same again; :ivar ok: to answer at all.
    :ivar slow: how many clients are.
    :ivar shared: whether credentials share what GETs are answered.
    :ivar failing: whether upstream has a bad time, in which it hardly answers.
    :ivar ending: whether nobody new comes, and all that is under way comes to its end.
    :ivar epoch: how often the cache was emptied; upstream answers otherwise in each.
    :ivar asked: what came upstream; :ivar tries: of it, what each receiver sent.
    """

    def __init__(self, seed: int) -> None:
        chance = self.chance = Random(seed)
        self.clock = Clock()
        self.clock.advance(1000)
        self.store = Store(chance.choice([15_000, 40_000, 200_000]), chance.choice([0, 50, 50]))
        self.same = chance.choice([1, 1, 0.8])
        self.ok = chance.choice([0.8, 0.95, 0.5])
        self.slow = chance.choice([0, 0.3, 0.7, 1])
        self.shared = chance.random() < 0.4
        self.failing = self.ending = False
        self.exchanges = self.epoch = 0
        self.events: list[Event] = []
        self.failures: list[LogEvent] = []
        self.asked: list[Asked] = []
        self.tries: dict[ResponseReceiver, list[Asked]] = {}
        self.clients: list[Client] = []
        self._there: list[Client] = []
        self._open: list[Asked] = []
        self._most = chance.choice([2, 5, 15, 40])
        targets = self.targets = [b"/v1/models/%d" % n for n in range(chance.choice([1, 2, 4]))]
        self.plans: dict[bytes, Plan] = {name: a_plan(chance) for name in (*targets, COMPLETIONS)}
        self.counters = Counters()
        self.log = AccessLog(
            self.clock, self.counters, lambda received, _: self.events.extend(received)
        )
        self.relay = self._relay()

    def _relay(self) -> ProxyHandler:
        chance, route = self.chance, _Route()
        share = chance.choice([0, 0, 0.7])
        upstreams = tuple(
            Upstream(rank, route, b"", "", Breaker(share))  # type: ignore[arg-type]
            for rank in range(chance.choice([1, 1, 2]))
        )
        terms = ProxyOptions(
            upstreams[0],
            ("models",) if self.shared else (),
            chance.choice(["deterministic", "all"]),
            chance.choice([0.5, 2.0, 30.0]),
            100.0,
            chance.choice([frozenset(), RETRY_STATUS]),
        )
        admission, client = _Open(), _Sending(self)
        return ProxyHandler(
            self.clock, Upstreams(upstreams), terms, client, admission,  # type: ignore[arg-type]
            self.store, self.counters, self.log,
        )  # fmt: skip

    def observe(self, event: LogEvent) -> None:
        """Note a logged failure: there must be none."""
        if event.get("log_failure") is not None:
            self.failures.append(event)

    def comes_upstream(self, asked: Asked) -> None:
        """Note what was just asked."""
        self.asked.append(asked)
        self._open.append(asked)

    def there(self) -> list[Client]:
        """Of whom something may come still; of whom nothing may, nothing ever will."""
        self._there = [client for client in self._there if client.there]
        return self._there

    def open(self) -> list[Asked]:
        """What was asked, and is not done; what is done stays so."""
        self._open = [asked for asked in self._open if not asked.done]
        return self._open

    def clear(self) -> None:
        """Empty the cache: what was asked before is outdated."""
        self.store.clear()
        self.epoch += 1

    # By turns.

    def run(self) -> None:
        """Let all of it happen, and judge it.

        :raises Wrong: where something is not as it must be.
        """
        for _ in range(self.chance.choice([100, 400, 1500])):
            self._turn(self.chance.random())
            check_now(self)
        self.ending, self.failing = True, False
        for _ in range(MOST_ROUNDS):
            if not self._settle():
                break
        else:
            raise Wrong("it comes to no end")
        self.log.flush()
        check(self)

    def _turn(self, drawn: float) -> None:
        chance = self.chance
        if drawn < 0.2:
            if len(self.there()) < self._most:
                self._come()
        elif drawn < 0.6:
            ready = [asked for asked in self.open() if asked.ready]
            if ready:
                self._step(chance.choice(ready))
        elif drawn < 0.965:
            there = self.there()
            client = chance.choice(there) if there else None
            if client is not None and drawn < 0.945:
                client.act()
            elif client is not None:
                client.leave()
        elif drawn < 0.97:
            self.failing = not self.failing
        else:
            self.clock.advance(chance.choice([0.001, 0.1, 1.0, 5.0]))

    def _come(self) -> None:
        chance = self.chance
        asks: list[Ask | None] = [
            None if chance.random() < 0.03 else an_ask(chance, self.targets)
            for _ in range(chance.choice([1, 1, 2, 5]))
        ]
        client = Client(self, asks)
        self.clients.append(client)
        self._there.append(client)
        client.advance()

    def _step(self, asked: Asked) -> None:
        check_step(self, asked)
        asked.step()

    def _settle(self) -> bool:
        """Bring what is under way nearer to its end; says whether anything was."""
        clients = [client for client in self.clients if client.ready]
        for client in clients:
            client.act()
        upstream = [asked for asked in self.open() if asked.ready]
        for asked in upstream:
            if asked.ready:
                self._step(asked)
        if clients or upstream:
            return True
        waiting = bool(self.clock.getDelayedCalls())
        if waiting:
            self.clock.advance(5)
        return waiting
