"""One request to an upstream: sent, and sent again where a repetition is safe.

:mod:`goproxyai.upstream.retries` decides what may be repeated, :mod:`.upstreams` chooses the
upstream. The circuit breaker of the upstream is told here whether a response arrived. A request
that the client cancels counts neither as a success nor as a failure.
"""

from __future__ import annotations

from math import inf
from random import random
from typing import Protocol

from twisted.python.failure import Failure

from goproxyai.egress.agent import Cancellable
from goproxyai.errors import ProxyError
from goproxyai.http11.errors import Awaited, UpstreamTimeout
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_body import SMALL_BODY_BYTES, RequestBody
from goproxyai.http11.response import Response
from goproxyai.http11.sliced_body import MIN_SLICED_BYTES, SlicedBody
from goproxyai.limits.addresses import bucket_key
from goproxyai.limits.request_memory import HeldBytes
from goproxyai.messages.connect_errors import ConnectRefused, unsupported_schemes
from goproxyai.messages.headers import Headers
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.error_response import proxy_error_for
from goproxyai.proxy.request_plan import RequestPlan
from goproxyai.proxy.retry_state import SENDING, RetryState, RetryTimer
from goproxyai.proxy.upstream_failure import is_local_error, would_recur
from goproxyai.proxy.upstreams import Upstream
from goproxyai.reactor.deadlines import Deadline
from goproxyai.upstream.retries import (
    MAX_ATTEMPTS,
    RetryCause,
    backoff_seconds,
    may_retry,
    parse_retry_after,
)

STALE_IF_ERROR_STATUSES = frozenset((500, 502, 503, 504))
"""Statuses that a stale entry may replace (RFC 5861 §4)."""


class RequestOwner(Protocol):
    """Receives the result of an upstream request."""

    @property
    def ended(self) -> bool:
        """A response is no longer wanted."""

    def response_began(self, response: Response) -> None:
        """The head of the response to relay has arrived."""

    def interim_response(self, status: int, phrase: bytes, headers: Headers) -> None:
        """A 1xx response has arrived."""

    def upstream_failed(self, error: ProxyError) -> None:
        """The request failed, and is not repeated."""

    def answer_stale(self, cause: str) -> bool:
        """Answer with a stale entry in place of an upstream error; returns whether it did."""


class _NoOwner:
    """The owner of a request whose result is no longer wanted."""

    ended = True

    def response_began(self, response: Response) -> None:
        response.abort()

    def interim_response(self, status: int, phrase: bytes, headers: Headers) -> None:
        pass

    def upstream_failed(self, error: ProxyError) -> None:
        pass

    def answer_stale(self, cause: str) -> bool:
        return False


_NO_OWNER = _NoOwner()


