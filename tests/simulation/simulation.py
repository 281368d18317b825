"""The simulation: the proxy's handler, its clients and upstreams, stepped in a random order."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.logger import LogEvent

from goproxyai.cache.replayed_entries import ReplayedEntries
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.response import ResponseReceiver
from goproxyai.limits.request_memory import RequestMemory
from goproxyai.proxy.bypass_warning import BypassWarning
from goproxyai.proxy.cache_lookup import CacheLookup
from goproxyai.proxy.context import OptionsHolder, ProxyContext
from goproxyai.proxy.handler import ProxyHandler
from goproxyai.proxy.open_tunnels import OpenTunnels
from goproxyai.proxy.request_plan import ProxyOptions
from goproxyai.proxy.upstreams import Upstream, Upstreams
from goproxyai.telemetry.access_log import AccessLog
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.events import Event
from goproxyai.upstream.breaker import CircuitBreaker
from goproxyai.upstream.retries import RetryBudget
from tests.simulation.clients import SimulatedClient
from tests.simulation.environment import Environment
from tests.simulation.messages import CheckFailed
from tests.simulation.plans import RETRY_STATUS, ClientRequest, draw_request
from tests.simulation.upstreams import Attempt

MAX_DRAIN_ROUNDS = 20_000
"""Rounds in which everything must end."""


class _Route:
    """A route to an upstream."""

    for_handshakes = None

    def head(self, method: bytes, target: bytes) -> bytes:
        return b"%b %b\r\n" % (method, target)


class _Admission:
    """An admission without limits."""

    def client(self, exchange: Exchange) -> str:
        return "client"

    def take_token(self, client: str) -> float:
        return 0.0


class _UpstreamClient:
    """The upstream client, whose requests become attempts of the simulation."""

    pool = None

    def __init__(self, attempt: Callable[[ResponseReceiver, bytes, bytes], Attempt]) -> None:
        self._attempt = attempt

    def relay(
        self,
        route: Any,
        method: bytes,
        head: bytes,
        body: Any,
        framed: bool,
        receiver: ResponseReceiver,
    ) -> Attempt:
        return self._attempt(receiver, head, body or b"")


class Simulation:
    """One run.

    :ivar exchanges: the number of requests that clients have sent.
    :ivar events: of the access log.
    :ivar failures: logged failures.
    :ivar attempts: all requests that reached an upstream.
    :ivar attempts_by_receiver: the same, by the receiver that waits for the answer.
    """

    def __init__(self, seed: int) -> None:
        environment = self.environment = Environment(seed)
        self.rng: Random = environment.rng
        self.exchanges = 0
        self.events: list[Event] = []
        self.failures: list[LogEvent] = []
        self.attempts: list[Attempt] = []
        self.attempts_by_receiver: dict[ResponseReceiver, list[Attempt]] = {}
        self.clients: list[SimulatedClient] = []
        self._live_clients: list[SimulatedClient] = []
        self._open_attempts: list[Attempt] = []
        self._before_step: Callable[[Attempt], None] = lambda attempt: None
        self.counters = Counters()
        self.log = AccessLog(
            environment.clock, self.counters, lambda events, _: self.events.extend(events)
        )
        self.handler = self._make_handler()

    def _make_handler(self) -> ProxyHandler:
        rng, route = self.rng, _Route()
        share = rng.choice([0, 0, 0.7])
        upstreams = tuple(
            Upstream(rank, route, b"", "", CircuitBreaker(share))  # type: ignore[arg-type]
            for rank in range(rng.choice([1, 1, 2]))
        )
        options = ProxyOptions(
            upstreams[0],
            b"instance",
            ("models",) if self.environment.shared else (),
            rng.choice(["deterministic", "all"]),
            rng.choice([0.5, 2.0, 30.0]),
            100.0,
            rng.choice([frozenset(), RETRY_STATUS]),
        )
        admission, client = _Admission(), _UpstreamClient(self._attempt)
        clock, store = self.environment.clock, self.environment.store
        memory = RequestMemory()
        context = ProxyContext(
            clock,
            clock.seconds,
            OptionsHolder(options),
            store,
            CacheLookup(store),
            Upstreams(upstreams),
            client,  # type: ignore[arg-type]
            RetryBudget(),
            self.counters,
            self.log,
            memory,
            ReplayedEntries(memory),
            BypassWarning(self.counters, clock.seconds()),
            OpenTunnels(3600.0),
        )
        return ProxyHandler(context, admission)  # type: ignore[arg-type]

    def observe(self, event: LogEvent) -> None:
        """Record a logged failure; none may occur."""
        if event.get("log_failure") is not None:
            self.failures.append(event)

    def _handle(self, exchange: Exchange) -> None:
        self.exchanges += 1
        self.handler.handle(exchange)

    def _attempt(self, receiver: ResponseReceiver, head: bytes, body: bytes) -> Attempt:
        attempt = Attempt(self.environment, len(self.attempts), receiver, head, body)
        self.attempts.append(attempt)
        self._open_attempts.append(attempt)
        self.attempts_by_receiver.setdefault(receiver, []).append(attempt)
        attempt.begin()
        return attempt

    def live_clients(self) -> list[SimulatedClient]:
        """Clients that may still do something; a client never becomes live again."""
        self._live_clients = [client for client in self._live_clients if client.live]
        return self._live_clients

    def open_attempts(self) -> list[Attempt]:
        """Attempts that have not ended; an attempt never becomes open again."""
        self._open_attempts = [attempt for attempt in self._open_attempts if not attempt.done]
        return self._open_attempts

    # The run.

    def run(self, after_turn: Callable[[], None], before_step: Callable[[Attempt], None]) -> None:
        """Run random turns, then let everything end.

        :param after_turn: called after each turn.
        :param before_step: called before each step of an attempt.
        :raises CheckFailed: if something does not end.
        """
        self._before_step = before_step
        for _ in range(self.rng.choice([100, 400, 1500])):
            self._turn(self.rng.random())
            after_turn()
        self.environment.draining, self.environment.failing = True, False
        for _ in range(MAX_DRAIN_ROUNDS):
            if not self._drain():
                break
        else:
            raise CheckFailed(f"not everything ends within {MAX_DRAIN_ROUNDS} rounds")
        self.log.flush()

    def _turn(self, drawn: float) -> None:
        rng = self.rng
        if drawn < 0.2:
            if len(self.live_clients()) < self.environment.max_clients:
                self._connect_client()
        elif drawn < 0.6:
            ready = [attempt for attempt in self.open_attempts() if attempt.ready]
            if ready:
                self._step(rng.choice(ready))
        elif drawn < 0.965:
            live = self.live_clients()
            client = rng.choice(live) if live else None
            if client is not None and drawn < 0.945:
                client.step()
            elif client is not None:
                client.leave()
        elif drawn < 0.97:
            self.environment.failing = not self.environment.failing
        else:
            self.environment.clock.advance(rng.choice([0.001, 0.1, 1.0, 5.0]))

    def _connect_client(self) -> None:
        rng = self.rng
        requests: list[ClientRequest | None] = [
            None if rng.random() < 0.03 else draw_request(rng, self.environment.targets)
            for _ in range(rng.choice([1, 1, 2, 5]))
        ]
        client = SimulatedClient(self.environment, requests, self._handle)
        self.clients.append(client)
        self._live_clients.append(client)
        client.advance()

    def _step(self, attempt: Attempt) -> None:
        self._before_step(attempt)
        attempt.step()

    def _drain(self) -> bool:
        """Step everything that can; returns whether anything was left to do."""
        clients = [client for client in self.clients if client.ready]
        for client in clients:
            client.step()
        attempts = [attempt for attempt in self.open_attempts() if attempt.ready]
        for attempt in attempts:
            if attempt.ready:
                self._step(attempt)
        if clients or attempts:
            return True
        waiting = bool(self.environment.clock.getDelayedCalls())
        if waiting:
            self.environment.clock.advance(5)
        return waiting
