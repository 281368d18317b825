"""The daemon's connections, and limits of what they may buffer."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import deferLater

from goproxyai.http11.client_connection import ClientConnection
from goproxyai.http11.server_connection import ServerConnection
from goproxyai.reactor.socket_write import unsent_bytes
from tests.support.harness import ProxyHarness

MIB = 1024 * 1024

MAX_UNSENT_BYTES = 256 * 1024
"""Bytes of one stream that the daemon may buffer, each way."""

MAX_KERNEL_BYTES = 24 * MIB
"""More than the kernel buffers for two connections, and far less than the tests send."""


def client_sides(harness: ProxyHarness) -> set[ServerConnection]:
    """The daemon's connections to clients, in the set that the daemon keeps."""
    assert harness.daemon is not None
    return harness.daemon.listeners.factory.connections


def client_side(harness: ProxyHarness) -> ServerConnection:
    """The daemon's only connection to a client."""
    (connection,) = client_sides(harness)
    return connection


def upstream_side(harness: ProxyHarness) -> ClientConnection:
    """The daemon's only connection to an upstream."""
    (connection,) = harness.pool
    return connection


def max_unsent_bytes(harness: ProxyHarness) -> int:
    """Return the size of the largest output buffer of a connection to a client."""
    return max((unsent_bytes(each.transport) for each in client_sides(harness)), default=0)


async def stable(harness: ProxyHarness, count: Callable[[], int]) -> int:
    """Return the value of *count* after it has not changed for 0.2 seconds."""
    last, repeats = count(), 0
    while repeats < 20:
        await deferLater(harness.reactor, 0.01)
        now = count()
        repeats = repeats + 1 if now == last else 0
        last = now
    return last
