"""Accepting: the bound in connection storms, and accepting without free file descriptors."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import tcp
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, capturedLogs, eventAsText

from goproxyai.reactor import accept
from goproxyai.reactor.accept import MAX_ACCEPTS_PER_TURN, WARNING_INTERVAL_SECONDS
from tests.support.answers import chunk, head
from tests.support.harness import ProxyHarness, RawClient, SkewedReactor, eventually, request
from tests.support.steps import Pause

STORM_CONNECTIONS = 500

LISTEN = "tcp:0:interface=127.0.0.1:backlog=1024"


def logged_lines(events: list[LogEvent]) -> list[str]:
    """Return what goproxyai and Twisted logged about listening sockets."""
    namespaces = ("goproxyai.reactor.accept", "twisted.internet.tcp")
    found = [event for event in events if str(event.get("log_namespace")).startswith(namespaces)]
    return [eventAsText(event, includeTimestamp=False, includeSystem=False) for event in found]


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Unconnected client sockets, one for each connection of a storm."""
    made = [socket.socket() for _ in range(STORM_CONNECTIONS)]
    for each in made:
        each.setblocking(False)
    yield made
    for each in made:
        each.close()


def connect(sockets: list[socket.socket], port: int) -> None:
    """Connect all *sockets*: the kernel completes the connections, the daemon accepts later."""
    for each in sockets:
        each.connect_ex(("127.0.0.1", port))


class PingPong(RawClient):
    """A client of a stream that requests the next frame when a frame has arrived.

    :ivar measured: the results of *measure*, one for each frame.
    """

    def __init__(self, reactor: Any, measure: Callable[[], int]) -> None:
        super().__init__(reactor)
        self._measure = measure
        self.measured: list[int] = []
        self.send_next: Callable[[bytes], None] | None = None

    def dataReceived(self, data: bytes) -> None:
        if b"frame" in data:
            self.measured.append(self._measure())
            if self.send_next is not None:
                self.send_next(chunk(b"frame"))
        super().dataReceived(data)


@pytest_twisted.ensureDeferred
async def test_stream_continues_during_a_connection_storm(
    harness: ProxyHarness, sockets: list[socket.socket]
) -> None:
    await harness.start(LISTEN=LISTEN)
    assert harness.daemon is not None
    counts = harness.daemon.listeners.factory.connection_limits.counts
    pause = Pause()
    chunked = [(b"Transfer-Encoding", b"chunked")]
    harness.upstream.script("/v1/stream", [head(200, chunked), chunk(b"frame"), pause, chunk(b"")])
    wire = PingPong(harness.reactor, lambda: counts.opened)
    await harness.connect(wire)
    wire.send(request("/v1/stream"))
    await wire.until(lambda: len(wire.measured) == 1)
    (upstream,) = harness.upstream.connections
    wire.send_next = upstream.transport.write
    connect(sockets, harness.port)
    upstream.transport.write(chunk(b"frame"))
    await eventually(harness.reactor, lambda: counts.opened == STORM_CONNECTIONS + 1)
    wire.send_next = None
    # Two sockets take a turn each from one frame to the next; the bound allows for two more turns.
    accepted_between_frames = [late - early for early, late in pairwise(wire.measured)]
    assert max(accepted_between_frames) <= 4 * MAX_ACCEPTS_PER_TURN
    assert len(wire.measured) > STORM_CONNECTIONS // (4 * MAX_ACCEPTS_PER_TURN)
    pause.release()
    await wire.until(lambda: wire.received.endswith(b"0\r\n\r\n"))
    for each in sockets:
        each.close()
    await eventually(harness.reactor, lambda: counts.opened - counts.closed == 1)


# No free file descriptor.


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    """Lower the limit on open files so that the process can open none."""
    lowest_free = os.dup(0)
    os.close(lowest_free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def no_reserved_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the descriptor that Twisted keeps in reserve."""
    monkeypatch.setattr(tcp, "_reservedFD", tcp._NullFileDescriptorReservation())


@pytest_twisted.ensureDeferred
async def test_without_descriptors_new_connections_are_closed_with_one_warning(
    harness: ProxyHarness, sockets: list[socket.socket]
) -> None:
    harness.reactor = SkewedReactor(harness.reactor)
    await harness.start(LISTEN=LISTEN)
    assert harness.daemon is not None
    refused = harness.daemon.listeners.factory.connection_limits.counts.refused
    with capturedLogs() as events:
        for begin, end in ((0, 5), (5, 8), (8, 10)):
            if begin == 8:
                harness.reactor.skew += WARNING_INTERVAL_SECONDS
            with no_free_descriptor():
                connect(sockets[begin:end], harness.port)
                await eventually(harness.reactor, lambda end=end: refused["no_descriptor"] == end)
    assert [line.partition(";")[0] for line in logged_lines(events)] == [
        "no free file descriptor (EMFILE): 5 connections were closed without a response"
    ] * 2
    assert (await harness.ask(request())).status == 200


@pytest_twisted.ensureDeferred
async def test_socket_that_cannot_accept_pauses_and_accepts_later(
    harness: ProxyHarness,
    sockets: list[socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    no_reserved_descriptor: None,
) -> None:
    monkeypatch.setattr(accept, "RETRY_SECONDS", 0.01)
    await harness.start(LISTEN=LISTEN)
    assert harness.daemon is not None
    counts = harness.daemon.listeners.factory.connection_limits.counts
    (port,) = harness.daemon.listeners._ports
    pauses: list[bool] = []
    pause = port.stopReading
    monkeypatch.setattr(port, "stopReading", lambda: (pauses.append(True), pause()))
    with capturedLogs() as events, no_free_descriptor():
        connect(sockets[:3], harness.port)
        await eventually(harness.reactor, lambda: len(pauses) == 3)
    await eventually(harness.reactor, lambda: counts.opened == 3)
    assert counts.refused["no_descriptor"] == 0
    assert len(logged_lines(events)) == 1


@pytest_twisted.ensureDeferred
async def test_paused_socket_can_be_closed(
    harness: ProxyHarness, sockets: list[socket.socket], no_reserved_descriptor: None
) -> None:
    await harness.start(LISTEN=LISTEN)
    assert harness.daemon is not None
    (port,) = harness.daemon.listeners._ports
    with capturedLogs(), no_free_descriptor():
        connect(sockets[:1], harness.port)
        await eventually(harness.reactor, lambda: port not in harness.reactor.getReaders())
        await harness.daemon.listeners.close()
        await deferLater(harness.reactor, 0)
