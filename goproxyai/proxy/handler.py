"""The steps, joined: what becomes of a request under ``/v1``."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from goproxyai.cache.coalescing import deterministic
from goproxyai.cache.store import Entry, Store
from goproxyai.egress.treq_client import RelayClient
from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.limits.token_buckets import rate_limit_headers
from goproxyai.proxy import replay as respond
from goproxyai.proxy.admission import Admission
from goproxyai.proxy.cache_lookup import MOST_KEYED, CacheLookup
from goproxyai.proxy.forward import Forward
from goproxyai.proxy.recorder import CacheMiss
from goproxyai.proxy.request_plan import ProxyOptions, RequestPlan
from goproxyai.proxy.single_flight import SingleFlight
from goproxyai.proxy.subscriber import Subscriber
from goproxyai.proxy.upstreams import Upstreams
from goproxyai.telemetry.access_log import AccessLog
from goproxyai.telemetry.counters import Counters
from goproxyai.upstream.retries import Budget
from goproxyai.usage.usage import Usage

_log = Logger(namespace="goproxyai.relay")


class ProxyHandler:
    """Takes exchanges through the steps.

    :ivar upstreams: whom to ask.
    :ivar terms: what holds for all requests; others may be put in their place.
    :ivar budget: of all retries.
    :ivar pool: the connections to upstreams.
    :ivar store: empty where the cache is turned off.
    :ivar flights: the upstream requests under way that others may share, by key; each has a client
        that waits for it, so there are no more of them than connections.
    """

    def __init__(
        self,
        clock: IReactorTime,
        upstreams: Upstreams,
        terms: ProxyOptions,
        client: RelayClient,
        admission: Admission,
        store: Store,
        counters: Counters,
        log: AccessLog,
    ) -> None:
        self.clock = clock
        self.seconds = clock.seconds
        self.upstreams = upstreams
        self.terms = terms
        self.budget = Budget()
        self.client = client
        self.admission = admission
        self.store = store
        self.counters = counters
        self.log = log
        self.pool = client.pool
        self.lookup = CacheLookup(store)
        self.flights: dict[bytes, SingleFlight] = {}

    def handle(self, exchange: Exchange) -> None:
        """See to it that *exchange* is answered."""
        client = self.admission.client(exchange)
        try:
            if self.log.tracer is not None:
                exchange.trace = self.log.tracer.begin(exchange)
            self._admit(exchange, client)
        except Exception as trouble:
            self._fail(exchange, client, trouble)

    def _fail(self, exchange: Exchange, client: str, trouble: Exception) -> None:
        """What a step raised becomes the answer."""
        if isinstance(trouble, ProxyError):
            self.refuse(exchange, client, trouble)
            return
        _log.failure("a defect while handling a request")
        if exchange.over:
            return
        if exchange.response_started:
            exchange.abort()
            self.log.over(exchange, client, "-", code="internal_error", ended="cut")
        else:
            message = "The proxy failed to handle this request; see its log."
            self.refuse(exchange, client, ProxyError("internal_error", message))

    def refuse(self, exchange: Exchange, client: str, problem: ProxyError) -> None:
        """Answer with an error of the proxy's own."""
        respond.problem(exchange, problem)
        self.log.over(exchange, client, "-", code=problem.code, detail=problem.detail)

    def _admit(self, exchange: Exchange, client: str) -> None:
        wait = self.admission.wait(client)
        if wait:
            self.counters.limited += 1
            respond.limited(exchange, rate_limit_headers(self.admission.per_minute, wait))
            self.log.over(exchange, client, "-")
            return
        notes = self._notes(exchange)
        if notes.looped:
            raise ProxyError(
                "loop_detected",
                "This request has passed through goproxyai already: OPENAI_API_URL or PROXY_URL "
                "leads back to the proxy itself.",
            )
        reason = self.lookup.bypass(notes, exchange)
        if reason is not None:
            self._bypass(exchange, client, notes, reason)
        elif exchange.body.complete:
            self._look_up(exchange, client, notes, exchange.body.whole())
        else:
            _Reading(self, exchange, client).start()

    def read(self, exchange: Exchange, client: str, body: bytes | None) -> None:
        """Go on with *exchange*, whose body is here, or ``None``: too large for a key."""
        try:
            if exchange.trace is not None:
                exchange.trace.read(self.seconds(), body)
            notes = self._notes(exchange)
            reason = "size" if body is None else notes.reason  # which other terms may have changed
            if body is None or reason is not None:
                self._bypass(exchange, client, notes, reason or "size")
            else:
                self._look_up(exchange, client, notes, body)
        except Exception as trouble:
            self._fail(exchange, client, trouble)

    def _notes(self, exchange: Exchange) -> RequestPlan:
        """The notes on the head of *exchange*, made if there are none yet by these terms."""
        head, terms = exchange.head, self.terms
        notes = head.plan
        if not isinstance(notes, RequestPlan) or notes.terms is not terms:
            notes = head.plan = RequestPlan(head, terms)
        return notes

    def _bypass(self, exchange: Exchange, client: str, notes: RequestPlan, reason: str) -> None:
        self.counters.bypasses += 1
        Forward(self, exchange, client, notes, None, reason).start()

    def _look_up(self, exchange: Exchange, client: str, notes: RequestPlan, body: bytes) -> None:
        """Answer from the cache, or with what is under way, or forward."""
        now = self.seconds()
        found = self.lookup.find(notes, body, now)
        if not isinstance(found, CacheMiss):
            self.counters.hits += 1
            replay: respond.Replay | None
            if found.pace and notes.paced:
                replay = respond.paced_hit(exchange, found, now, self.clock)
            else:
                replay = respond.hit(exchange, found, now)
            if replay is None:
                self.log.over(exchange, client, "HIT", bill=found if found.usage else None)
            else:
                _Replaying(self, exchange, client, "HIT", found).start(replay)
            return
        shares = notes.shares
        if shares is None:
            shares = deterministic(body)
        if not shares or found.reason == "request":
            self.counters.misses += 1
            self.forward(exchange, client, found)
            return
        flight = self.flights.get(found.key)
        if flight is not None and flight.takes(found):
            self.counters.coalesced += 1
            flight.subscribe(exchange, client, found)
        else:
            self.counters.misses += 1
            SingleFlight(self, exchange, found).start(client)

    def forward(self, exchange: Exchange, client: str, wanted: CacheMiss) -> None:
        """Ask upstream, for this one request."""
        Forward(self, exchange, client, wanted.notes, wanted, wanted.reason).start()

    def finish(
        self,
        rider: Subscriber,
        body: bytes,
        at: int,
        usage: Usage | None,
        upstream: tuple[float, bytes],
        done: Callable[[], None],
    ) -> None:
        """Write what is left of the answer of one who left its flight.

        :param at: the first byte of *body* that it has not got.
        :param usage: tokens of it, where it says so.
        :param upstream: its seconds, and its name for the request, for the log.
        :param done: called when it is written, or the client is gone.
        """
        replaying = _Replaying(self, rider.exchange, rider.client, rider.cache, done=done)
        replaying.usage, replaying.streamed = usage, rider.streams
        replaying.first_seconds, replaying.upstream = rider.first_seconds, upstream
        replaying.start(respond.Replay(rider.exchange, body, at))

    def stale(self, wanted: CacheMiss) -> Entry | None:
        """What there is to answer with when upstream fails."""
        return self.lookup.stale(wanted, self.seconds())

    def rescue(self, exchange: Exchange, client: str, entry: Entry, why: str) -> None:
        """Answer with what has expired.

        :param why: how upstream failed, for the log.
        """
        self.counters.rescues += 1
        replay = respond.hit(exchange, entry, self.seconds(), "stale-if-error")
        if replay is None:
            self.log.over(exchange, client, "STALE", detail=why, bill=entry)
        else:
            _Replaying(self, exchange, client, "STALE", entry, why).start(replay)


