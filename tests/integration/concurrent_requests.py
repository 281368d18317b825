"""Concurrent requests and slow clients, for tests of single flight and of usage."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from goproxyai.proxy.flight import Flight
from tests.integration.cached_requests import store_of
from tests.support.harness import Answer, ProxyHarness, RawClient, eventually


async def send_concurrently(harness: ProxyHarness, requests: Sequence[bytes]) -> list[RawClient]:
    """Send each request on a new connection; return when the daemon has received them."""
    clients = []
    for data in requests:
        client = await harness.connect()
        client.send(data)
        clients.append(client)
    assert harness.daemon is not None
    counters = harness.daemon.context.counters
    await eventually(harness.reactor, lambda: counters.requests >= len(requests))
    return clients


async def wait_for_pauses(harness: ProxyHarness, count: int = 1) -> None:
    """Wait until *count* upstream requests have reached a ``Pause`` in their script."""
    requests = harness.upstream.requests
    await harness.upstream.wait_until(lambda: sum(each.paused for each in requests) >= count)


async def answers_of(clients: Sequence[RawClient]) -> list[Answer]:
    return [await client.answer() for client in clients]


async def large_answers(clients: Sequence[RawClient], size: int) -> list[Answer]:
    """Return responses whose bodies have *size* bytes, or were cut.

    Each is parsed once, at its end.
    """
    for client in clients:
        await client.until(lambda c=client: c.closed or c.received_size > size, 30)  # type: ignore[misc]
    return await answers_of(clients)


def stall(client: RawClient) -> RawClient:
    """Make *client* stop reading, with a receive buffer of 64 KiB; returns *client*."""
    client.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    client.pause_reading()
    return client


def flights_of(harness: ProxyHarness) -> list[Flight]:
    """Return the flights that further requests may join."""
    assert harness.daemon is not None
    return list(harness.daemon.handler.single_flight)


async def assert_all_released(harness: ProxyHarness) -> None:
    """Check that no flight is open and no memory is reserved or counted.

    The client may have the last bytes before the server's side has counted them as sent.
    """
    assert flights_of(harness) == []
    assert store_of(harness).reserved == 0
    assert harness.daemon is not None
    memory = harness.daemon.context.memory
    await eventually(harness.reactor, lambda: memory.used == 0)
