"""``X-Proxy-Explain``: answers an operator with the fate of a request, instead of relaying it.

Nothing changes: no token is spent, no upstream and no other process is contacted, no entry is used,
evicted or dropped, nothing is counted but the request itself. So the answer is about this process:
a second level of the cache is not asked, and tokens may be leased to other processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from twisted.python.failure import Failure

from goproxyai.cache.coalescing import is_deterministic
from goproxyai.cache.entry import Entry
from goproxyai.cache.store import Store
from goproxyai.cache.writes import asks_to_store
from goproxyai.errors import ProxyError, json_bytes, out_of_memory
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_head import RequestHead
from goproxyai.limits.addresses import bucket_key
from goproxyai.proxy.admission import Admission
from goproxyai.proxy.cache_lookup import (
    MAX_KEYED_BODY_BYTES,
    CacheLookup,
    CacheMiss,
)
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.error_response import fail_exchange, proxy_error_for
from goproxyai.proxy.handler import BodyCollection, refusal
from goproxyai.proxy.request_plan import RequestPlan
from goproxyai.proxy.response_head import own_lines, own_status_line
from goproxyai.proxy.single_flight import SingleFlight
from goproxyai.telemetry.events import timestamp
from goproxyai.telemetry.outcome import Ending, RequestOutcome
from goproxyai.upstream.breaker import CircuitState

EXPLAIN_FIELD: Final = b"x-proxy-explain"
"""The request field. A request with it is not relayed, so that the field never goes upstream."""

EXPLAIN_TOKEN_FIELD: Final = b"proxy-authorization"
"""The field that has an operator's token. ``Authorization`` has the API key, which is part of the
cache key; ``Proxy-Authorization`` is for this hop (RFC 9110 §11.7.2) and is never forwarded."""


class _UnusedEntries:
    """A store in which a look-up has no effect: neither use nor removal.

    Implements what :class:`.CacheLookup` needs of a store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.get = store.peek
        self.generation = store.generation

    @property
    def stale_seconds(self) -> float:
        return self._store.stale_seconds


