"""The steps, joined: what becomes of a request under ``/v1``."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from goproxyai.counters import Counters
from goproxyai.egress.relay import RelayClient
from goproxyai.http11.exchange import Exchange
from goproxyai.pipeline import respond
from goproxyai.pipeline.admit import Admission
from goproxyai.pipeline.forward import Forward
from goproxyai.pipeline.log import AccessLog
from goproxyai.pipeline.lookup import MOST_KEYED, Lookup, Miss
from goproxyai.pipeline.notes import Notes
from goproxyai.policy.buckets import rate_limit_headers
from goproxyai.policy.store import Store
from goproxyai.problems import Problem
from goproxyai.settings import UpstreamURL

_log = Logger(namespace="goproxyai.relay")


class Relay:
    """Takes exchanges through the steps.

    :ivar route: to upstream.
    :ivar base: upstream's base path; a target is appended as it is.
    :ivar store: ``None`` where the cache is turned off.
    """

    def __init__(
        self,
        clock: IReactorTime,
        upstream: UpstreamURL,
        client: RelayClient,
        admission: Admission,
        store: Store | None,
        counters: Counters,
        log: AccessLog,
    ) -> None:
        self.seconds = clock.seconds
        self.route = client.route(upstream.origin)
        self.base = upstream.base_path
        self.client = client
        self.admission = admission
        self.store = store
        self.counters = counters
        self.log = log
        self.lookup = Lookup(store)

    def handle(self, exchange: Exchange) -> None:
        """See to it that *exchange* is answered."""
        client = self.admission.client(exchange)
        try:
            self._admit(exchange, client)
        except Exception as trouble:
            self._fail(exchange, client, trouble)

    def _fail(self, exchange: Exchange, client: str, trouble: Exception) -> None:
        """What a step raised becomes the answer."""
        if isinstance(trouble, Problem):
            self.refuse(exchange, client, trouble)
            return
        _log.failure("a defect while handling a request")
        if exchange.over:
            return
        if exchange.answering:
            exchange.abort()
            self.log.over(exchange, client, "-", code="internal_error", ended="cut")
        else:
            message = "The proxy failed to handle this request; see its log."
            self.refuse(exchange, client, Problem("internal_error", message))

    def refuse(self, exchange: Exchange, client: str, problem: Problem) -> None:
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
            raise Problem(
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
            notes = self._notes(exchange)
            if body is None:
                self._bypass(exchange, client, notes, "size")
            else:
                self._look_up(exchange, client, notes, body)
        except Exception as trouble:
            self._fail(exchange, client, trouble)

    def _notes(self, exchange: Exchange) -> Notes:
        """The notes on the head of *exchange*, made if there are none yet."""
        head = exchange.head
        notes: Notes | None = head.notes
        if notes is None:
            notes = head.notes = Notes(head, self.route, self.base)
        return notes

    def _bypass(self, exchange: Exchange, client: str, notes: Notes, reason: str) -> None:
        self.counters.bypasses += 1
        Forward(self, exchange, client, notes, None, reason).start()

    def _look_up(self, exchange: Exchange, client: str, notes: Notes, body: bytes) -> None:
        """Answer from the cache, or forward."""
        now = self.seconds()
        found = self.lookup.find(notes, exchange, body, now)
        if isinstance(found, Miss):
            self.counters.misses += 1
            Forward(self, exchange, client, notes, found, found.reason).start()
            return
        self.counters.hits += 1
        replay = respond.hit(exchange, found, now)
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
        self._exchange.listener = None
        self._relay.read(self._exchange, self._client, body)


class _Replaying(_Waiting):
    """Watches over a large stored answer that is written as the client takes it."""

    cache = "HIT"

    def start(self, replay: respond.Replay) -> None:
        replay.start(self._done)

    def _done(self) -> None:
        self._relay.log.over(self._exchange, self._client, self.cache)
