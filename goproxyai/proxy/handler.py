"""The path of a request under a relayed prefix: admit, plan, look up, act.

1. :mod:`.admission` finds the client's address and takes a token.
2. :mod:`.request_plan` derives what the head decides.
3. :mod:`.cache_lookup` looks for an entry, unless the plan bypasses the cache.
4. A miss is looked up in the second level, if there is one (:mod:`.shared_look_ups`).
5. A hit is answered by :mod:`.replay`. A miss joins or starts a :mod:`.single_flight` where
   identical requests may share, and is otherwise forwarded alone by :mod:`.forward`.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from twisted.python.failure import Failure

from goproxyai.cache.coalescing import is_deterministic
from goproxyai.cache.writes import asks_to_store
from goproxyai.errors import ProxyError, out_of_memory
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_body import SMALL_BODY_BYTES
from goproxyai.limits.token_buckets import rate_limit_headers
from goproxyai.messages.headers import MAX_INSTANCES
from goproxyai.messages.websocket import UPGRADE_HEADERS
from goproxyai.proxy.admission import Admission
from goproxyai.proxy.cache_lookup import MAX_KEYED_BODY_BYTES, CacheMiss, only_if_cached
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.error_response import fail_exchange, proxy_error_for, send_rate_limited
from goproxyai.proxy.forward import Forward
from goproxyai.proxy.pending_admission import PendingAdmission
from goproxyai.proxy.replay import answer_hit
from goproxyai.proxy.request_plan import RequestPlan, plan_for
from goproxyai.proxy.shared_look_ups import SharedLookUps, WaitingRequest
from goproxyai.proxy.single_flight import SingleFlight
from goproxyai.state.second_level import Claim
from goproxyai.telemetry.outcome import Ending, RequestOutcome


class ProxyHandler:
    """Answers the exchanges of relayed requests.

    :ivar single_flight: the upstream requests that identical requests may join.
    """

    def __init__(self, context: ProxyContext, admission: Admission) -> None:
        self._context = context
        self._admission = admission
        self.single_flight = SingleFlight(context)
        second_level = context.shared.second_level
        self._shared_look_ups: SharedLookUps | None = None
        if second_level is not None:
            self._shared_look_ups = SharedLookUps(context, second_level)

    def handle(self, exchange: Exchange, wait: float | None = None) -> None:
        """Answer *exchange*, now or later.

        :param wait: the decision of the rate limit, if it has been made: 0.0 or seconds.
        """
        context, admission = self._context, self._admission
        client = admission.client(exchange)
        try:
            if wait is None:
                if context.access_log.tracer is not None:
                    exchange.trace = context.access_log.tracer.begin(exchange)
                wait = admission.take_token(client)
            if wait:
                self._limit(exchange, client, wait)
                return
            plan = plan_for(exchange, context.options.current)
            if plan.is_refused:
                raise refusal(plan)
            if context.memory.is_full:
                raise out_of_memory()
            body = exchange.body
            if body.complete and plan.bypass_reason is None:
                whole = body.whole()
                self._look_up(exchange, client, plan, whole, plan.key(whole))
                return
            reason = context.lookup.bypass_reason(plan, exchange)
            if reason is None and context.memory.is_tight and not body.complete:
                reason = "memory"
            if reason is None:
                BodyCollection(self, exchange, client, plan).start()
            else:
                self._bypass(exchange, client, plan, reason)
        except Exception:
            self.fail(exchange, client, proxy_error_for(Failure()))

    def _limit(self, exchange: Exchange, client: str, wait: float) -> None:
        """Refuse *exchange*, or handle it later, when the rate limit has decided."""
        if wait < 0:
            PendingAdmission(
                exchange,
                partial(self.handle, exchange),
                partial(self.client_gone, exchange, client),
                partial(self.fail, exchange, client),
            ).start(self._admission, client)
            return
        context = self._context
        context.counters.limited += 1
        send_rate_limited(exchange, rate_limit_headers(self._admission.per_minute, wait))
        context.access_log.record(exchange, client, RequestOutcome())

    def body_collected(
        self, exchange: Exchange, client: str, plan: RequestPlan, body: bytes | None, key: bytes
    ) -> None:
        """Go on with *exchange* when its body is complete.

        :param plan: that *key* was made with; a reload may have changed the plan.
        :param body: ``None`` if the body is too large for a key, or the memory does not suffice.
        """
        context = self._context
        try:
            if exchange.trace is not None:
                exchange.trace.read(context.seconds(), body)
            if plan.options is not context.options.current:
                plan = plan_for(exchange, context.options.current)
                key = b"" if body is None else plan.key(body)
            if body is None or plan.bypass_reason is not None:
                too_large = exchange.body.received > MAX_KEYED_BODY_BYTES
                reason = plan.bypass_reason or ("size" if too_large else "memory")
                self._bypass(exchange, client, plan, reason)
            else:
                self._look_up(exchange, client, plan, body, key)
        except Exception:
            self.fail(exchange, client, proxy_error_for(Failure()))

    def fail(self, exchange: Exchange, client: str, error: ProxyError) -> None:
        """Answer with one of the proxy's own errors, or break off a response that has begun."""
        if exchange.over:
            return
        ending = fail_exchange(exchange, error)
        outcome = RequestOutcome(code=error.code, detail=error.detail, ending=ending)
        self._context.access_log.record(exchange, client, outcome)

    def client_gone(self, exchange: Exchange, client: str) -> None:
        """Record that the client left before its request was complete."""
        self._context.access_log.record(exchange, client, RequestOutcome(ending=Ending.CLIENT_GONE))

    def _bypass(self, exchange: Exchange, client: str, plan: RequestPlan, reason: str) -> None:
        if plan.is_handshake and exchange.body.length != 0:
            raise ProxyError("bad_request", "A WebSocket handshake has no body; send none.")
        self._context.counters.bypass_reasons[reason] += 1
        if plan.bypass_field:
            self._context.bypass_warning.count(plan.bypass_field)
        written = plan.written_owners(exchange.body)
        Forward(self._context, exchange, client, plan, None, reason, written=written).start()

    def _look_up(
        self, exchange: Exchange, client: str, plan: RequestPlan, body: bytes, key: bytes
    ) -> None:
        """Answer from the cache, join a flight, or forward.

        :raises ProxyError: ``only_if_cached``.
        """
        context = self._context
        if plan.body_decides:
            reason = context.lookup.state_bypass(plan, body)
            if reason is not None:
                self._bypass(exchange, client, plan, reason)
                return
        found = context.lookup.find(plan, key, context.seconds())
        if not isinstance(found, CacheMiss):
            context.counters.hits += 1
            if len(body) > SMALL_BODY_BYTES:
                exchange.release_body()  # the client may take long to read the response
            answer_hit(context, exchange, client, found, plan.replays_timing)
            return
        if plan.directives.only_if_cached:
            self._look_up_elsewhere(exchange, client, found, body, coalesces=False)
            return
        if plan.stores_by_default is not None and asks_to_store(body, plan.stores_by_default):
            self._bypass(exchange, client, plan, "store")  # after the look-up: a hit costs nothing
            return
        coalesces = plan.coalesces
        if coalesces is None:
            coalesces = is_deterministic(body)
        if found.reason == "request":
            coalesces = False
        if self._shared_look_ups is not None and not (
            coalesces and self.single_flight.joinable(found)
        ):
            claim = self._shared_look_ups.claim_at_once(found, coalesces)
            if claim is None:
                self._look_up_elsewhere(exchange, client, found, body, coalesces)
            else:
                self._go_upstream_with(exchange, client, found, coalesces, claim)
            return
        self._go_upstream(exchange, client, found, coalesces)

    def _go_upstream_with(
        self, exchange: Exchange, client: str, miss: CacheMiss, coalesces: bool, claim: Claim
    ) -> None:
        """Start a flight that has the exclusive *claim*, or forward with a claim that is not."""
        if not coalesces:
            self._go_upstream(exchange, client, miss.with_claim(claim), False)
            return
        is_taken = False
        try:
            is_taken = self._go_upstream(exchange, client, miss, True, claim)
        finally:
            if not is_taken:
                claim.give_up()

    def _look_up_elsewhere(
        self, exchange: Exchange, client: str, miss: CacheMiss, body: bytes, coalesces: bool
    ) -> None:
        """Look a miss of this process up in the second level."""
        assert self._shared_look_ups is not None, "the miss may be looked up elsewhere"
        request = WaitingRequest(self, exchange, client, miss, body, coalesces)
        self._shared_look_ups.start(request)

    def looked_up(self, request: WaitingRequest, claim: Claim | None) -> bool:
        """Go on with a request that was looked up in the second level; see :class:`.LookUpOwner`.

        :raises ProxyError: ``only_if_cached``.
        """
        context = self._context
        exchange, client, miss, body = request.exchange, request.client, request.miss, request.body
        plan = miss.plan
        if plan.options is not context.options.current:
            self.body_collected(exchange, client, plan, body, miss.key)
            return False
        found = context.lookup.find(plan, miss.key, context.seconds())
        if not isinstance(found, CacheMiss):
            context.counters.hits += 1
            exchange.release_body()
            answer_hit(context, exchange, client, found, plan.replays_timing)
            return False
        if plan.directives.only_if_cached:
            raise only_if_cached()
        coalesces = request.coalesces and found.reason != "request"
        if not request.coalesces:
            found = found.with_claim(claim)
        return self._go_upstream(exchange, client, found, coalesces, claim)

    def _go_upstream(
        self,
        exchange: Exchange,
        client: str,
        miss: CacheMiss,
        coalesces: bool,
        exclusive: Claim | None = None,
    ) -> bool:
        """Join a flight, start one, or forward; return whether a flight was started.

        :param exclusive: a claim that only a flight may have.
        """
        context, counters = self._context, self._context.counters
        if not coalesces:
            counters.misses += 1
            Forward(context, exchange, client, miss.plan, miss, miss.reason).start()
            return False
        flight = self.single_flight.joinable(miss)
        if flight is not None:
            counters.coalesced += 1
            flight.subscribe(exchange, client, miss)
            return False
        counters.misses += 1
        if exclusive is not None:
            miss = miss.with_claim(exclusive)
        self.single_flight.start(exchange, client, miss)
        return True


