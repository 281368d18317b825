"""The pool of connections to upstreams."""

from __future__ import annotations

import socket

from goproxyai.http11.connection_deadlines import MAX_CONNECTION_AGE_SECONDS
from goproxyai.http11.connection_pool import MAX_IDLE_CONNECTIONS, ConnectionPool
from goproxyai.http11.connection_states import ClientState
from tests.support.memory_upstream import MemoryUpstream

ORIGIN = "origin"


def test_connection_released_last_is_taken_first() -> None:
    pool = ConnectionPool()
    connections = [MemoryUpstream().connection for _ in range(2)]
    for connection in connections:
        pool.release(ORIGIN, connection)
    assert [pool.take(ORIGIN) for _ in range(3)] == [*reversed(connections), None]


def test_connection_is_not_taken_for_another_origin() -> None:
    pool = ConnectionPool()
    pool.release(ORIGIN, MemoryUpstream().connection)
    assert pool.take("other") is None


def test_readable_connection_is_not_taken() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pool, upstream = ConnectionPool(), MemoryUpstream()
        upstream.transport.fileno = ours.fileno  # type: ignore[attr-defined]
        for _ in range(2):
            pool.release(ORIGIN, upstream.connection)
            assert pool.take(ORIGIN) is upstream.connection
        pool.release(ORIGIN, upstream.connection)
        theirs.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        assert pool.take(ORIGIN) is None
        assert upstream.transport.aborted


def keep(pool: ConnectionPool, upstream: MemoryUpstream, keep_alive: bytes = b"") -> None:
    """Complete an exchange of *upstream*, and release the connection if it is kept."""
    idle = len(upstream.idle_calls)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
    upstream.send().receive(head + keep_alive + b"\r\n")
    if len(upstream.idle_calls) > idle:
        pool.release(ORIGIN, upstream.connection)


def test_connection_is_not_taken_in_the_last_second_that_upstream_announced() -> None:
    pool, upstream = ConnectionPool(), MemoryUpstream()
    keep(pool, upstream, b"Keep-Alive: timeout=5\r\n")
    upstream.clock.advance(3.99)  # no tick: the pool compares the time itself
    assert pool.take(ORIGIN) is upstream.connection
    keep(pool, upstream, b"Keep-Alive: timeout=5\r\n")
    upstream.clock.advance(0.2)
    upstream.clock.rightNow += 4.0
    assert pool.take(ORIGIN) is None
    assert upstream.transport.aborted


def test_connection_whose_last_second_has_begun_is_closed() -> None:
    pool, upstream = ConnectionPool(), MemoryUpstream()
    keep(pool, upstream, b"Keep-Alive: timeout=1\r\n")
    assert upstream.idle_calls == []
    assert upstream.connection.state is ClientState.CLOSING


def test_connection_is_used_for_ten_minutes() -> None:
    pool, upstream = ConnectionPool(), MemoryUpstream()
    keep(pool, upstream)
    for _ in range(19):
        upstream.advance(MAX_CONNECTION_AGE_SECONDS / 20)
        assert pool.take(ORIGIN) is upstream.connection
        keep(pool, upstream)
    upstream.clock.rightNow += MAX_CONNECTION_AGE_SECONDS / 20
    assert pool.take(ORIGIN) is None
    assert upstream.transport.aborted


def test_response_after_ten_minutes_ends_the_connection() -> None:
    upstream = MemoryUpstream(head=2 * MAX_CONNECTION_AGE_SECONDS).send()
    upstream.advance(MAX_CONNECTION_AGE_SECONDS)
    upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert len(upstream.responses) == 1
    assert upstream.connection.state is ClientState.CLOSING


def test_aborted_connection_is_not_taken() -> None:
    pool, connection = ConnectionPool(), MemoryUpstream().connection
    pool.release(ORIGIN, connection)
    connection.abort()
    assert pool.take(ORIGIN) is None


def test_lost_connection_is_removed() -> None:
    pool, connection = ConnectionPool(), MemoryUpstream().connection
    pool.add(connection)
    pool.release(ORIGIN, connection)
    assert len(pool) == 1
    pool.remove(ORIGIN, connection)
    assert (len(pool), pool.take(ORIGIN)) == (0, None)


def test_idle_connections_of_an_origin_are_bounded() -> None:
    pool = ConnectionPool()
    upstreams = [MemoryUpstream() for _ in range(MAX_IDLE_CONNECTIONS + 1)]
    for upstream in upstreams:
        pool.release(ORIGIN, upstream.connection)
    assert [upstream.transport.aborted for upstream in upstreams[-2:]] == [False, True]


def test_closed_pool_aborts_its_connections() -> None:
    pool, active, idle = ConnectionPool(), MemoryUpstream(), MemoryUpstream()
    pool.add(active.connection)
    pool.close()
    pool.release(ORIGIN, idle.connection)
    assert active.transport.aborted
    assert idle.transport.aborted
