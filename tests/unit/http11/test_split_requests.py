"""Requests have the same meaning however their bytes are split into reads."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from goproxyai.http11.exchange import Exchange
from goproxyai.http11.server_factory import ServerFactory
from goproxyai.reactor.deadlines import Ticker
from tests.support.malformed_requests import CHUNKED, MALFORMED, head, upload

KINDS = [
    head(line=b"GET /v1/models?a=b HTTP/1.1"),
    upload(b"Content-Length: 11", body=b"hello world"),
    upload(CHUNKED, body=b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-T: u\r\n\r\n"),
    head(b"Upgrade: h2c", b"Connection: Upgrade", line=b"GET /v1/up HTTP/1.1"),
    upload(b"Upgrade: h2c", b"Connection: Upgrade", b"Content-Length: 3", body=b"abc"),
    upload(b"Connection: Upgrade", CHUNKED, b"Upgrade: h2c", body=b"3\r\nabc\r\n0\r\n\r\n"),
    b"\r\n" + head(line=b"HEAD /v1/models HTTP/1.1"),
]


class EchoServer:
    """A connection in memory that responds to each request with its method, target and body.

    :param at_once: respond when the request is dispatched, or else only when the connection is not
        read otherwise.
    """

    def __init__(self, at_once: bool) -> None:
        factory = ServerFactory(Ticker(Clock()), self._dispatch, 1 << 20)
        self._at_once = at_once
        self._pending: list[Exchange] = []
        self.transport = StringTransport()
        self._connection = factory.buildProtocol(None)
        self._connection.makeConnection(self.transport)

    def _dispatch(self, exchange: Exchange) -> None:
        assert self._pending == []
        self._pending.append(exchange)
        if self._at_once:
            self._respond()

    def _respond(self) -> None:
        exchange = self._pending.pop()
        exchange.body.collect(1 << 20, lambda body: self._echo(exchange, body))

    @staticmethod
    def _echo(exchange: Exchange, body: bytes | None) -> None:
        status = exchange.problem.status if exchange.problem else 200
        text = repr((exchange.method, exchange.target, body)).encode()
        exchange.start_response(status, b"HTTP/1.1 %d Echo\r\n" % status, len(text))
        exchange.write(text, True)

    def receive(self, data: bytes) -> None:
        while self.transport.producerState == "paused":
            self._respond()
        self._connection.dataReceived(data)

    def finish(self) -> bytes:
        """Respond to all requests; return all responses."""
        while self._pending:
            self._respond()
        return self.transport.value()


def responses(pieces: list[bytes], at_once: bool) -> bytes:
    server = EchoServer(at_once)
    for piece in pieces:
        server.receive(piece)
    return server.finish()


@given(
    st.lists(st.sampled_from(KINDS), min_size=3, max_size=3),
    st.lists(st.integers(0, 2000), max_size=12),
    st.booleans(),
)
@example(KINDS[:3], list(range(2000)), True)
@example(KINDS[3:6], list(range(2000)), True)
@example(KINDS, list(range(2000)), False)
def test_responses_are_the_same_however_the_requests_are_split(
    requests: list[bytes], offsets: list[int], at_once: bool
) -> None:
    data = b"".join(requests)
    edges = [0, *sorted({offset % len(data) for offset in offsets} - {0}), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    expected = b"".join(responses([each], True) for each in requests)
    assert expected.count(b"HTTP/1.1 200 Echo") == len(requests)
    assert responses(pieces, at_once) == expected


@given(st.sampled_from(sorted(MALFORMED.values())), st.lists(st.integers(0, 6000), max_size=6))
def test_malformed_request_is_refused_however_it_is_split(raw: bytes, offsets: list[int]) -> None:
    edges = [0, *sorted({offset % len(raw) for offset in offsets} - {0}), len(raw)]
    server = EchoServer(True)
    for start, end in pairwise(edges):
        if not server.transport.disconnecting:
            server.receive(raw[start:end])
    assert server.finish().startswith(b"HTTP/1.1 400 Echo")
    assert server.finish().count(b"HTTP/1.1") == 1
