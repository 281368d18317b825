"""Forward one request for one client.

1. Nothing is buffered: the bytes of one read from upstream leave in one write.
2. A slow client pauses upstream; a slow upstream pauses the client's upload.
3. When the client leaves, in whatever phase, the upstream request ends in the same reactor turn.
4. When upstream breaks off a body, the client's connection is broken off too.
5. A forward ends exactly once, in :meth:`Forward._end`. If upstream switches protocols, the forward
   ends without an outcome, which the :mod:`.tunnel` records.
"""

from __future__ import annotations

from twisted.python.failure import Failure

from goproxyai.errors import ProxyError, out_of_memory
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.response import Response
from goproxyai.http11.response_parser import SWITCHING_PROTOCOLS
from goproxyai.limits.request_memory import HeldBytes
from goproxyai.messages.headers import Headers
from goproxyai.proxy.cache_lookup import CacheMiss
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.error_response import fail_exchange, proxy_error_for
from goproxyai.proxy.progress import Progress, model_of
from goproxyai.proxy.recorder import Recorder, recorder_for, store_whole
from goproxyai.proxy.replay import answer_stale
from goproxyai.proxy.request_plan import RequestPlan
from goproxyai.proxy.response_head import forwarded_head, interim_head, switched_head
from goproxyai.proxy.tunnel import Tunnel
from goproxyai.proxy.upstream_request import STALE_IF_ERROR_STATUSES, UpstreamRequest
from goproxyai.proxy.usage_meter import UsageMeter, open_meter, usage_source_of
from goproxyai.telemetry.outcome import CacheOutcome, Ending, RequestOutcome
from goproxyai.usage.usage import Usage, UsageSource

# Python 3.11 takes 0.1 us to look up an enum member, and a miss needs three.
_BYPASS, _MISS, _COMPLETE = CacheOutcome.BYPASS, CacheOutcome.MISS, Ending.COMPLETE
_new_outcome = tuple.__new__  # takes 0.2 us, and `RequestOutcome(...)` takes 0.6 us


