"""Continue a response in the middle of its body, with an upstream request of its own.

A subscriber that single flight detaches has part of a body. The request is sent again; the part
that the client has is compared by digest and skipped. If it differs, as a model's completion may,
the client's connection is broken off: parts of different responses are never joined.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.python.failure import Failure

from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.response import Response
from goproxyai.limits.request_memory import HeldBytes
from goproxyai.messages.headers import Headers
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.error_response import fail_exchange, proxy_error_for
from goproxyai.proxy.request_plan import RequestPlan
from goproxyai.proxy.upstream_request import UpstreamRequest
from goproxyai.proxy.usage_meter import UsageMeter, open_meter
from goproxyai.telemetry.outcome import CacheOutcome, Ending, RequestOutcome

_EQUAL_FIELDS: Final = (b"content-length", b"content-type", b"content-encoding")
"""Fields that must be equal in the two responses."""


class ResumedForward:
    """The repeated request of a detached subscriber.

    :param first: the response whose beginning the client has.
    :param size: bytes of its body that the client has.
    :param digest: a hash object that was fed these bytes.
    :param first_byte_seconds: from the client's request to the first byte of its response.
    :param body: of the request; ``None`` where the exchange has it.
    :ivar ended: the outcome is recorded.
    """

    __slots__ = (
        "_actual", "_cache", "_client", "_context", "_digest", "_exchange", "_first",
        "_first_byte_seconds", "_meter", "_missing", "_plan", "_request", "ended",
    )  # fmt: skip

    def __init__(
        self,
        context: ProxyContext,
        exchange: Exchange,
        client: str,
        plan: RequestPlan,
        cache: CacheOutcome,
        first: Response,
        size: int,
        digest: Any,
        first_byte_seconds: float,
        body: HeldBytes | None,
    ) -> None:
        self._context = context
        self._exchange = exchange
        self._client = client
        self._plan = plan
        self._cache = cache
        self._first = first
        self._missing = size
        self._digest = digest
        self._actual = type(digest)()
        self._first_byte_seconds = first_byte_seconds
        self._request = UpstreamRequest(context, self, exchange, client, plan, body)
        self._meter: UsageMeter | None = None
        self.ended = False

    def start(self) -> None:
        """Send the request."""
        self._exchange.listener = self
        self._exchange.unregister_producer()
        try:
            self._request.send()
        except ProxyError as error:
            self.upstream_failed(error)

    # The upstream's side: RequestOwner.

    def interim_response(self, status: int, phrase: bytes, headers: Headers) -> None:
        """Drop it: the final response has begun."""

    def response_began(self, response: Response) -> None:
        fields, first = response.fields, self._first
        if response.code != first.code or any(
            fields.get(name) != first.fields.get(name) for name in _EQUAL_FIELDS
        ):
            self._refuse_different_response()
            return
        self._meter = open_meter(self._context, self._plan, response)
        self._exchange.register_producer(response)
        response.deliver(self)

    def answer_stale(self, cause: str) -> bool:
        return False

    def upstream_failed(self, error: ProxyError) -> None:
        if not self.ended:
            self._end(fail_exchange(self._exchange, error), error)

    def _refuse_different_response(self) -> None:
        self._request.cancel()
        self.upstream_failed(
            ProxyError(
                "upstream_protocol_error",
                "Upstream answered the repeated request differently in the middle of a response.",
                detail="the resumed response differs",
            )
        )

    # The response's body: BodySink.

    def received(self, data: bytes, ended: bool) -> None:
        if self._meter is not None and data:
            self._meter.add(data)
        if self._missing:
            repeated, data = data[: self._missing], data[self._missing :]
            self._actual.update(repeated)
            self._missing -= len(repeated)
            if self._missing:
                if ended:
                    self._refuse_different_response()
                return
            if self._actual.digest() != self._digest.digest():
                self._refuse_different_response()
                return
        if ended:
            self._complete(data)
        elif data:
            self._exchange.write(data)

    def closed(self) -> None:
        if self._missing:
            self._refuse_different_response()
        else:
            self._complete(b"")

    def broken(self, reason: Failure) -> None:
        self._exchange.abort()
        self._end(Ending.CUT, proxy_error_for(reason))

    def _complete(self, data: bytes) -> None:
        """The body is complete; *data* is the last of it.

        Its usage is counted but not logged: the client received one response, not two.
        """
        if self._meter is not None:
            self._meter.finish()
        self._exchange.write(data, True)
        self._end(Ending.COMPLETE, None)

    # The client's side: ExchangeListener.

    def client_gone(self) -> None:
        self._request.abandon()
        self._end(Ending.CLIENT_GONE, None)

    def request_failed(self, error: ProxyError) -> None:
        """The rest of the client's request is invalid."""
        self._request.cancel()
        self.upstream_failed(error)

    # The end.

    def _end(self, ending: Ending, error: ProxyError | None) -> None:
        """Record the outcome, once."""
        if self.ended:
            return
        self.ended = True
        self._request.release()
        response = self._request.response
        if self._meter is not None:
            self._meter.close(ending)
        outcome = RequestOutcome(
            self._cache,
            code="" if error is None else error.code,
            detail="" if error is None else error.detail,
            ending=ending,
            upstream_request_id=b"" if response is None else response.request_id,
            first_byte_seconds=self._first_byte_seconds,
        )
        self._context.access_log.record(self._exchange, self._client, outcome)
