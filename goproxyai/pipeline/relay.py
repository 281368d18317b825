"""The steps, joined: what becomes of a request under ``/v1``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from goproxyai.counters import Counters
from goproxyai.egress.relay import RelayClient
from goproxyai.http11.exchange import Exchange
from goproxyai.pipeline import respond
from goproxyai.pipeline.admit import Admission
from goproxyai.pipeline.forward import Forward
from goproxyai.pipeline.log import AccessLog
from goproxyai.pipeline.lookup import MOST_KEYED, Lookup
from goproxyai.pipeline.notes import notes_on
from goproxyai.policy.buckets import rate_limit_headers
from goproxyai.policy.store import Store
from goproxyai.problems import Problem

P = ParamSpec("P")
_log = Logger(namespace="goproxyai.relay")


class Relay:
    """Takes exchanges through the steps.

    :ivar base: upstream's origin and base path; a target is appended as it is.
    :ivar store: ``None`` where the cache is turned off.
    """

    def __init__(
        self,
        clock: IReactorTime,
        base: bytes,
        client: RelayClient,
        admission: Admission,
        store: Store | None,
        counters: Counters,
        log: AccessLog,
    ) -> None:
        self.seconds = clock.seconds
        self.base = base
        self.client = client
        self.admission = admission
        self.store = store
        self.counters = counters
        self.log = log
        self.lookup = Lookup(store, clock.seconds)

    def handle(self, exchange: Exchange) -> None:
        """See to it that *exchange* is answered."""
        client = self.admission.client(exchange)
        self.guarded(self._admit, exchange, client)

    def guarded(
        self,
        step: Callable[Concatenate[Exchange, str, P], None],
        exchange: Exchange,
        client: str,
        *more: P.args,
        **named: P.kwargs,
    ) -> None:
        """Take *step*; what it raises becomes the answer."""
        try:
            step(exchange, client, *more, **named)
        except Problem as problem:
            self.refuse(exchange, client, problem)
        except Exception:
            _log.failure("a defect while handling a request")
            self._break(exchange, client)

    def refuse(self, exchange: Exchange, client: str, problem: Problem) -> None:
        """Answer with an error of the proxy's own."""
        respond.problem(exchange, problem)
        self.log.over(exchange, client, "-", code=problem.code, detail=problem.detail)

    def _break(self, exchange: Exchange, client: str) -> None:
        if exchange.over:
            return
        if exchange.answering:
            exchange.abort()
            self.log.over(exchange, client, "-", code="internal_error", ended="cut")
        else:
            message = "The proxy failed to handle this request; see its log."
            self.refuse(exchange, client, Problem("internal_error", message))

    def _admit(self, exchange: Exchange, client: str) -> None:
        wait = self.admission.wait(client)
        if wait:
            self.counters.limited += 1
            respond.limited(exchange, rate_limit_headers(self.admission.per_minute, wait))
            self.log.over(exchange, client, "-")
            return
        if notes_on(exchange).looped:
            raise Problem(
                "loop_detected",
                "This request has passed through goproxyai already: OPENAI_API_URL or PROXY_URL "
                "leads back to the proxy itself.",
            )
        reason = self.lookup.bypass(exchange)
        if reason is not None:
            self.counters.bypasses += 1
            Forward(self, exchange, client, None, reason).start()
        elif exchange.body.complete:
            self.look_up(exchange, client, exchange.body.whole())
        else:
            _Reading(self, exchange, client).start()

    def look_up(self, exchange: Exchange, client: str, body: bytes | None) -> None:
        """Answer from the cache, or forward; *body* is ``None`` where it is too large for a key."""
        if body is None:
            self.counters.bypasses += 1
            Forward(self, exchange, client, None, "size").start()
            return
        verdict = self.lookup.find(exchange, body)
        entry = verdict.entry
        if entry is None:
            self.counters.misses += 1
            Forward(self, exchange, client, verdict, verdict.reason).start()
            return
        self.counters.hits += 1
        replay = respond.hit(exchange, entry, self.seconds())
        if replay is None:
            self.log.over(exchange, client, "HIT")
        else:
            _Replaying(self, exchange, client).start(replay)


class _Waiting:
    """Listens to an exchange that is neither forwarded nor over; ends with one event."""

    cache = "-"

    def __init__(self, relay: Relay, exchange: Exchange, client: str) -> None:
        self._relay = relay
        self._exchange = exchange
        self._client = client
        exchange.listener = self

    def client_gone(self) -> None:
        """The client left."""
        self._relay.log.over(self._exchange, self._client, self.cache, ended="client_gone")

    def request_failed(self, problem: Problem) -> None:
        """The rest of the request broke the rules."""
        self._relay.refuse(self._exchange, self._client, problem)


class _Reading(_Waiting):
    """Reads a body whole that a key is to be made of."""

    def start(self) -> None:
        self._exchange.body.collect(MOST_KEYED, self._read)

    def _read(self, body: bytes | None) -> None:
        relay, exchange, client = self._relay, self._exchange, self._client
        exchange.listener = None
        relay.guarded(relay.look_up, exchange, client, body)


class _Replaying(_Waiting):
    """Watches over a large stored answer that is written as the client takes it."""

    cache = "HIT"

    def start(self, replay: respond.Replay) -> None:
        replay.start(self._done)

    def _done(self) -> None:
        self._relay.log.over(self._exchange, self._client, self.cache)