class Explainer:
    """Explains requests.

    :param wall: returns Unix seconds.
    """

    def __init__(
        self,
        context: ProxyContext,
        admission: Admission,
        single_flight: SingleFlight,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._context = context
        self._admission = admission
        self._single_flight = single_flight
        self._has_second_level = context.shared.second_level is not None
        entries = _UnusedEntries(context.store)
        self._lookup = CacheLookup(entries, is_first_level=self._has_second_level)
        self._wall = wall

    def explain(self, exchange: Exchange) -> None:
        """Answer *exchange*, whose client is an operator, now or when its body is complete."""
        context = self._context
        client = self._admission.client(exchange)
        if exchange.get(EXPLAIN_FIELD) != b"1":
            problem = "The header X-Proxy-Explain has another value than 1; send 1, or omit it."
            self.fail(exchange, client, ProxyError("bad_request", problem))
            return
        try:
            # The plan is not kept with the head: a request whose head has a plan is relayed.
            head = _without_field(exchange)
            plan = RequestPlan(head, context.options.current)
            plan = plan.for_values(head.values(head.headers))
            if plan.is_refused:
                raise refusal(plan)
            if context.memory.is_full:
                raise out_of_memory()
            reason = self._lookup.bypass_reason(plan, exchange)
            if reason is not None:
                self._answer(exchange, client, plan, self._bypass(plan, reason))
            else:
                BodyCollection(self, exchange, client, plan).start()
        except Exception:
            self._answer_error(exchange, client, proxy_error_for(Failure()))

    # What a body collection calls.

    def body_collected(
        self, exchange: Exchange, client: str, plan: RequestPlan, body: bytes | None, key: bytes
    ) -> None:
        """Answer when the body is complete.

        :param body: ``None`` if the body is too large for a key, or the memory does not suffice.
        """
        try:
            if body is None:
                too_large = exchange.body.received > MAX_KEYED_BODY_BYTES
                cache = self._bypass(plan, "size" if too_large else "memory")
            else:
                cache = self._look_up(plan, body, key)
            self._answer(exchange, client, plan, cache)
        except Exception:
            self._answer_error(exchange, client, proxy_error_for(Failure()))

    def client_gone(self, exchange: Exchange, client: str) -> None:
        self._context.access_log.record(exchange, client, RequestOutcome(ending=Ending.CLIENT_GONE))

    def fail(self, exchange: Exchange, client: str, error: ProxyError) -> None:
        """Answer with an error of the request itself, such as a malformed body."""
        if not exchange.over:
            ending = fail_exchange(exchange, error)
            outcome = RequestOutcome(code=error.code, detail=error.detail, ending=ending)
            self._context.access_log.record(exchange, client, outcome)

    # The parts of the answer.

    def _look_up(self, plan: RequestPlan, body: bytes, key: bytes) -> dict[str, Any]:
        """Return the outcome of the cache.

        :raises ProxyError: ``only_if_cached``.
        """
        if plan.body_decides:
            reason = self._lookup.state_bypass(plan, body)
            if reason is not None:
                return self._bypass(plan, reason)
        now = self._context.seconds()
        found = self._lookup.find(plan, key, now)
        if not isinstance(found, CacheMiss):
            return {"outcome": "hit", "key": key.hex(), **self._entry(found, now)}
        if plan.stores_by_default is not None and asks_to_store(body, plan.stores_by_default):
            return {**self._bypass(plan, "store"), "key": key.hex()}
        coalesces = is_deterministic(body) if plan.coalesces is None else plan.coalesces
        coalesces = coalesces and found.reason != "request"
        flight = self._single_flight.joinable(found) if coalesces else None
        return {
            "outcome": "miss",
            "reason": found.reason,
            "key": key.hex(),
            "may_be_in_second_level": self._has_second_level and found.reason != "request",
            "ttl_seconds": plan.ttl,
            "may_share_upstream_request": coalesces,
            "would_join_request_in_progress": flight is not None,
        }

    def _entry(self, entry: Entry, now: float) -> dict[str, Any]:
        return {
            "status": entry.status,
            "age_seconds": entry.age(now),
            "fresh_for_seconds": round(entry.expires_at - now, 3),
            "stored_at": timestamp(self._wall() - (now - entry.stored_at)),
        }

    def _bypass(self, plan: RequestPlan, reason: str) -> dict[str, Any]:
        cache = {"outcome": "bypass", "reason": reason}
        if plan.bypass_field:
            cache["header"] = plan.bypass_field.decode("latin-1")
        return cache

    def _rate_limit(self, client: str) -> dict[str, Any]:
        admission = self._admission
        left = admission.tokens(client)
        return {
            "per_minute": admission.per_minute,
            "tokens_left": None if left is None else left.tokens,
            "others_may_have_more": left is not None and not left.is_complete,
        }

    def _upstream(self) -> dict[str, Any] | None:
        """Return the upstream that the request would be sent to first, if there is one."""
        now = self._context.seconds()
        for upstream in self._context.upstreams.all:
            state = upstream.breaker.state(now)
            if state is not CircuitState.OPEN:
                proxy = upstream.route.proxy
                return {
                    "url": upstream.url,
                    "circuit": state.value,
                    "proxy": None if proxy is None else proxy.masked,
                }
        return None

    def _answer(
        self, exchange: Exchange, client: str, plan: RequestPlan, cache: dict[str, Any]
    ) -> None:
        document: dict[str, Any] = {
            "client": {"address": client, "limited_as": bucket_key(client)},
            "rate_limit": self._rate_limit(client),
            "cache": cache,
            "upstream": None,
        }
        if cache["outcome"] != "hit":
            document["upstream"] = self._upstream()
            document["websocket"] = plan.is_handshake
            if document["upstream"] is None:
                error = self._context.upstreams.refusal(self._context.seconds())
                document["error"] = _describe(error)
        self._send(exchange, client, document)

    def _answer_error(self, exchange: Exchange, client: str, error: ProxyError) -> None:
        """Answer that the request would be refused with *error*."""
        self._send(
            exchange,
            client,
            {
                "client": {"address": client, "limited_as": bucket_key(client)},
                "rate_limit": self._rate_limit(client),
                "cache": None,
                "upstream": None,
                "error": _describe(error),
            },
        )

    def _send(self, exchange: Exchange, client: str, document: dict[str, Any]) -> None:
        if exchange.over:
            return
        body = json_bytes({"explain": document})
        lines = own_lines(exchange.request_id, [(b"Cache-Control", b"no-store")])
        exchange.start_response(200, own_status_line(200) + lines, len(body))
        exchange.write(body, True)
        self._context.access_log.record(exchange, client, RequestOutcome(detail="explain"))


def _without_field(exchange: Exchange) -> RequestHead:
    """Return the head without :data:`EXPLAIN_FIELD`, which would bypass the cache."""
    head = exchange.head
    headers = [pair for pair in exchange.headers if pair[0].lower() != EXPLAIN_FIELD]
    return RequestHead(head.method, head.target, head.version, headers, head.keep_alive)


def _describe(error: ProxyError) -> dict[str, Any]:
    return {"status": error.status, "code": error.code, "message": error.message}
