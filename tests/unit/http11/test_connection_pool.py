"""The pool of connections to upstreams."""

from __future__ import annotations

import socket

from goproxyai.http11.connection_pool import MAX_IDLE_CONNECTIONS, ConnectionPool
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