class Forward:
    """One client's request and the upstream's response to it.

    It owns an :class:`.UpstreamRequest`, listens to the exchange, and is the sink of the response's
    body.

    :param miss: the cache miss; ``None`` where the cache is bypassed.
    :param reason: why the request is forwarded: the miss's reason, or the bypass reason.
    :param body: of the request; ``None`` where the exchange has it.
    :param written: the owners whose entries a successful request drops; empty for a cache miss.
    :ivar ended: the outcome is recorded.
    """

    __slots__ = (
        "_client", "_context", "_exchange", "_first_byte_seconds", "_meter", "_miss", "_plan",
        "_reason", "_recorder", "_request", "_usage", "_written", "ended",
    )  # fmt: skip

    def __init__(
        self,
        context: ProxyContext,
        exchange: Exchange,
        client: str,
        plan: RequestPlan,
        miss: CacheMiss | None,
        reason: str,
        body: HeldBytes | None = None,
        written: tuple[bytes, ...] = (),
    ) -> None:
        self._context = context
        self._exchange = exchange
        self._client = client
        self._plan = plan
        self._miss = miss
        self._reason = reason
        self._written = written
        self._request = UpstreamRequest(context, self, exchange, client, plan, body)
        self._recorder: Recorder | None = None
        self._meter: UsageMeter | None = None
        self._usage: Usage | None = None
        self._first_byte_seconds = -1.0
        self.ended = False

    def start(self) -> None:
        """Send the request."""
        self._exchange.listener = self
        try:
            self._request.send()
        except ProxyError as error:
            self.upstream_failed(error)

    # The upstream's side: RequestOwner.

    def interim_response(self, status: int, phrase: bytes, headers: Headers) -> None:
        self._exchange.send_interim(interim_head(status, phrase, headers))

    def response_began(self, response: Response) -> None:
        exchange, context, miss = self._exchange, self._context, self._miss
        now = context.seconds()
        status, fields = response.code, response.fields
        if status == SWITCHING_PROTOCOLS:
            self._open_tunnel(response, now)
            return
        if self._written:
            self._written = self._written if 200 <= status < 300 else ()
            self._drop_written_entries()
        head = forwarded_head(
            response,
            exchange.request_id,
            self._reason,
            self._request.sent_at - exchange.started_at,
            self._request.upstream_seconds,
        )
        has_length = b"content-length" in fields
        if has_length and exchange.keeps_connection() and exchange.head.method != b"HEAD":
            body = response.take_whole()
            if body is not None:
                self._answer_whole(response, head, body, now)
                return
        if miss is not None:
            self._recorder = recorder_for(context.store, miss, response, context.seconds)
        exchange.start_response(status, head, response.length if has_length else None, has_length)
        self._first_byte_seconds = now - exchange.started_at
        self._start_body(response)
        exchange.flush()

    def _open_tunnel(self, response: Response, now: float) -> None:
        exchange, request = self._exchange, self._request
        if not exchange.can_switch_protocols:
            exchange.fail(out_of_memory())
            return
        outcome = RequestOutcome(
            _BYPASS,
            self._reason,
            upstream_seconds=request.upstream_seconds,
            upstream_request_id=response.request_id,
            first_byte_seconds=now - exchange.started_at,
        )
        head = switched_head(
            response, exchange.request_id, request.sent_at - exchange.started_at,
            request.upstream_seconds,
        )  # fmt: skip
        self.ended = True
        request.release()
        Tunnel(self._context, exchange, self._client, outcome).open(response, head)

    def _answer_whole(self, response: Response, head: bytes, body: bytes, now: float) -> None:
        """Answer with a response whose body arrived together with its head, in one write."""
        exchange, context = self._exchange, self._context
        source: UsageSource | None = None
        if self._plan.generates and 200 <= response.code < 300:
            source = usage_source_of(context.counters, response, body)
        if self._miss is not None:
            store_whole(context.store, self._miss, response, body, source, now)
        exchange.send_response(response.code, head + b"\r\n" + body, len(body))
        self.ended = True
        self._request.release()
        self._record(_COMPLETE, None, source)

    def _start_body(self, response: Response) -> None:
        self._meter = open_meter(self._context, self._plan, response)
        self._exchange.register_producer(response)
        response.deliver(self)

    def _drop_written_entries(self) -> None:
        """Drop the entries that a write may have made outdated (RFC 9111 §4.4)."""
        for owner in self._written:
            self._context.store.invalidate(owner)
            self._context.shared.announce_write(owner)

    def answer_stale(self, cause: str) -> bool:
        context, miss = self._context, self._miss
        if miss is None or self._exchange.response_started:
            return False
        entry = context.lookup.find_stale(miss, context.seconds())
        if entry is None:
            return False
        self.ended = True
        self._request.release()
        answer_stale(context, self._exchange, self._client, entry, cause)
        return True

    def upstream_failed(self, error: ProxyError) -> None:
        if self.ended:
            return
        if error.status in STALE_IF_ERROR_STATUSES and self.answer_stale(error.code):
            return
        self._fail(error)

    def _fail(self, error: ProxyError) -> None:
        if not self.ended:
            reason = self._reason if self._request.attempts else ""
            self._end(fail_exchange(self._exchange, error, reason), error)

    # The response's body: BodySink.

    def received(self, data: bytes, ended: bool) -> None:
        if data:
            if self._recorder is not None:
                self._recorder.add(data)
            if self._meter is not None:
                self._meter.add(data)
        if ended:
            self._complete(data, framed=True)
        else:
            self._exchange.write(data)

    def closed(self) -> None:
        self._complete(b"", framed=False)

    def broken(self, reason: Failure) -> None:
        error = proxy_error_for(reason)
        self._exchange.abort()
        self._end(Ending.CUT, error)

    def _complete(self, data: bytes, framed: bool) -> None:
        """The body is complete; *data* is the last of it."""
        if self._meter is not None:
            self._usage = self._meter.finish()
        recorder, self._recorder = self._recorder, None
        if recorder is not None and recorder.active and self._miss is not None:
            recorder.store(recorder.take(), self._miss, self._usage, framed)
        self._drop_written_entries()  # upstream's state may change while a response is streamed
        self._exchange.write(data, True)
        self._end(_COMPLETE, None, self._usage)

    # The client's side: ExchangeListener.

    def client_gone(self) -> None:
        self._request.abandon()
        self._end(Ending.CLIENT_GONE, None)

    def progress(self) -> Progress:
        meter = self._meter
        model = model_of(self._exchange, meter, self._request.body)
        return Progress(self._first_byte_seconds, meter is not None and meter.streamed, model)

    def request_failed(self, error: ProxyError) -> None:
        """The rest of the client's request is invalid."""
        self._request.cancel()
        self.upstream_failed(error)

    # The end.

    def _end(
        self, ending: Ending, error: ProxyError | None, usage: UsageSource | None = None
    ) -> None:
        """Record the outcome, once."""
        if self.ended:
            return
        self.ended = True
        self._request.release()
        if self._recorder is not None:
            self._recorder.drop()
            self._recorder = None
        if self._meter is not None:
            self._meter.close(ending)
        failed = error is not None or ending is not _COMPLETE
        if failed and self._request.attempts and not self._request.unsent:
            self._drop_written_entries()  # upstream may have done the write all the same
        self._record(ending, error, usage)

    def _record(self, ending: Ending, error: ProxyError | None, usage: UsageSource | None) -> None:
        miss, response = self._miss, self._request.response
        outcome = _new_outcome(
            RequestOutcome,
            (
                _BYPASS if miss is None else _MISS,
                self._reason if miss is None else "",
                "" if error is None else error.code,
                "" if error is None else error.detail,
                ending,
                self._request.upstream_seconds,
                b"" if response is None else response.request_id,
                self._first_byte_seconds,
                usage,
            ),
        )
        self._context.access_log.record(self._exchange, self._client, outcome)