class _Waiting:
    """Listens to an exchange that is neither forwarded nor over; ends with one event."""

    cache = "-"

    def __init__(self, relay: ProxyHandler, exchange: Exchange, client: str) -> None:
        self._relay = relay
        self._exchange = exchange
        self._client = client
        exchange.listener = self

    def client_gone(self) -> None:
        """The client left."""
        self._relay.log.over(self._exchange, self._client, self.cache, ended="client_gone")

    def request_failed(self, problem: ProxyError) -> None:
        """The rest of the request broke the rules."""
        self._relay.refuse(self._exchange, self._client, problem)


class _Reading(_Waiting):
    """Reads a body whole that a key is to be made of."""

    def start(self) -> None:
        self._exchange.body.collect(MOST_KEYED, self._read)

    def _read(self, body: bytes | None) -> None:
        self._exchange.listener = None
        self._relay.read(self._exchange, self._client, body)


class _Replaying(_Waiting):
    """Watches over a stored answer that is written as the client takes it, or as it once came.

    :param entry: that is written, if it is one.
    :param cache: and *detail*: for the log.
    :param done: called at the end, however it comes.
    :ivar usage: tokens of the answer, where it says so.
    :ivar streamed: whether it is a stream of events.
    :ivar first_seconds: from the request to the first byte.
    :ivar upstream: seconds, and upstream's name for the request, where it was forwarded.
    """

    def __init__(
        self,
        relay: ProxyHandler,
        exchange: Exchange,
        client: str,
        cache: str,
        entry: Entry | None = None,
        detail: str = "",
        done: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(relay, exchange, client)
        self.cache = cache
        self._detail = detail
        self.usage = None if entry is None else entry.tokens()
        self.streamed = entry is not None and entry.stream
        self.first_seconds = relay.seconds() - exchange.began
        self.upstream = -1.0, b""
        self._then = done
        self._replay: respond.Replay | None = None

    def start(self, replay: respond.Replay) -> None:
        self._replay = replay
        self._relay.counters.open_streams += self.streamed
        replay.start(self._done)

    def client_gone(self) -> None:
        """The client left."""
        replay, self._replay = self._replay, None  # which knows us: no cycle is left
        if replay is not None:
            replay.stopProducing()
        self._note("client_gone", None)

    def _done(self) -> None:
        self._replay = None
        self._note("ok", self.usage)

    def _note(self, ended: str, usage: Usage | None) -> None:
        seconds, name = self.upstream
        self._relay.log.over(
            self._exchange, self._client, self.cache, "", self._detail, ended, seconds, name,
            self.first_seconds, usage,
        )  # fmt: skip
        self._relay.counters.open_streams -= self.streamed
        then, self._then = self._then, None
        if then is not None:
            then()
