"""Step four: upstream's answer, relayed as it comes.

1. Nothing is buffered: what one read from upstream brings leaves in one write.
2. A slow client pauses upstream, a slow upstream pauses the client's upload.
3. A client that leaves, in whatever phase, ends the upstream request in the same turn.
4. An answer that upstream breaks off is broken off towards the client too.
5. A forward ends exactly once, in :meth:`Forward._note`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger
from twisted.python.failure import Failure

from goproxyai.cache.rules import parent_paths
from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.response import Response
from goproxyai.messages.headers import Headers, names_itself
from goproxyai.proxy import replay as respond
from goproxyai.proxy.error_response import proxy_error_for
from goproxyai.proxy.recorder import CacheMiss, Recorder, keep_whole, recorder
from goproxyai.proxy.request_plan import RequestPlan
from goproxyai.proxy.upstream_request import UpstreamRequest
from goproxyai.proxy.usage_meter import UsageMeter, bill_of, meter_of
from goproxyai.usage.usage import UNREAD, Usage

if TYPE_CHECKING:
    from goproxyai.proxy.handler import ProxyHandler

_log = Logger(namespace="goproxyai.forward")


class Forward(UpstreamRequest):
    """One request on its way to upstream, and the answer on its way back.

    :param wanted: what the cache said, or ``None`` where it was left aside.
    :param reason: why upstream is asked.
    """

    __slots__ = (
        "_client",
        "_ended",
        "_exchange",
        "_first_seconds",
        "_meter",
        "_reason",
        "_recorder",
        "_response",
        "_upstream_seconds",
        "_usage",
        "_wanted",
    )  # fmt: skip

    def __init__(
        self,
        relay: ProxyHandler,
        exchange: Exchange,
        client: str,
        notes: RequestPlan,
        wanted: CacheMiss | None,
        reason: str,
    ) -> None:
        UpstreamRequest.__init__(
            self, relay, exchange, notes
        )  # super() takes as long as all the rest
        self._exchange = exchange
        self._client = client
        self._wanted = wanted
        self._reason = reason
        self._response: Response | None = None
        self._recorder: Recorder | None = None
        self._meter: UsageMeter | None = None
        self._usage: Usage | None = None
        self._upstream_seconds = self._first_seconds = -1.0
        self._ended = False

    def start(self) -> None:
        """Send the request."""
        self._exchange.listener = self
        try:
            self._ask()
        except ProxyError as refused:
            self._refuse(refused)

    # Upstream's answer: Receiver.

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        """An interim answer is passed on."""
        self._exchange.send_interim(respond.interim(status, reason, headers))

    def answered(self, response: Response) -> None:
        """The head is relayed, and the body asked for."""
        self._heard(response)
        if self._ended or self._exchange.over:
            response.abort()
            return
        self._response = response
        try:
            self._begin(response)
        except Exception:  # a 407, or a defect of ours: never leave the client waiting
            response.abort()
            self._refuse(proxy_error_for(Failure()), Failure())

    def _begin(self, response: Response) -> None:
        exchange, relay = self._exchange, self._relay
        now = relay.seconds()
        upstream_seconds = self._upstream_seconds = now - self._sent_at
        status, fields = response.code, response.fields
        if status > 399 and self._is_refused(response):
            self._response = None  # it is not this request's answer
            self._upstream_seconds = -1.0
            return
        wanted = self._wanted
        if wanted is None and 200 <= status < 300:
            self._invalidate()
        proxy_seconds = self._sent_at - exchange.began
        head = (  # sums of bytes: a format takes four times as long
            respond.status_line(status, response.phrase)
            + response.relayed_lines()
            + respond.forwarded_lines(
                exchange.request_id, names_itself(fields), self._reason,
                proxy_seconds, upstream_seconds,
            )
        )  # fmt: skip
        framed = b"content-length" in fields  # where it is not, no length is made up
        plain = framed and exchange.keeps_connection() and exchange.head.method != b"HEAD"
        whole = response.take_whole() if plain else None
        if whole is not None:
            bill: bytes | Usage | None = None
            if self._notes.generates and 200 <= status < 300:
                bill = bill_of(relay.counters, response, whole)
            if wanted is not None:
                usage = UNREAD if isinstance(bill, bytes) else bill
                keep_whole(relay.store, wanted, response, whole, usage, now)
            exchange.send_response(status, head + b"\r\n" + whole, len(whole))
            self._note("ok", None, bill)
            return
        if wanted is not None:
            self._recorder = recorder(relay.store, wanted, response, relay.seconds)
        exchange.start_response(status, head, response.length if framed else None, framed)
        self._first_seconds = now - exchange.began
        self._watch(response)
        exchange.register_producer(response)
        response.deliver(self)
        exchange.flush()

    def _watch(self, response: Response) -> None:
        """The answer comes in pieces: look at them as they pass."""
        relay = self._relay
        meter = self._meter = meter_of(relay.counters, self._notes, response, relay.seconds)
        if meter is not None:
            relay.counters.open_streams += meter.streamed

    def _invalidate(self) -> None:
        """What a write may have changed is no longer known (RFC 9111 §4.4)."""
        notes, store = self._notes, self._relay.store
        if notes.writes:
            for owner in notes.writes_to:
                store.invalidate(owner, parent_paths(notes.path))

    def received(self, data: bytes, ended: bool) -> None:
        """Body bytes of one read: record them, relay them."""
        recorder, meter = self._recorder, self._meter
        if recorder is not None and data:
            recorder.add(data)
        if meter is not None and data:
            meter.add(data)
        if not ended:
            self._exchange.write(data)
            return
        if meter is not None:
            self._usage = meter.whole()
        if recorder is not None:
            self._record()
        self._complete(data)

    def _record(self, framed: bool = True) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None and recorder.on and self._wanted is not None:
            recorder.keep(recorder.whole(), self._wanted, self._usage, framed)

    def closed(self) -> None:
        """Upstream ended the body with its connection: whole or not, a last event may tell."""
        if self._meter is not None:
            self._usage = self._meter.whole()
        self._record(framed=False)
        self._complete(b"")

    def broken(self, reason: Failure) -> None:
        """Upstream broke off: so do we, that nobody takes the rest for the whole."""
        problem = proxy_error_for(reason)
        self._exchange.abort()
        self._note("cut", problem)

    def _lost(self, reason: Failure) -> None:
        """There will be no answer of upstream's."""
        self._refuse(proxy_error_for(reason), reason)

    def _refuse(self, problem: ProxyError, failure: Failure | None = None) -> None:
        if self._ended:
            return
        exchange = self._exchange
        if problem.code == "internal_error" and failure is not None:
            _log.failure("a defect while forwarding", failure)
        if problem.status in respond.FAILURES and self._rescue(problem.code):
            return
        if exchange.response_started:
            exchange.abort()
            self._note("cut", problem)
        else:
            asked = self._reason if self._tries else ""
            respond.problem(exchange, problem, asked)
            self._note("ok", problem)

    def _rescue(self, why: str) -> bool:
        """Answer with a stored answer that has expired, if there is one."""
        wanted, relay = self._wanted, self._relay
        if wanted is None or self._exchange.response_started:
            return False
        entry = relay.stale(wanted)
        if entry is None:
            return False
        self._ended = True
        relay.rescue(self._exchange, self._client, entry, why)
        return True

    # The client's side: Listener.

    def client_gone(self) -> None:
        """The client left."""
        if self._response is None and self._notes.generates and self._tries:
            self._relay.counters.tokens.lose("left")  # upstream may go on with it, and bill it
        self._stop()
        self._note("client_gone", None)

    def request_failed(self, problem: ProxyError) -> None:
        """The rest of the request broke the rules."""
        self._stop()
        self._refuse(problem)

    def _stop(self) -> None:
        self._take_back()
        if self._response is not None:
            self._response.abort()

    # The end.

    def _complete(self, data: bytes) -> None:
        self._exchange.write(data, True)
        self._note("ok", None)

    def _note(
        self, ended: str, problem: ProxyError | None, bill: bytes | Usage | None = None
    ) -> None:
        if self._ended:
            return
        self._ended = True
        if self._recorder is not None:
            self._recorder.forget()
            self._recorder = None
        if self._meter is not None:
            self._meter.lost("left" if ended == "client_gone" else "cut")
            self._relay.counters.open_streams -= self._meter.streamed
        if (problem is not None or ended != "ok") and self._tries and not self._unsent:
            self._invalidate()  # a write without an answer may have been done all the same
        response = self._response
        upstream_id = b"" if response is None else response.fields.get(b"x-request-id", b"")
        code, detail = ("", "") if problem is None else (problem.code, problem.detail)
        self._relay.log.over(  # by position: names cost as much as the rest of the call
            self._exchange, self._client, "MISS" if self._wanted else self._reason, code, detail,
            ended, self._upstream_seconds, upstream_id, self._first_seconds,
            bill or self._usage,
        )  # fmt: skip