def refusal(plan: RequestPlan) -> ProxyError:
    """Return the error for a request that its plan refuses."""
    if plan.is_loop:
        return ProxyError(
            "loop_detected",
            "This request has passed through this goproxyai already, or through "
            f"{MAX_INSTANCES} instances of it: OPENAI_API_URL or PROXY_URL leads back to "
            "the proxy itself.",
        )
    return ProxyError(
        "upgrade_refused",
        "This proxy relays no WebSockets (UPGRADES=off); use the HTTP API of the endpoint.",
        UPGRADE_HEADERS,
    )


class BodyOwner(Protocol):
    """Goes on with a request when its body is collected."""

    def body_collected(
        self, exchange: Exchange, client: str, plan: RequestPlan, body: bytes | None, key: bytes
    ) -> None:
        """The body is complete; see :meth:`.ProxyHandler.body_collected`."""

    def client_gone(self, exchange: Exchange, client: str) -> None:
        """The client left before its request was complete."""

    def fail(self, exchange: Exchange, client: str, error: ProxyError) -> None:
        """The request has failed with *error*."""


class BodyCollection:
    """Collects a request body for the cache key, and listens to the exchange meanwhile.

    The key is made as the body is received: hashing 10 MB at once would take 8 ms.
    """

    def __init__(
        self, owner: BodyOwner, exchange: Exchange, client: str, plan: RequestPlan
    ) -> None:
        self._owner = owner
        self._exchange = exchange
        self._client = client
        self._plan = plan
        self._key = plan.start_key()

    def start(self) -> None:
        self._exchange.listener = self
        self._exchange.body.collect(MAX_KEYED_BODY_BYTES, self._collected, self._key.update)

    def _collected(self, body: bytes | None) -> None:
        self._exchange.listener = None
        owner, exchange = self._owner, self._exchange
        owner.body_collected(exchange, self._client, self._plan, body, self._key.digest())

    def client_gone(self) -> None:
        self._owner.client_gone(self._exchange, self._client)

    def request_failed(self, error: ProxyError) -> None:
        """The rest of the client's request is invalid, or the request is given up.

        A large body that is complete still waits for its own turn: its collection ends as well.
        """
        self._exchange.body.discard()
        self._owner.fail(self._exchange, self._client, error)
