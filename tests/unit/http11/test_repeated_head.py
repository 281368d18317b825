"""Repeated heads: parsed without llhttp, with the same result."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from goproxyai.http11.exchange import Exchange
from goproxyai.http11.repeated_head import (
    MAX_LENGTH_DIGITS,
    MAX_REPEATED_HEAD_BYTES,
    MAX_RETAINED,
    RETAINED_TICKS,
    any_of,
)
from goproxyai.http11.request_head import VARIABLE_FIELDS, max_variable_bytes
from goproxyai.messages.headers import index_fields
from goproxyai.reactor.deadlines import TICK_SECONDS
from tests.support.memory_server import MemoryServer, collect, get, post, respond

BODY = b'{"model":"m"}'

VARIABLE_LINES = (
    b"X-Forwarded-For: 192.0.2.9",
    b"traceparent:  00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    b"X-Request-ID: a b",
)


def sdk_request(body: bytes = BODY, *lines: bytes) -> bytes:
    """A POST as an SDK sends it, with its length in the middle of the header."""
    framing = [b"Content-Length: %d" % len(body), b"Authorization: Bearer k", *lines, b"", b""]
    head = b"\r\n".join([b"POST /v1/chat/completions?x=1 HTTP/1.1", b"Host: a", *framing])
    return head + body


def summary(exchange: Exchange) -> tuple[Any, ...]:
    """What the proxy can see of a request."""
    body = exchange.body
    return (
        exchange.method, exchange.target, exchange.version, exchange.headers, exchange.keep_alive,
        index_fields(exchange.headers), body.length, body.complete, body.received,
        body.whole() if body.complete else None, body.awaits_continue,
        exchange.problem and exchange.problem.code,
    )  # fmt: skip


def respond_to_all(server: MemoryServer) -> list[Any]:
    """Respond to complete requests; return the summaries, and whether the connection is open."""
    summaries: list[Any] = []
    for exchange in server.exchanges:
        summaries.append(summary(exchange))
        if not exchange.over and exchange.body.complete:
            respond(exchange)
    return [*summaries, server.transport.open]


def parse_alone_and_after(first: bytes, second: bytes, split_at: int) -> list[list[Any]]:
    """Parse *second* alone; after *first*; and on another connection than *first*."""
    results = []
    for before, is_fresh in ((b"", False), (first, False), (first, True)):
        server = MemoryServer()
        if before:
            server.send(before)
            respond(server.exchanges.pop())
            assert server.transport.reading
        if is_fresh:
            server.connection, server.transport = server.connect()
        for piece in (second[:split_at], second[split_at:]):
            if piece and server.transport.reading and server.transport.open:
                server.connection.dataReceived(piece)
        results.append(respond_to_all(server))
    return results


def test_repeated_head_has_its_own_content_length() -> None:
    server = MemoryServer()
    for body in (b"one", b"three", b"", b"three"):
        (exchange,) = server.send(post(b"X-A: b", length=len(body)) + body).exchanges
        assert exchange.headers == [
            (b"Host", b"a"), (b"Content-Length", b"%d" % len(body)), (b"X-A", b"b"),
        ]  # fmt: skip
        assert collect(exchange) == [body]
        respond(server.exchanges.pop())


@pytest.mark.parametrize(
    "second",
    [
        b"GET / HTTP/1.1\r\nX-A: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\nX-A: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\nX-A: b\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nHost: b\r\nX-A: b\r\n\r\n",
        b"GET http://b/ HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n",
        b"GET /../ HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: b\r\n\r\n",
    ],
)
def test_changed_head_is_validated(second: bytes) -> None:
    server = MemoryServer()
    respond(server.send(get(b"/", b"X-A: b")).exchanges[0])
    problem = server.send(second).exchanges[1].problem
    assert problem is not None
    assert problem.code == "bad_request"


def test_head_repeated_in_http_1_0_is_validated() -> None:
    server = MemoryServer()
    server.send(post(b"Connection: keep-alive") + b"0\r\n\r\n")
    respond(server.exchanges[0])
    server.send(post(b"Connection: keep-alive", version=b"1.0"))
    assert server.exchanges[1].problem is not None


@given(
    st.sampled_from(
        [sdk_request(), sdk_request(b""), get(), get(b"/v1/models", b"X-A: b"),
         sdk_request(BODY, *VARIABLE_LINES), get(b"/v1/models", *VARIABLE_LINES),
         sdk_request(BODY, *VARIABLE_LINES, b"Connection: traceparent"),
         sdk_request(BODY, *VARIABLE_LINES, b"X-Request-Id: twice"),
         sdk_request(BODY, b"X-Real-IP:")]
    ),
    st.integers(0, 350),
    st.integers(0, 2),
    st.sampled_from(
        [b"", b"\r", b"\n", b"\r\n", b" ", b"0", b"9", b"+", b"-", b",", b"x", b":", b"\0", b"\xb2",
         b"\t", b"\x7f", b"y" * 1100, b"\r\n\r\n", b"X: y\r\n", b"0" * 20, b"1" * 20,
         b"Host: b\r\n"]
    ),
    st.integers(0, 350),
)  # fmt: skip
@example(sdk_request(), sdk_request().index(b"13") + 1, 1, b"", 250)  # without the last digit
@example(sdk_request(), sdk_request().index(b"13"), 2, b"", 250)  # without digits
@example(sdk_request(), sdk_request().index(b"13"), 0, b"0" * MAX_LENGTH_DIGITS, 250)
@example(sdk_request(), sdk_request().index(b"13"), 0, b" ", 250)
@example(sdk_request(), len(sdk_request()), 0, sdk_request(b"again"), 250)
@example(get(), 0, 0, b"\r\n\r\n", 250)
def test_nearly_repeated_head_is_parsed_like_the_first(
    first: bytes, begin: int, removed: int, inserted: bytes, split_at: int
) -> None:
    begin = min(begin, len(first))
    second = first[:begin] + inserted + first[begin + removed :]
    alone, after, elsewhere = parse_alone_and_after(first, second, split_at)
    assert after == alone
    assert elsewhere == alone


@given(
    st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 3)), max_size=6),
    st.lists(st.integers(1, 200), max_size=12),
)
def test_requests_split_anywhere_are_complete_and_in_order(
    bodies: list[tuple[bytes, int]], sizes: list[int]
) -> None:
    kinds = [
        sdk_request, lambda body: sdk_request(body, b"X-A: b"), lambda body: get(),
        lambda body: post(b"X-B: c") + b"".join([b"%x\r\n%b\r\n" % (len(body), body)] if body
                                                else []) + b"0\r\n\r\n",
    ]  # fmt: skip
    data = b"".join(kinds[kind](body) for body, kind in bodies)
    server = MemoryServer()
    while data:
        size = sizes.pop() if sizes else len(data)
        server.connection.dataReceived(data[:size])
        data = data[size:]
        for exchange in server.exchanges:
            if exchange.body.complete and not exchange.over:
                assert exchange.problem is None
                respond(exchange, exchange.body.whole())
    expected = [b"" if kind == 2 else body for body, kind in bodies]
    assert [exchange.body.whole() for exchange in server.exchanges] == expected
    assert server.received().count(b"HTTP/1.1 200 X\r\n") == len(bodies)


def test_repeated_heads_share_one_object() -> None:
    server = MemoryServer()
    for body in (b"1", b"", b"x" * 1000):
        server.send(sdk_request(body))
        exchange = server.exchanges[-1]
        assert exchange.head is server.exchanges[0].head
        assert (exchange.body.whole(), exchange.values) == (body, (b"%d" % len(body),))
        assert dict(exchange.headers)[b"Content-Length"] == b"%d" % len(body)
        respond(exchange)


@pytest.mark.parametrize(
    "first",
    [
        get(b"/v1/models", b"X-Long: " + b"x" * MAX_REPEATED_HEAD_BYTES),
        get(b"/v1/models", b"Connection: upgrade", b"Upgrade: h2c"),
        post(b"Expect: 100-continue", length=0),
        post() + b"0\r\n\r\n",
    ],
)
def test_head_that_cannot_be_repeated_is_not_remembered(first: bytes) -> None:
    server = MemoryServer()
    server.send(first)
    assert len(server.factory.heads) == 0


def test_variable_fields_may_differ_in_a_repeated_head() -> None:
    server = MemoryServer()
    heads = []
    for number in (b"1", b"22", b"3 3"):
        lines = (b"X-Forwarded-For: 192.0.2." + number, b"Traceparent: 00-" + number, b"X-A: b")
        server.send(sdk_request(number, *lines))
        exchange = server.exchanges[-1]
        heads.append(exchange.head)
        assert exchange.body.whole() == number
        assert exchange.get(b"x-forwarded-for") == b"192.0.2." + number
        assert exchange.get(b"x-a") == b"b"
        assert exchange.get(b"x-b") is None
        assert index_fields(exchange.headers)[0][b"traceparent"] == b"00-" + number
        assert exchange.headers[-3:] == [tuple(line.split(b": ")) for line in lines]
        respond(exchange)
    assert heads == [heads[0]] * 3


@pytest.mark.parametrize("name", sorted(VARIABLE_FIELDS - {b"content-length"}))
def test_each_variable_field_may_differ_in_a_repeated_head(name: bytes) -> None:
    server = MemoryServer()
    for value in (b"1", b"Root=1-2;x", b"9" * max_variable_bytes(name)):
        server.send(get(b"/v1/models", name.title() + b": " + value))
        exchange = server.exchanges[-1]
        assert exchange.get(name) == value
        respond(exchange)
    first, *others = [exchange.head for exchange in server.exchanges]
    assert others == [first] * 2


@pytest.mark.parametrize("name", sorted(VARIABLE_FIELDS - {b"content-length"}))
def test_long_value_of_a_variable_field_is_not_shared(name: bytes) -> None:
    server = MemoryServer()
    for size in (1, 1, 0, 1):
        value = b"9" * (max_variable_bytes(name) + size)
        server.send(get(b"/v1/models", name.title() + b": " + value))
        exchange = server.exchanges[-1]
        assert exchange.get(name) == value
        assert exchange.head.fields[name] == (value if size else b"")
        respond(exchange)


def test_baggage_of_the_usual_size_may_differ_in_a_repeated_head() -> None:
    server = MemoryServer()
    for number in (b"1", b"2"):
        baggage = b"sentry-trace_id=" + number * 32 + b",sentry-release=" + b"a" * 200
        server.send(get(b"/v1/models", b"baggage: " + baggage))
        assert server.exchanges[-1].get(b"baggage") == baggage
        respond(server.exchanges[-1])
    first, second = server.exchanges
    assert first.head is second.head


def test_fields_with_names_like_variable_ones_are_fixed() -> None:
    server = MemoryServer()
    for value in (b"1", b"2"):
        server.send(get(b"/v1/models", b"X-B3: " + value, b"b3-x: " + value, b"B: " + value))
        assert server.exchanges[-1].get(b"x-b3") == value
        respond(server.exchanges[-1])
    first, second = server.exchanges
    assert first.head is not second.head


@given(st.sets(st.text("ab-", min_size=1, max_size=4).map(str.encode), min_size=1))
def test_pattern_of_names_matches_these_alone(names: set[bytes]) -> None:
    pattern = re.compile(any_of(names))
    others = {name + b"a" for name in names} | {name[1:] for name in names}
    for name in names | others:
        assert (pattern.fullmatch(name) is not None) == (name in names)


def test_repeated_head_with_a_length_over_the_limit_is_refused() -> None:
    server = MemoryServer(max_body_bytes=20)
    server.send(sdk_request(b"x" * 20))
    respond(server.exchanges[0])
    server.send(sdk_request(b"x" * 21))
    problem = server.exchanges[1].problem
    assert problem is not None
    assert problem.code == "request_too_large"


def test_shared_head_is_released_soon_after_the_last_connection() -> None:
    server = MemoryServer()
    server.send(sdk_request(b"1"))
    other, transport = server.connect()
    other.dataReceived(sdk_request(b"22"))
    first, second = server.exchanges
    assert first.head is second.head
    assert second.values == (b"2",)
    assert len(server.factory.heads) == 1
    respond(first)
    respond(second)
    server.exchanges.clear()
    server.disconnect()
    other.connectionLost()
    server.transport.unregisterProducer()
    transport.unregisterProducer()
    del first, second, server.connection, other
    assert len(server.factory.heads) == 1
    server.advance(RETAINED_TICKS * TICK_SECONDS)
    assert len(server.factory.heads) == 0


def test_number_of_retained_heads_is_bounded() -> None:
    server = MemoryServer()
    for number in range(2 * MAX_RETAINED):
        other, _ = server.connect()
        other.dataReceived(get(b"/%d" % number, b"Connection: close"))
        respond(server.exchanges.pop())
        other.connectionLost()
        del other
    assert len(server.factory.heads) == MAX_RETAINED


def test_head_of_another_connection_is_found() -> None:
    server = MemoryServer()
    server.send(sdk_request(b"1"))
    other, _ = server.connect()
    other.dataReceived(sdk_request(b"22"))
    first, second = server.exchanges
    assert second.head is first.head
    assert second.body.whole() == b"22"
    assert second.is_first
    assert second.connection is other


def test_heads_that_alternate_on_a_connection_are_found() -> None:
    server = MemoryServer()
    other, _ = server.connect()
    other.dataReceived(sdk_request(BODY, b"X-A: b"))  # keeps one of the heads
    for line in (b"X-A: b", b"X-Request-Id: 1", b"X-A: b", b"X-Request-Id: 22"):
        respond(server.send(sdk_request(BODY, line)).exchanges[-1])
        if line == b"X-Request-Id: 1":
            server.advance(TICK_SECONDS)
    kept, *heads = [exchange.head for exchange in server.exchanges]
    assert heads == [kept, heads[1], kept, heads[1]]
    assert server.exchanges[-1].get(b"x-request-id") == b"22"


def test_head_with_another_credential_is_not_found() -> None:
    server = MemoryServer()
    server.send(sdk_request())
    other, _ = server.connect()
    other.dataReceived(sdk_request().replace(b"Bearer k", b"Bearer l"))
    first, second = server.exchanges
    assert (first.get(b"authorization"), second.get(b"authorization")) == (b"Bearer k", b"Bearer l")
    assert first.head is not second.head


@pytest.mark.parametrize("split_at", [10, len(sdk_request(BODY, b"Connection: close")) - 1, 1000])
def test_nothing_follows_the_last_request_with_a_known_head(split_at: int) -> None:
    last = sdk_request(BODY, b"Connection: close")
    server = MemoryServer()
    respond(server.send(last).exchanges.pop())
    other, transport = server.connect()
    received = last + sdk_request(b"again")
    for piece in (received[:split_at], received[split_at:]):
        if piece:
            other.dataReceived(piece)
    (exchange,) = server.exchanges
    assert exchange.body.whole() == BODY
    respond(exchange)
    assert not transport.open
    assert len(server.exchanges) == 1
