"""Collaborators for the proxy's unit tests: a context on a manual clock, an in-memory client."""

from __future__ import annotations

from typing import Any

import attrs
import h11
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.web.iweb import UNKNOWN_LENGTH

from goproxyai.cache.replayed_entries import ReplayedEntries
from goproxyai.cache.store import Store
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_body import whole_body
from goproxyai.http11.request_head import RequestHead
from goproxyai.http11.response import Response
from goproxyai.limits.request_memory import RequestMemory
from goproxyai.messages.header_templates import template_of
from goproxyai.messages.headers import Headers, index_fields
from goproxyai.proxy.bypass_warning import BypassWarning
from goproxyai.proxy.cache_lookup import CacheLookup, CacheMiss
from goproxyai.proxy.context import OptionsHolder, ProxyContext
from goproxyai.proxy.open_tunnels import OpenTunnels
from goproxyai.proxy.request_plan import ProxyOptions, RequestPlan
from goproxyai.proxy.upstreams import Upstream, Upstreams
from goproxyai.telemetry.access_log import AccessLog
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.events import Event
from goproxyai.upstream.breaker import CircuitBreaker
from goproxyai.upstream.retries import RetryBudget

KEY = b"k" * 32


class _Route:
    """A route whose request line is empty."""

    for_handshakes = None

    def head(self, method: bytes, target: bytes) -> bytes:
        return b""


def upstream(rank: int = 0) -> Upstream:
    route: Any = _Route()
    return Upstream(rank, route, b"", f"http://upstream-{rank}", CircuitBreaker(0.5))


@attrs.define
class ProxyParts:
    """A proxy context, and what its access log recorded."""

    context: ProxyContext
    clock: Clock
    events: list[Event]

    def recorded(self) -> list[Event]:
        self.context.access_log.flush()
        return self.events


def proxy_parts(upstreams: int = 1) -> ProxyParts:
    clock, counters, store = Clock(), Counters(), Store(10**8)
    events: list[Event] = []
    each = Upstreams(tuple(upstream(rank) for rank in range(upstreams)))
    client: Any = None
    memory = RequestMemory()
    context = ProxyContext(
        clock,
        clock.seconds,
        OptionsHolder(ProxyOptions(each.first, b"instance", ttl=300.0)),
        store,
        CacheLookup(store),
        each,
        client,
        RetryBudget(),
        counters,
        AccessLog(clock, counters, lambda new, _: events.extend(new)),
        memory,
        ReplayedEntries(memory),
        BypassWarning(counters, clock.seconds()),
        OpenTunnels(3600.0),
    )
    return ProxyParts(context, clock, events)


class ClientConnection:
    """A client's connection that is full after the writes that *readiness* marks as ``False``."""

    peer = "127.0.0.1"
    subject = ""

    def __init__(self, readiness: list[bool] | None = None) -> None:
        self.written = b""
        self.completed = 0
        self.aborted = False
        self.full = False
        self.exchange: Exchange
        self._producer: IPushProducer | None = None
        self._readiness = readiness or []

    @property
    def output(self) -> ClientConnection:
        return self

    def send(self, data: bytes) -> None:
        self.written += data
        if self._readiness and not self._readiness.pop():
            self.pause()

    def set_producer(self, producer: IPushProducer | None) -> None:
        self._producer = producer
        if producer is not None and self.full:
            producer.pauseProducing()

    def pause(self) -> None:
        """Accept no more data."""
        self.full = True
        if self._producer is not None:
            self._producer.pauseProducing()

    def resume(self) -> None:
        """Accept data again."""
        self.full = False
        if self._producer is not None:
            self._producer.resumeProducing()

    def exchange_done(self, exchange: Exchange, keep_alive: bool) -> None:
        self.completed += 1

    def abort(self) -> None:
        self.aborted = True

    def read_all(self) -> None:
        """Accept data until the response is complete, or no more data follows."""
        while self.full and not self.completed:
            self.resume()

    def open_exchange(self, head: RequestHead, clock: Clock) -> Exchange:
        self.exchange = Exchange(self, clock.seconds(), head, (), whole_body(b""))
        return self.exchange

    def response(self) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Return headers and body of the one complete response that was written."""
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(self.written)
        headers, body = [], b""
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                headers = list(event.headers.raw_items())
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert connection.trailing_data[0] == b""
                return headers, body
            else:
                raise AssertionError(f"the response is incomplete: {event}")


class UpstreamConnection:
    """The connection that a response arrives on; records its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def abort(self) -> None:
        self.calls.append("abort")


def get_head(target: bytes = b"/v1/x") -> RequestHead:
    return RequestHead(b"GET", target, "1.1", [(b"Host", b"a")], True)


def response_of(
    headers: Headers, connection: UpstreamConnection | None = None, status: int = 200
) -> Response:
    template = template_of(tuple(name for name, _ in headers))
    values = tuple(value for _, value in headers)
    fields = index_fields(headers)[0]
    connection = connection or UpstreamConnection()
    return Response(connection, status, b"OK", template, values, fields, UNKNOWN_LENGTH)


def miss_of(parts: ProxyParts, head: RequestHead) -> CacheMiss:
    plan = RequestPlan(head, parts.context.options.current)
    return CacheMiss("miss", KEY, plan, parts.context.store.generation())
