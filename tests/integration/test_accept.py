"""How listening sockets accept: in storms, without files, and what is allowed at the start."""

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
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogEvent, capturedLogs, eventAsText

from goproxyai.limits.connection_slots import ConnectionSlots
from goproxyai.reactor import accept as accepting
from goproxyai.reactor.accept import LOG_SECONDS, MOST_ACCEPTS, Accepting, fit
from tests.support.answers import chunk, head
from tests.support.harness import Skewed, Stand, Wire, eventually, request
from tests.support.steps import Pause

STORM = 500
"""Connections at once."""

LISTEN = "tcp:0:interface=127.0.0.1:backlog=1024"


def lines(events: list[LogEvent]) -> list[str]:
    """What was logged by the sockets, Twisted's own lines among it."""
    ours = ("goproxyai.accepting", "twisted.internet.tcp")
    found = [event for event in events if str(event.get("log_namespace")).startswith(ours)]
    return [eventAsText(event, includeTimestamp=False, includeSystem=False) for event in found]


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Clients, one for each connection of a storm; of the kernel's kind, and not connected yet."""
    made = [socket.socket() for _ in range(STORM)]
    for each in made:
        each.setblocking(False)
    yield made
    for each in made:
        each.close()


def connect(sockets: list[socket.socket], port: int) -> None:
    """Connect them all: the kernel accepts them, and the daemon does not know yet."""
    for each in sockets:
        each.connect_ex(("127.0.0.1", port))


class PingPong(Wire):
    """A client that has its stream's next frame sent as soon as the last one is there.

    :ivar seen: what *measure* gave at each frame.
    """

    def __init__(self, reactor: Any, measure: Callable[[], int]) -> None:
        super().__init__(reactor)
        self._measure = measure
        self.seen: list[int] = []
        self.send_next: Callable[[bytes], None] | None = None

    def dataReceived(self, data: bytes) -> None:
        if b"frame" in data:
            self.seen.append(self._measure())
            if self.send_next is not None:
                self.send_next(chunk(b"frame"))
        super().dataReceived(data)


@pytest_twisted.ensureDeferred
async def test_streams_go_on_in_a_storm_of_connections(
    stand: Stand, sockets: list[socket.socket]
) -> None:
    await stand.start(LISTEN=LISTEN)
    assert stand.daemon is not None
    counters = stand.daemon.door.factory.connection_limits.counts
    pause = Pause()
    chunked = [(b"Transfer-Encoding", b"chunked")]
    stand.upstream.script("/v1/stream", [head(200, chunked), chunk(b"frame"), pause, chunk(b"")])
    wire = PingPong(stand.reactor, lambda: counters.opened)
    await stand.connect(wire)
    wire.send(request("/v1/stream"))
    await wire.until(lambda: len(wire.seen) == 1)
    (upstream,) = stand.upstream.connections
    wire.send_next = upstream.wire.write
    connect(sockets, stand.port)
    upstream.wire.write(chunk(b"frame"))
    await eventually(stand.reactor, lambda: counters.opened == STORM + 1)
    wire.send_next = None
    # From one frame to the next is a turn for each of two sockets, and one to spare.
    gaps = [late - early for early, late in pairwise(wire.seen)]
    assert max(gaps) <= 4 * MOST_ACCEPTS
    assert len(wire.seen) > STORM // (4 * MOST_ACCEPTS)
    pause.release()
    await wire.until(lambda: wire.came.endswith(b"0\r\n\r\n"))
    for each in sockets:
        each.close()
    await eventually(stand.reactor, lambda: counters.opened - counters.closed == 1)


# No files left.


@contextmanager
def no_files() -> Iterator[None]:
    """Let the process open no further file."""
    lowest = os.dup(0)
    os.close(lowest)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest_twisted.ensureDeferred
async def test_without_files_who_comes_is_closed_and_one_line_says_so(
    stand: Stand, sockets: list[socket.socket]
) -> None:
    stand.reactor = Skewed(stand.reactor)
    await stand.start(LISTEN=LISTEN)
    assert stand.daemon is not None
    refused = stand.daemon.door.factory.connection_limits.counts.refused
    with capturedLogs() as events:
        for begin, end in ((0, 5), (5, 8), (8, 10)):
            if begin == 8:
                stand.reactor.ahead += LOG_SECONDS
            with no_files():
                connect(sockets[begin:end], stand.port)
                await eventually(stand.reactor, lambda end=end: refused["no_descriptor"] == end)
    assert [line.partition(";")[0] for line in lines(events)] == [
        "no file descriptor is left (EMFILE), 5 connections were closed unheard"
    ] * 2
    assert (await stand.ask(request())).status == 200


