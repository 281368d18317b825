"""Peers over TLS that end with ``close_notify`` and leave TCP open, in each phase.

Twisted's TLS, which the peers here have, sends ``close_notify`` and waits for the answer.
"""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
from typing import Any

import pytest
import pytest_twisted

from goproxyai.proxy import upstream_request
from goproxyai.reactor.socket_state import transport_layers
from goproxyai.reactor.socket_write import unsent_bytes
from tests.integration.proxied_connections import (
    MAX_UNSENT_BYTES,
    MIB,
    client_side,
    client_sides,
    stable,
    upstream_side,
)
from tests.integration.tunnel_state import assert_nothing_open, memory_used
from tests.support.answers import chunk
from tests.support.harness import eventually, request
from tests.support.prompt import PROMPT_SECONDS
from tests.support.websocket import HANDSHAKE, SWITCHED, TunnelEnds, TunnelPeer, TunnelStand

pytestmark = pytest.mark.usefixtures("collect_garbage")

KIB = 1024
OK = b"HTTP/1.1 200 OK\r\n"
UPLOAD = request("/v1/files", "POST", [("Content-Length", str(2 * MIB))])
CHUNKED_UPLOAD = request("/v1/files", "POST", [("Transfer-Encoding", "chunked")])

WAITING_BYTES = 8 * KIB
"""Sent at once by peers that are not read."""

PIECE_BYTES = 32 * KIB


async def start(stand: TunnelStand) -> None:
    """Start a daemon whose clients and upstream have TLS."""
    await stand.start(stand.harness.authority.good())
    await stand.listen_with_tls()


async def exchange(stand: TunnelStand, message: bytes) -> TunnelEnds:
    """Send *message*; return the client and the upstream that has received its head."""
    client = await stand.connect()
    client.send(message)
    upstream = await stand.upstream.peer()
    await upstream.head()
    return client, upstream


def stop_reading(stand: TunnelStand, peer: TunnelPeer) -> None:
    """Stop reading from *peer*, with small buffers of the kernel on the way to it."""
    harness = stand.harness
    for side in (*client_sides(harness), *harness.pool):
        below = transport_layers(side.transport)[-1]
        below.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIB)
    below = transport_layers(peer.transport)[-1]
    below.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
    peer.pause_reading()


def daemon_side(stand: TunnelStand, by_client: bool) -> Any:
    """Return the daemon's connection to the client or to the upstream."""
    return client_side(stand.harness) if by_client else upstream_side(stand.harness)


def is_read(stand: TunnelStand, sender: TunnelPeer, *, by_client: bool) -> bool:
    """Return whether the daemon has read all bytes that *sender* has sent."""
    if unsent_bytes(sender.transport):
        return False
    sending, reading = (
        transport_layers(each.transport)[-1].socket
        for each in (sender, daemon_side(stand, by_client))
    )
    return not (waiting(sending, termios.TIOCOUTQ) or waiting(reading, termios.FIONREAD))


def waiting(connection: socket.socket, queue: int) -> int:
    """Return the number of bytes in a queue of the kernel."""
    return int.from_bytes(fcntl.ioctl(connection, queue, bytes(4)), sys.byteorder)


async def fill(stand: TunnelStand, sender: TunnelPeer, *, by_client: bool) -> int:
    """Send until the daemon does not read *sender*; return the number of bytes."""
    harness, sent = stand.harness, 0

    def is_paused() -> bool:
        return bool(daemon_side(stand, by_client).reading_paused)

    while not is_paused():
        sender.send(bytes(PIECE_BYTES))
        sent += PIECE_BYTES
        await eventually(
            harness.reactor, lambda: is_paused() or is_read(stand, sender, by_client=by_client)
        )
        if is_paused():  # perhaps only until the other side has taken more
            await stable(harness, lambda: memory_used(harness))
    return sent


async def received(peer: TunnelPeer, size: int) -> None:
    """Wait until *peer* has received *size* bytes."""
    await peer.until(lambda: peer.received_size >= size)


async def send_more(stand: TunnelStand, client: TunnelPeer, data: bytes) -> None:
    """Send *data* from a client whose input must wait, and wait until the daemon holds the data."""
    before = memory_used(stand.harness)
    client.send(data)
    await eventually(stand.harness.reactor, lambda: memory_used(stand.harness) > before)


async def assert_client_is_gone(stand: TunnelStand, upstream: TunnelPeer) -> None:
    await upstream.ends()
    upstream.close()
    await assert_nothing_open(stand)
    stand.harness.access_log.flush()
    assert [each["ended"] for each in stand.harness.events] == ["client_gone"]


# The client, without a request.


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v1/models HT", UPLOAD[:-2]], ids=["nothing", "line", "fields"]
)
@pytest_twisted.ensureDeferred
async def test_client_without_a_request_is_closed(stand: TunnelStand, sent: bytes) -> None:
    await start(stand)
    client = await stand.connect()
    client.send(sent)
    await eventually(stand.harness.reactor, lambda: client_sides(stand.harness))
    client.close()
    await client.wait_closed(timeout=PROMPT_SECONDS)
    await assert_nothing_open(stand)


