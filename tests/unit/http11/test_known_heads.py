"""A connection is served alike whether or not other connections have sent the same heads."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from goproxyai.http11.exchange import Exchange
from tests.support.memory_server import MemoryServer, get, respond

MAX_BODY_BYTES = 100

LINES = (
    b"Authorization: Bearer k", b"Authorization: Bearer l", b"Host: b", b"Accept: a",
    b"X-Forwarded-For: 192.0.2.9", b"x-forwarded-for:198.51.100.1", b"X-Request-ID: a b",
    b"X-Real-IP: 192.0.2.9", b"X-Real-IP:", b"Date : now", b"traceparent: 00-1 ",
    b"Connection: close", b"Connection: keep-alive", b"Connection: traceparent, close",
    b"Connection: upgrade", b"Upgrade: h2c", b"Expect: 100-continue",
    b"Transfer-Encoding: chunked",
)  # fmt: skip

LENGTHS = (
    b"%d", b"0%d", b"+%d", b"-%d", b"0x%d", b"%d ", b"\t%d", b"1%d", b"", b"00000000000000%d",
    b"000000000000000%d", b"%d\r\nContent-Length: %d", b"%d,%d",
)  # fmt: skip

VALUES = (
    b"", b"0", b"5", b"05", b"+5", b"5,5", b"5 ", b" 5", b"5\r\n 5", b"5\n5", b"\x80", b"5\0",
    b"5;6", b"5" * 16, b"5" * 128, b"5" * 129,
)  # fmt: skip

VARIED = re.compile(rb"(\r\n(?:Content-Length|X-Real-IP|X-Forwarded-For): )[^\r]*")

INSERTED = (b"", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"0", b":", b"\0", b"\xff", b"x" * 8200)

BODIES = (b"", b"x", get(), b"0\r\n\r\n", b"y" * (MAX_BODY_BYTES + 1))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw a request, most often a valid one."""
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0", b"1.2", b"0.9"]))
    lines = draw(st.lists(st.sampled_from(LINES), max_size=3))
    body = draw(st.sampled_from(BODIES))
    if body or draw(st.booleans()):
        length = draw(st.sampled_from((b"%d",) * 8 + LENGTHS))
        lines.append(b"Content-Length: " + length % ((len(body),) * length.count(b"%d")))
    before = draw(st.sampled_from([b""] * 6 + [b"\r\n", b"\n", b"\r", b"\r\n\r\n"]))
    return before + get(b"/v1/models", *draw(st.permutations(lines)), version=version) + body


@st.composite
def changes(draw: st.DrawFn, request: bytes) -> bytes:
    """Draw a request that differs from *request* in a value, in some bytes, or not at all."""
    change = draw(st.sampled_from(["none", "value", "bytes"]))
    if change == "value":
        value = draw(st.sampled_from(VALUES))
        return VARIED.sub(lambda match: match[1] + value, request, count=1)
    if change == "bytes":
        at = draw(st.integers(0, len(request)))
        rest = request[at + draw(st.integers(0, 1)) :]
        return request[:at] + draw(st.sampled_from(INSERTED)) + rest
    return request


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """Draw requests, and the reads of a connection with the same requests or nearly the same."""
    known = draw(st.lists(requests(), min_size=1, max_size=2))
    chosen = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
    received = b"".join([draw(changes(request)) for request in chosen])
    cuts = sorted(draw(st.sets(st.integers(0, len(received)), max_size=3)) | {0, len(received)})
    return known, [received[cut:end] for cut, end in pairwise(cuts)]


def summary(exchange: Exchange) -> tuple[Any, ...]:
    body, problem = exchange.body, exchange.problem
    return (
        exchange.method, exchange.target, exchange.version, exchange.headers, exchange.keep_alive,
        exchange.get(b"x-forwarded-for"), exchange.get(b"authorization"), exchange.is_first,
        body.length, body.received, body.complete and body.whole(), body.awaits_continue,
        problem and problem.code,
    )  # fmt: skip


def answer(exchange: Exchange) -> None:
    if exchange.problem is not None:
        status = exchange.problem.status
        exchange.start_response(status, b"HTTP/1.1 %d X\r\n" % status, 0, close=True)
        exchange.finish()
    elif exchange.body.complete:
        respond(exchange)


def serve(server: MemoryServer, reads: list[bytes], answers_late: bool) -> list[Any]:
    """Serve a new connection; return what the proxy and the client see of it."""
    connection, transport = server.connect()
    server.exchanges.clear()
    for read in reads:
        if transport.reading and transport.open:
            connection.dataReceived(read)
        for exchange in () if answers_late else server.exchanges:
            if not exchange.over:
                answer(exchange)
    for exchange in server.exchanges:  # also those that the answers let be dispatched
        if not exchange.over:
            answer(exchange)
    return [
        *map(summary, server.exchanges), transport.value(), transport.half_closed,
        transport.disconnecting, transport.reading, connection.input_state,
    ]  # fmt: skip


def with_address(value: bytes) -> bytes:
    return get(b"/v1/models", b"X-Real-IP: " + value)


def with_length(value: bytes, body: bytes = b"") -> bytes:
    return get(b"/v1/models", b"Content-Length: " + value) + body


REPEATED = get(b"/v1/models", b"X-Request-ID: a", b"x-request-id: b")
EXPECTING = get(b"/v1/models", b"Expect: 100-continue", b"Content-Length: 1") + b"x"
LAST = get(b"/v1/models", b"Connection: close")


@given(streams(), st.booleans())
@example(([LAST], [LAST + b"\r\n"]), False)
@example(([LAST], [LAST + LAST]), True)
@example(([LAST + b"x"], [LAST[:-1], LAST[-1:] + get()]), False)
@example(([get()], [get()[:9] + b"\r\n", get()]), False)
@example(([with_address(b"a")], [with_address(b"a\nb")]), False)
@example(([with_address(b"a")], [with_address(b"a" * 129)]), False)
@example(([with_length(b"1", b"x")], [with_length(b"+1", b"x")]), False)
@example(([with_length(b"1", b"x")], [with_length(b"1 ", b"x")]), False)
@example(([REPEATED], [REPEATED.replace(b"b\r", b"c\r")]), False)
@example(([EXPECTING], [EXPECTING[:-1]]), False)
@example(([with_length(b"1", b"x")], [with_length(b"%d" % (MAX_BODY_BYTES + 1))]), False)
def test_known_heads_change_nothing(
    stream: tuple[list[bytes], list[bytes]], answers_late: bool
) -> None:
    known, reads = stream
    warm = MemoryServer(MAX_BODY_BYTES)
    for request in known:
        serve(warm, [request], answers_late=False)
    cold = MemoryServer(MAX_BODY_BYTES)
    assert serve(warm, reads, answers_late) == serve(cold, reads, answers_late)