class UpstreamRequest:
    """One request to an upstream; the :class:`.ResponseReceiver` of its attempts.

    :param exchange: the client's request that is forwarded.
    :param client: its address.
    :param body: a collected request body that outlives *exchange*, and that is held until the
        request ends; ``None`` where the exchange's own body is sent.
    :ivar body: the same.
    :ivar owner: receives the result.
    :ivar response: the response that the owner has received.
    :ivar sent_at: when the last attempt was sent, in reactor seconds.
    :ivar upstream_seconds: from then to the head of its response; -1.0 before, and where the
        response is replaced.
    :ivar attempts: how many were sent.
    :ivar unsent: no byte of any attempt has left the proxy.
    """

    __slots__ = (
        "_client", "_context", "_exchange", "_plan", "_retry", "_sending", "_trial",
        "_upstream", "attempts", "body", "owner", "response", "sent_at", "unsent",
        "upstream_seconds",
    )  # fmt: skip

    def __init__(
        self,
        context: ProxyContext,
        owner: RequestOwner,
        exchange: Exchange,
        client: str,
        plan: RequestPlan,
        body: HeldBytes | None = None,
    ) -> None:
        self._context = context
        self.owner: RequestOwner = owner
        self._exchange = exchange
        self._client = client
        self._plan = plan
        self.body: HeldBytes | None = None
        if body is not None:
            self.hold_body(body)
        self._sending: Cancellable | None = None
        self._retry: RetryState | None = None
        self._trial = False
        self._upstream: Upstream
        self.response: Response | None = None
        self.sent_at: float
        self.upstream_seconds = -1.0
        self.attempts = 0
        self.unsent = False

    def send(self, upstream: Upstream | None = None) -> None:
        """Send the request.

        :param upstream: the upstream of a repetition; ``None`` chooses one.
        :raises ProxyError: ``circuit_open``.
        """
        context, exchange = self._context, self._exchange
        self.sent_at = now = context.seconds()
        body: bytes | RequestBody | SlicedBody | None = self._body_to_send()
        if upstream is None:
            upstream = context.upstreams.first
            if not upstream.breaker.closed:
                complete = not isinstance(body, RequestBody)
                upstream = context.upstreams.choose(now, bucket_key(self._client), complete)
        self._trial = not (upstream.breaker.closed or isinstance(body, RequestBody))
        context.counters.forwarded += 1
        self._upstream = upstream
        self.attempts += 1
        if exchange.body.received > SMALL_BODY_BYTES:
            exchange.connection.memory_changed()  # the body is counted while the request is handled
        self._sending = SENDING
        plan = self._plan
        upstream_head = plan.upstream_head or plan.make_upstream_head(exchange.head)
        head = upstream_head.render(exchange.values, upstream)
        if exchange.trace is not None:
            head += exchange.trace.forwarded(now, upstream.url, body)
        if isinstance(body, bytes) and len(body) >= MIN_SLICED_BYTES:
            body = SlicedBody(body, context.clock)
        route = upstream.handshake_route if self._plan.is_handshake else upstream.route
        sending = context.client.relay(
            route, exchange.head.method, head, body, exchange.head.length_index >= 0, self
        )
        if self._sending is SENDING:  # else the attempt has failed within the call
            self._sending = sending

    def _body_to_send(self) -> bytes | RequestBody | None:
        """Return the body: bytes where it is complete, ``None`` where the request has none."""
        if self.body is not None:
            return self.body.data or (b"" if self._exchange.head.chunked else None)
        body = self._exchange.body
        if body.complete:
            return body.whole() or (b"" if self._exchange.head.chunked else None)
        assert isinstance(body, RequestBody), "a WholeBody is complete"
        return body

    def cancel(self) -> None:
        """Stop the request, or the response to it, which is no longer wanted."""
        self._stop_retrying()
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.cancel()
            if self._trial:
                self._upstream.breaker.release_trial()
        if self.response is not None:
            self.response.abort()

    def abandon(self) -> None:
        """Cancel, because all clients have left; upstream may still bill the response."""
        if self.response is None and self._plan.generates and self.attempts:
            self._context.counters.tokens.add_unknown("left")
        self.cancel()

    def release(self) -> None:
        """Forget the owner, which has ended; breaks a reference cycle."""
        self.owner = _NO_OWNER
        if self.body is not None:
            self.release_body()

    def hold_body(self, body: HeldBytes) -> None:
        """Keep *body*, which the exchange may release."""
        self.body = body
        body.hold()

    def release_body(self) -> None:
        """Release the body, which will not be sent again."""
        body, self.body = self.body, None
        if body is not None:
            body.release()

    def _stop_retrying(self) -> None:
        if self._retry is not None:
            self._retry.stop()

    # ResponseReceiver.

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        self.owner.interim_response(status, reason, headers)

    def may_switch_protocols(self) -> bool:
        return self._plan.is_handshake

    def answered(self, response: Response) -> None:
        self._sending = None
        if self._retry is not None:
            self._retry.stop()
        breaker = self._upstream.breaker
        if response.code == 407:  # the egress proxy refuses, and so the upstream is unreachable
            now = self._context.seconds()
            breaker.record_failure(now, bucket_key(self._client), self._trial)
        elif breaker.closed:
            breaker.successes += 1
        else:
            breaker.record_success()
        owner = self.owner
        if owner.ended:
            response.abort()
            return
        self.upstream_seconds = self._context.seconds() - self.sent_at
        try:
            if response.code >= 400 and self._replace_error(response):
                self.upstream_seconds = -1.0
                return
            if response.template.locations:
                response.localize(self._upstream.route.origin, self._upstream.base)
            self.response = response
            if self._exchange.body.received > SMALL_BODY_BYTES:
                self._exchange.release_body()
            owner.response_began(response)
        except Exception:  # a 407, or a defect: the client must not wait indefinitely
            response.abort()
            owner.upstream_failed(proxy_error_for(Failure()))

    def failed(self, reason: Failure, cause: RetryCause | None = None) -> None:
        self._sending = None
        self.unsent = cause is RetryCause.CONNECT and (self.attempts == 1 or self.unsent)
        now = self._context.seconds()
        if not self._is_upstream_failure(reason, cause):
            if self._trial:
                self._upstream.breaker.release_trial()
        else:
            key = bucket_key(self._client)
            self._upstream.breaker.record_failure(now, key, self._trial)
        if cause is None or not self._schedule_retry(cause, reason, now, None):
            self._give_up(reason)

    def _is_upstream_failure(self, reason: Failure, cause: RetryCause | None) -> bool:
        """Return whether the circuit breaker counts *reason*."""
        if reason.check(UpstreamTimeout) is not None and cause is None:
            # Otherwise the upstream has answered other requests meanwhile.
            return self._upstream.breaker.last_success_at < self.sent_at
        return not is_local_error(reason)

    def _give_up(self, reason: Failure) -> None:
        self._stop_retrying()
        self.owner.upstream_failed(proxy_error_for(reason))

    def _replace_error(self, response: Response) -> bool:
        """Retry after an error response, or answer with a stale entry instead.

        :returns: whether the error response is replaced, and must not go to the client.
        :raises ConnectRefused: for a 407, which asks the proxy and not the client for credentials.
        """
        if response.code == 407:
            challenges = response.fields.get(b"proxy-authenticate", b"")
            schemes = unsupported_schemes([challenges])
            raise ConnectRefused(response.code, response.phrase, schemes)
        context = self._context
        if response.code in context.options.current.retry_status:
            after = parse_retry_after(response.fields.get(b"retry-after"))
            if self._schedule_retry(RetryCause.STATUS, None, context.seconds(), after):
                response.abort()
                return True
        if response.code in STALE_IF_ERROR_STATUSES:
            if self.owner.answer_stale(f"upstream answered {response.code}"):
                response.abort()
                return True
        return False

    # Retries.

    def _schedule_retry(
        self, cause: RetryCause, reason: Failure | None, now: float, after: float | None
    ) -> bool:
        """Schedule another attempt where it is safe; returns whether it did.

        :param after: seconds that the upstream asked to wait.
        """
        context, exchange = self._context, self._exchange
        body = exchange.body
        replayable = not (isinstance(body, RequestBody) and body.streamed)
        if self.attempts >= MAX_ATTEMPTS or not may_retry(cause, exchange.method, replayable):
            return False
        retry = self._retry = self._retry or RetryState()
        recurs = cause is RetryCause.CONNECT and reason is not None and would_recur(reason)
        retry.not_before[self._upstream] = inf if recurs else now + (after or 0.0)
        upstream = context.upstreams.choose_for_retry(retry.not_before)
        if upstream is None:
            return False
        wait = 0.0
        if upstream in retry.not_before:
            rest = max(0.0, retry.not_before[upstream] - now)
            wait = backoff_seconds(self.attempts, random(), rest)  # noqa: S311  # spreads the load
        options = context.options.current
        post = exchange.method == b"POST"
        window = options.post_retry_seconds if post else options.retry_seconds
        left = exchange.started_at + window - now
        if wait > left or not context.budget.try_spend(context.counters.forwarded):
            return False
        context.counters.retries[cause.value] += 1
        if retry.deadline is None:
            retry.deadline = Deadline(context.clock, left, self._time_out)
        self._sending = RetryTimer(context.clock.callLater(wait, self._send_again, upstream))
        return True

    def _send_again(self, upstream: Upstream) -> None:
        self._sending = None
        now = self._context.seconds()
        try:
            client, complete = bucket_key(self._client), self._exchange.body.complete
            if not upstream.breaker.admit(now, client, complete):  # it opened during the wait
                upstream = self._context.upstreams.choose(now, client, complete)
            self.send(upstream)
        except Exception:  # circuit_open, or a defect: the client must not wait indefinitely
            self._give_up(Failure())

    def _time_out(self) -> None:
        self.cancel()
        self._give_up(Failure(UpstreamTimeout(Awaited.RESPONSE_HEAD)))