@pytest_twisted.ensureDeferred
async def test_client_that_has_left_its_response_unread_is_closed(stand: TunnelStand) -> None:
    await start(stand)
    body = bytes(8 * MIB)
    client, upstream = await exchange(stand, request())
    stop_reading(stand, client)
    upstream.send(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await stable(stand.harness, lambda: memory_used(stand.harness))
    client.close()
    await assert_client_is_gone(stand, upstream)


# The client, during a request.

PHASES: dict[str, tuple[bytes, bytes]] = {
    "during_an_upload": (UPLOAD + b"some", b""),
    "during_a_chunked_upload": (CHUNKED_UPLOAD + chunk(b"some"), b""),
    "before_the_head": (request(), b""),
    "before_the_101": (HANDSHAKE, b""),
    "inside_the_head": (request(), OK + b"Content-"),
    "after_the_head": (request(), OK + b"Content-Length: 9\r\n\r\n"),
    "inside_a_body": (request(), OK + b"Content-Length: 9\r\n\r\npart"),
    "inside_a_close_delimited_body": (request(), OK + b"\r\npart"),
}

UNREAD = {
    "request": request("/v1/models/next"),
    "many_requests": request("/v1/models/next") * 100,
    "frames": bytes(WAITING_BYTES),
}


@pytest.mark.parametrize(("message", "answer"), PHASES.values(), ids=PHASES)
@pytest_twisted.ensureDeferred
async def test_client_ends_its_request(stand: TunnelStand, message: bytes, answer: bytes) -> None:
    await start(stand)
    client, upstream = await exchange(stand, message)
    upstream.send(answer)
    if b"\r\n\r\n" in answer:
        await client.head()
    client.close()
    await assert_client_is_gone(stand, upstream)


@pytest.mark.parametrize("pieces", [1, 2], ids=["at_once", "later"])
@pytest.mark.parametrize("unread", UNREAD.values(), ids=UNREAD)
@pytest.mark.parametrize("message", [request(), HANDSHAKE], ids=["request", "handshake"])
@pytest_twisted.ensureDeferred
async def test_client_with_unread_bytes_ends_its_request(
    stand: TunnelStand, message: bytes, unread: bytes, pieces: int
) -> None:
    await start(stand)
    client, upstream = await exchange(stand, message + unread)
    if pieces > 1:
        await eventually(stand.harness.reactor, lambda: client_side(stand.harness).reading_paused)
        client.send(unread)
    client.close()
    await assert_client_is_gone(stand, upstream)


@pytest.mark.parametrize("chunked", [False, True], ids=["content_length", "chunked"])
@pytest_twisted.ensureDeferred
async def test_client_ends_an_upload_that_upstream_does_not_read(
    stand: TunnelStand, chunked: bool
) -> None:
    await start(stand)
    client, upstream = await exchange(stand, CHUNKED_UPLOAD if chunked else UPLOAD)
    stop_reading(stand, upstream)
    if chunked:
        client.send(b"%x\r\n" % (2 * MIB))
    await fill(stand, client, by_client=True)
    client.send(bytes(WAITING_BYTES))
    client.close()
    await eventually(
        stand.harness.reactor, lambda: not len(stand.harness.pool), timeout=PROMPT_SECONDS
    )
    upstream.resume_reading()
    await assert_client_is_gone(stand, upstream)


@pytest_twisted.ensureDeferred
async def test_upload_that_was_read_ahead_is_forwarded_unchanged(stand: TunnelStand) -> None:
    await start(stand)
    harness, sent = stand.harness, b""
    client, upstream = await exchange(stand, UPLOAD)
    for piece in (b"first" * 1000, b"second" * 1000):
        stop_reading(stand, upstream)
        sent += bytes(await fill(stand, client, by_client=True))
        await send_more(stand, client, piece)
        sent += piece
        assert memory_used(harness) <= MAX_UNSENT_BYTES
        upstream.resume_reading()
        await received(upstream, len(sent))
    rest = bytes(2 * MIB - len(sent))
    client.send(rest)
    await received(upstream, 2 * MIB)
    assert upstream.received == sent + rest
    upstream.send(OK + b"Content-Length: 2\r\n\r\n{}")
    assert (await client.answer()).body == b"{}"


@pytest_twisted.ensureDeferred
async def test_requests_that_were_read_ahead_are_answered_in_order(stand: TunnelStand) -> None:
    await start(stand)
    harness = stand.harness
    client, upstream = await exchange(stand, request("/v1/models/0") + request("/v1/models/1"))
    await eventually(harness.reactor, lambda: client_side(harness).reading_paused)
    await send_more(stand, client, request("/v1/models/2"))
    for number in range(3):
        if number:
            assert b"/v1/models/%d " % number in await upstream.head()
        upstream.send(OK + b"Content-Length: 1\r\n\r\n%d" % number)
        assert (await client.answer()).body == b"%d" % number


@pytest_twisted.ensureDeferred
async def test_early_frames_that_were_read_ahead_are_relayed(stand: TunnelStand) -> None:
    await start(stand)
    harness = stand.harness
    frames = bytes(range(256)) * 4096
    client, upstream = await stand.shake_hands(frames[:100])
    await eventually(harness.reactor, lambda: client_side(harness).reading_paused)
    client.send(frames[100:])
    # The daemon reads ahead at its next tick, which may be later than `stable` waits.
    await eventually(harness.reactor, lambda: memory_used(harness) >= 64 * KIB)
    assert await stable(harness, lambda: memory_used(harness)) <= 128 * KIB
    upstream.send(SWITCHED)
    await client.head()
    await upstream.receives(frames)


# Tunnels.


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "upstream"])
@pytest_twisted.ensureDeferred
async def test_reader_that_leaves_bytes_unread_ends_the_tunnel(
    stand: TunnelStand, by_client: bool
) -> None:
    await start(stand)
    client, upstream = await stand.open()
    reader, sender = (client, upstream) if by_client else (upstream, client)
    stop_reading(stand, reader)
    for _ in range(8):
        sender.send(bytes(MIB))
    await stable(stand.harness, lambda: memory_used(stand.harness))
    assert memory_used(stand.harness) > 0
    reader.close()
    await sender.ends()
    sender.close()
    await assert_nothing_open(stand)
    stand.harness.access_log.flush()
    assert [each["ended"] for each in stand.harness.events] == ["ok"]


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "upstream"])
@pytest_twisted.ensureDeferred
async def test_all_bytes_of_a_sender_that_was_not_read_precede_the_end_of_the_tunnel(
    stand: TunnelStand, by_client: bool
) -> None:
    await start(stand)
    harness = stand.harness
    client, upstream = await stand.open()
    sender, reader = (client, upstream) if by_client else (upstream, client)
    stop_reading(stand, reader)
    size = 0
    while not memory_used(harness):
        sender.send(bytes(PIECE_BYTES))
        size += PIECE_BYTES
        await eventually(
            harness.reactor,
            lambda: memory_used(harness) or is_read(stand, sender, by_client=by_client),
        )
        if memory_used(harness):  # perhaps only until the reader's side has taken more
            await stable(harness, lambda: memory_used(harness))
    sender.send(b"last")
    sender.close()
    reader.resume_reading()
    await reader.until(lambda: reader.received_size == size + len(b"last"))
    await reader.ends()
    reader.close()
    await assert_nothing_open(stand)