@pytest_twisted.ensureDeferred
async def test_a_socket_that_cannot_accept_pauses_and_nobody_is_lost(
    stand: Stand, sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "_reservedFD", tcp._NullFileDescriptorReservation())
    monkeypatch.setattr(accepting, "PAUSE_SECONDS", 0.01)
    await stand.start(LISTEN=LISTEN)
    assert stand.daemon is not None
    counters = stand.daemon.door.factory.connection_limits.counts
    (port,) = stand.daemon.door._ports
    pauses: list[bool] = []
    stop_reading = port.stopReading
    monkeypatch.setattr(port, "stopReading", lambda: (pauses.append(True), stop_reading()))
    with capturedLogs() as events, no_files():
        connect(sockets[:3], stand.port)
        await eventually(stand.reactor, lambda: len(pauses) == 3)
    await eventually(stand.reactor, lambda: counters.opened == 3)
    assert counters.refused["no_descriptor"] == 0
    assert len(lines(events)) == 1


@pytest_twisted.ensureDeferred
async def test_a_socket_that_pauses_can_be_closed(
    stand: Stand, sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "_reservedFD", tcp._NullFileDescriptorReservation())
    await stand.start(LISTEN=LISTEN)
    assert stand.daemon is not None
    (port,) = stand.daemon.door._ports
    with capturedLogs(), no_files():
        connect(sockets[:1], stand.port)
        await eventually(stand.reactor, lambda: port not in stand.reactor.getReaders())
        await stand.daemon.door.close()
        await deferLater(stand.reactor, 0)


def test_a_port_that_is_not_twisteds_is_left_alone() -> None:
    port = object()
    Accepting(port, Clock(), [].append).stop()


# What is allowed at the start.

Limits = Callable[..., list[tuple[int, int]]]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    """Plants limits on open files; gives those that are set."""

    def plant(soft: int, hard: int, forbidden: bool = False) -> list[tuple[int, int]]:
        raised: list[tuple[int, int]] = []

        def setrlimit(_: int, to: tuple[int, int]) -> None:
            if forbidden:
                raise ValueError("not allowed to raise maximum limit")
            raised.append(to)

        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", setrlimit)
        return raised

    return plant


def fitted(most: int) -> tuple[int, list[str]]:
    """How many connections are held of *most*, and what is logged of that."""
    slots: ConnectionSlots[int] = ConnectionSlots(most, 0, bool)
    with capturedLogs() as events:
        fit(slots)
    return slots.max_connections, lines(events)


def test_the_soft_limit_is_raised_to_the_hard_one(limits: Limits) -> None:
    raised = limits(1024, 4096)
    assert fitted(1000) == (1000, [])
    assert raised == [(4096, 4096)]


def test_where_files_do_not_suffice_fewer_are_held_and_one_line_says_so(limits: Limits) -> None:
    limits(256, 1024)
    assert fitted(10_000) == (
        573,
        [
            "MAX_CONNECTIONS is 10000, for which 15164 file descriptors are needed, and 1024 are "
            "allowed (ulimit -n): at most 573 connections are held"
        ],
    )


def test_a_limit_that_may_not_be_raised_stays(limits: Limits) -> None:
    limits(1024, 100_000, forbidden=True)
    assert fitted(10_000)[0] == 573


def test_no_limit_is_none(limits: Limits) -> None:
    assert limits(resource.RLIM_INFINITY, resource.RLIM_INFINITY) == []
    assert fitted(1_000_000) == (1_000_000, [])


@pytest_twisted.ensureDeferred
async def test_the_daemon_starts_with_fewer_and_says_how_many(stand: Stand, limits: Limits) -> None:
    limits(1024, 1024)
    with capturedLogs() as events:
        await stand.start()
    assert stand.daemon is not None
    assert stand.daemon.system.stats.document()["connections"]["most"] == 573
    assert len(lines(events)) == 1
    assert (await stand.ask(request())).status == 200
