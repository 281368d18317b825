"""A head that is known again says what llhttp would have said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from goproxyai.http11.exchange import Exchange
from goproxyai.http11.repeated_head import MAX_LENGTH_DIGITS, MAX_REPEATED_HEAD_BYTES
from goproxyai.messages.headers import index_fields
from tests.unit.http11.test_server_connection import Server, answer, get, post

BODY = b'{"model":"m"}'


def question(body: bytes = BODY, *lines: bytes) -> bytes:
    """A POST as an SDK sends it: the length in the middle of its header."""
    framing = [b"Content-Length: %d" % len(body), b"Authorization: Bearer k", *lines, b"", b""]
    head = b"\r\n".join([b"POST /v1/chat/completions?x=1 HTTP/1.1", b"Host: a", *framing])
    return head + body


TRACED = (
    b"X-Forwarded-For: 192.0.2.9",
    b"traceparent:  00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    b"X-Request-ID: a b",
)
"""Lines whose values change from request to request."""


def served(server: Server) -> list[Any]:
    """What came of what was sent: each exchange, and whether the connection lives on."""
    seen: list[Any] = []
    for exchange in server.exchanges:
        seen.append(told(exchange))
        if not exchange.over and exchange.body.complete:
            answer(exchange)
    return [*seen, server.line.open]


def told(exchange: Exchange) -> tuple[Any, ...]:
    body = exchange.body
    return (
        exchange.method, exchange.target, exchange.version, exchange.headers, exchange.keep_alive,
        index_fields(exchange.headers), body.length, body.complete, body.received,
        body.whole() if body.complete else None, body.awaits_continue,
        exchange.problem and exchange.problem.code,
    )  # fmt: skip


def both_ways(first: bytes, second: bytes, cut: int) -> tuple[list[Any], list[Any]]:
    """What comes of *second* on a connection of its own, and behind *first*."""
    outcomes = []
    for before in (b"", first):
        server = Server()
        if before:
            server.send(before)
            answer(server.exchanges.pop())
            assert server.line.reading
        for piece in (second[:cut], second[cut:]):
            if piece and server.line.reading and server.line.open:
                server.connection.dataReceived(piece)
        outcomes.append(served(server))
    return outcomes[0], outcomes[1]


@given(
    st.sampled_from(
        [question(), question(b""), get(), get(b"/v1/models", b"X-A: b"), question(BODY, *TRACED),
         get(b"/v1/models", *TRACED), question(BODY, *TRACED, b"Connection: traceparent"),
         question(BODY, *TRACED, b"X-Request-Id: twice"), question(BODY, b"X-Real-IP:")]
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
@example(question(), question().index(b"13") + 1, 1, b"", 250)  # the last digit is missing
@example(question(), question().index(b"13"), 2, b"", 250)  # both are
@example(question(), question().index(b"13"), 0, b"0" * MAX_LENGTH_DIGITS, 250)
@example(question(), question().index(b"13"), 0, b" ", 250)
@example(question(), len(question()), 0, question(b"again"), 250)
def test_a_head_that_nearly_repeats_the_last_is_judged_as_if_it_were_the_first(
    first: bytes, at: int, drop: int, instead: bytes, cut: int
) -> None:
    at = min(at, len(first))
    alone, behind = both_ways(first, first[:at] + instead + first[at + drop :], cut)
    assert behind == alone


@given(
    st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 3)), max_size=6),
    st.lists(st.integers(1, 200), max_size=12),
)
def test_requests_cut_anywhere_come_whole_and_in_order(
    bodies: list[tuple[bytes, int]], cuts: list[int]
) -> None:
    kinds = [
        question, lambda body: question(body, b"X-A: b"), lambda body: get(),
        lambda body: post(b"X-B: c") + b"".join([b"%x\r\n%b\r\n" % (len(body), body)] if body
                                                else []) + b"0\r\n\r\n",
    ]  # fmt: skip
    data = b"".join(kinds[kind](body) for body, kind in bodies)
    server = Server()
    while data:
        size = cuts.pop() if cuts else len(data)
        server.connection.dataReceived(data[:size])
        data = data[size:]
        for exchange in server.exchanges:
            if exchange.body.complete and not exchange.over:
                assert exchange.problem is None
                answer(exchange, exchange.body.whole())
    expected = [b"" if kind == 2 else body for body, kind in bodies]
    assert [exchange.body.whole() for exchange in server.exchanges] == expected
    came = server.received()
    assert came.count(b"HTTP/1.1 200 X\r\n") == len(bodies)


def test_a_head_that_repeats_passes_llhttp_by() -> None:
    server = Server()
    for body in (b"1", b"", b"x" * 1000):
        server.send(question(body))
        exchange = server.exchanges[-1]
        assert exchange.head is server.exchanges[0].head
        assert (exchange.body.whole(), exchange.values) == (body, (b"%d" % len(body),))
        assert dict(exchange.headers)[b"Content-Length"] == b"%d" % len(body)
        answer(exchange)


@pytest.mark.parametrize(
    "first",
    [
        get(b"/v1/models", b"Connection: close"),
        get(version=b"1.0"),
        get(b"/v1/models", b"X-Long: " + b"x" * MAX_REPEATED_HEAD_BYTES),
        get(b"/v1/models", b"Connection: upgrade", b"Upgrade: h2c"),
        post(b"Expect: 100-continue", length=0),
        post() + b"0\r\n\r\n",
    ],
)
def test_some_heads_are_not_remembered(first: bytes) -> None:
    server = Server()
    server.send(first)
    assert len(server.factory.heads) == 0


def test_what_names_the_one_request_may_change_in_a_head_that_repeats() -> None:
    server = Server()
    heads = []
    for number in (b"1", b"22", b"3 3"):
        lines = (b"X-Forwarded-For: 192.0.2." + number, b"Traceparent: 00-" + number, b"X-A: b")
        server.send(question(number, *lines))
        exchange = server.exchanges[-1]
        heads.append(exchange.head)
        assert exchange.body.whole() == number
        assert exchange.get(b"x-forwarded-for") == b"192.0.2." + number
        assert exchange.get(b"x-a") == b"b"
        assert exchange.get(b"x-b") is None
        assert index_fields(exchange.headers)[0][b"traceparent"] == b"00-" + number
        assert exchange.headers[-3:] == [tuple(line.split(b": ")) for line in lines]
        answer(exchange)
    assert heads == [heads[0]] * 3


def test_a_length_over_the_limit_is_refused_though_the_head_is_known() -> None:
    server = Server(most_body=20)
    server.send(question(b"x" * 20))
    answer(server.exchanges[0])
    server.send(question(b"x" * 21))
    problem = server.exchanges[1].problem
    assert problem is not None
    assert problem.code == "request_too_large"


def test_connections_that_say_the_same_share_one_head_and_it_is_gone_with_the_last() -> None:
    one = Server()
    one.send(question(b"1"))
    other = one.factory.buildProtocol(None)
    line = type(one.line)()
    other.makeConnection(line)
    other.dataReceived(question(b"22"))
    first, second = one.exchanges
    assert first.head is second.head
    assert second.values == (b"2",)
    assert len(one.factory.heads) == 1
    answer(first)
    answer(second)
    one.exchanges.clear()
    one.lose()
    other.connectionLost()
    one.line.unregisterProducer()
    line.unregisterProducer()
    del first, second, one.connection, other
    assert len(one.factory.heads) == 0