# Upstream, during a request.


@pytest_twisted.ensureDeferred
async def test_upstream_that_is_not_used_is_closed(stand: TunnelStand) -> None:
    await start(stand)
    client, upstream = await exchange(stand, request())
    upstream.send(OK + b"Content-Length: 2\r\n\r\n{}")
    assert (await client.answer()).status == 200
    assert len(stand.harness.pool) == 1
    upstream.close()
    await upstream.wait_closed(timeout=PROMPT_SECONDS)
    assert len(stand.harness.pool) == 0


@pytest.mark.parametrize("answer", [b"", OK + b"Content-"], ids=["before", "inside"])
@pytest.mark.parametrize("message", [request(), HANDSHAKE, UPLOAD + b"some"])
@pytest_twisted.ensureDeferred
async def test_upstream_without_a_response_is_a_502(
    stand: TunnelStand, message: bytes, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_request, "MAX_ATTEMPTS", 1)
    await start(stand)
    client, upstream = await exchange(stand, message)
    upstream.send(answer)
    upstream.close()
    assert (await client.answer(timeout=PROMPT_SECONDS)).status == 502
    client.close()
    await assert_nothing_open(stand)


@pytest_twisted.ensureDeferred
async def test_upstream_that_does_not_read_the_upload_is_a_502(
    stand: TunnelStand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_request, "MAX_ATTEMPTS", 1)
    await start(stand)
    client, upstream = await exchange(stand, UPLOAD)
    stop_reading(stand, upstream)
    await fill(stand, client, by_client=True)
    upstream.close()
    assert (await client.answer(timeout=PROMPT_SECONDS)).status == 502
    client.close()
    upstream.resume_reading()
    await assert_nothing_open(stand)


@pytest.mark.parametrize("is_slow", [False, True], ids=["reading", "slow"])
@pytest.mark.parametrize("delimited", [False, True], ids=["length", "close"])
@pytest_twisted.ensureDeferred
async def test_upstream_ends_a_body(stand: TunnelStand, delimited: bool, is_slow: bool) -> None:
    await start(stand)
    client, upstream = await exchange(stand, request())
    upstream.send(OK + (b"\r\n" if delimited else b"Content-Length: 99999999\r\n\r\n"))
    await client.head()
    sent = 0
    if is_slow:
        stop_reading(stand, client)
        sent = await fill(stand, upstream, by_client=False)
    upstream.send(b"last")
    upstream.close()
    client.resume_reading()
    if delimited:
        await client.until(lambda: client.received.endswith(b"last\r\n0\r\n\r\n"))
        assert client.received_size > sent
    await client.ends() if not delimited else client.close()
    await assert_nothing_open(stand)
    stand.harness.access_log.flush()
    assert [each["ended"] for each in stand.harness.events] == ["ok" if delimited else "cut"]
