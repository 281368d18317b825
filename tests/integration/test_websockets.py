"""WebSocket handshakes: what is sent upstream, what is answered, and what is refused."""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from goproxyai.http11.connection_states import InputState
from tests.integration.proxied_connections import client_side
from tests.support.harness import KEY, ProxyHarness, eventually, request
from tests.support.websocket import (
    ACCEPT,
    HANDSHAKE,
    HANDSHAKE_FIELDS,
    SWITCHED,
    TunnelStand,
)

pytestmark = pytest.mark.usefixtures("collect_garbage")


def fields(head: bytes) -> dict[str, str]:
    """Return the fields of *head* by lower-cased name; no name may be repeated."""
    lines = [line.partition(": ") for line in head.decode().split("\r\n")[1:-2]]
    names = [name.lower() for name, _, _ in lines]
    assert len(set(names)) == len(names)
    return {name.lower(): value for name, _, value in lines}


@pytest_twisted.ensureDeferred
async def test_handshake_is_relayed_with_its_fields(stand: TunnelStand) -> None:
    await stand.start()
    client = await stand.connect()
    client.send(request("/v1/realtime?model=m", headers=[
        *HANDSHAKE_FIELDS, ("OpenAI-Beta", "realtime=v1"), ("X-Forwarded-For", "192.0.2.1"),
    ]))  # fmt: skip
    upstream = await stand.upstream.peer()
    head = await upstream.head()
    assert head.startswith(b"GET /v1/realtime?model=m HTTP/1.1\r\n")
    sent = fields(head)
    assert sent["host"] == f"127.0.0.1:{stand.port}"
    assert (sent["connection"], sent["upgrade"]) == ("Upgrade", "websocket")
    assert sent["authorization"] == KEY.decode()
    assert "x-forwarded-for" not in sent
    for name, value in HANDSHAKE_FIELDS[2:]:
        assert sent[name.lower()] == value
    upstream.send(SWITCHED)
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    answered = fields(head)
    assert (answered["connection"], answered["upgrade"]) == ("Upgrade", "websocket")
    assert answered["sec-websocket-accept"] == ACCEPT.decode()
    assert answered["sec-websocket-protocol"] == "realtime"
    assert answered["cache-status"] == "goproxyai; fwd=bypass; detail=upgrade"
    assert (answered["x-cache"], answered["x-proxy"]) == ("MISS", "goproxyai")
    assert answered.keys() >= {"via", "server-timing", "x-request-id"}
    client.send(b"\x81\x01a")
    await upstream.receives(b"\x81\x01a")
    upstream.send(b"\x81\x01b")
    await client.receives(b"\x81\x01b")


@pytest_twisted.ensureDeferred
async def test_content_length_of_101_is_not_relayed(stand: TunnelStand) -> None:
    await stand.start()
    client, upstream = await stand.shake_hands()
    upstream.send(SWITCHED.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\nframe"))
    assert b"content-length" not in (await client.head()).lower()
    await client.receives(b"frame")


@pytest_twisted.ensureDeferred
async def test_interim_response_is_relayed_before_the_101(stand: TunnelStand) -> None:
    await stand.start()
    client, upstream = await stand.shake_hands()
    upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + SWITCHED)
    assert (await client.head()).startswith(b"HTTP/1.1 103 ")
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("step", [1, 2, 7, 60])
@pytest_twisted.ensureDeferred
async def test_bytes_behind_both_handshakes_in_any_pieces_are_relayed(
    stand: TunnelStand, step: int
) -> None:
    await stand.start()
    client = await stand.connect()
    early = b"\x81\x85\0\0\0\0hello" + b"GET / HTTP/1.1\r\n\r\n"
    sent = HANDSHAKE + early
    for start in range(0, len(sent), step):
        client.send(sent[start : start + step])
        if step > 1 or start % 50 == 0:
            await client.until(lambda: True)
    upstream = await stand.upstream.peer()
    await upstream.head()
    answer = SWITCHED + b"\x81\x05world"
    for start in range(0, len(answer), step):
        upstream.send(answer[start : start + step])
    await upstream.receives(early)
    await client.head()
    await client.receives(b"\x81\x05world")
    client.send(b"more")
    await upstream.receives(b"more")


@pytest_twisted.ensureDeferred
async def test_bytes_before_the_101_are_bounded(stand: TunnelStand) -> None:
    await stand.start()
    early = bytes(range(256)) * 65_536  # 16 MiB
    client, upstream = await stand.shake_hands(early[:100_000])
    client.send(early[100_000:])
    await eventually(stand.harness.reactor, lambda: client_side(stand.harness).reading_paused)
    assert stand.harness.daemon is not None
    assert 0 < stand.harness.daemon.context.memory.used <= 128 * 1024
    upstream.send(SWITCHED)
    await client.head()
    await upstream.receives(early)


@pytest_twisted.ensureDeferred
async def test_handshake_whose_early_bytes_were_dropped_is_refused(stand: TunnelStand) -> None:
    await stand.start(MAX_REQUEST_MEMORY="0.03")
    client, upstream = await stand.shake_hands()
    client.send(bytes(60_000))  # more than the budget
    await eventually(
        stand.harness.reactor, lambda: client_side(stand.harness).input_state is InputState.ENDED
    )
    upstream.send(SWITCHED)
    answer = await client.answer()
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "overloaded")
    await client.ends()
    client.close()
    await upstream.wait_closed()
    assert upstream.received == b""


@pytest_twisted.ensureDeferred
async def test_answer_other_than_101_is_relayed(stand: TunnelStand) -> None:
    await stand.start()
    client, upstream = await stand.shake_hands()
    upstream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nX-A: b\r\n\r\nno")
    answer = await client.answer()
    assert (answer.status, answer.body, answer.get("X-A")) == (401, b"no", b"b")
    assert answer.get("Cache-Status") == b"goproxyai; fwd=bypass; detail=upgrade"
    client.send(request())
    await upstream.head()  # both connections are used again
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert (await client.answer()).body == b"ok"


@pytest_twisted.ensureDeferred
async def test_handshake_after_other_requests_uses_their_connections(stand: TunnelStand) -> None:
    await stand.start(CACHE_TTL="0")
    client = await stand.connect()
    client.send(request() + HANDSHAKE + b"frame")
    upstream = await stand.upstream.peer()
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert (await client.answer()).body == b"ok"
    await upstream.head()
    upstream.send(SWITCHED)
    await client.head()
    await upstream.receives(b"frame")
    assert len(stand.upstream.peers) == 1


VIOLATIONS = {
    "another_protocol": SWITCHED.replace(b"websocket", b"h2c"),
    "no_upgrade": SWITCHED.replace(b"Upgrade: websocket\r\n", b""),
    "no_connection": SWITCHED.replace(b"Connection: Upgrade\r\n", b""),
    "body": SWITCHED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello"),
    "chunked": SWITCHED.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("answer", VIOLATIONS.values(), ids=VIOLATIONS)
@pytest_twisted.ensureDeferred
async def test_invalid_101_is_a_502(stand: TunnelStand, answer: bytes) -> None:
    await stand.start()
    client, upstream = await stand.shake_hands()
    upstream.send(answer)
    refused = await client.answer()
    assert refused.status == 502
    assert json.loads(refused.body)["error"]["code"] == "upstream_protocol_error"
    await upstream.wait_closed()


@pytest_twisted.ensureDeferred
async def test_101_without_handshake_is_a_502(stand: TunnelStand) -> None:
    await stand.start()
    client = await stand.connect()
    client.send(request(headers=[("Connection", "Upgrade"), ("Upgrade", "h2c")]))
    upstream = await stand.upstream.peer()
    assert b"pgrade" not in await upstream.head()
    upstream.send(SWITCHED)
    refused = await client.answer()
    assert json.loads(refused.body)["error"]["code"] == "upstream_protocol_error"


NO_HANDSHAKES = {
    "http_1_0": HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "post": HANDSHAKE.replace(b"GET", b"POST"),
    "no_connection": HANDSHAKE.replace(b"keep-alive, Upgrade", b"keep-alive"),
    "no_upgrade": HANDSHAKE.replace(b"Upgrade: websocket", b"X-A: b"),
}


@pytest.mark.parametrize("sent", NO_HANDSHAKES.values(), ids=NO_HANDSHAKES)
@pytest_twisted.ensureDeferred
async def test_upgrade_that_is_no_handshake_is_ignored(harness: ProxyHarness, sent: bytes) -> None:
    await harness.start()
    harness.upstream.script("/v1/realtime", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert (await harness.ask(sent)).body == b"ok"
    (received,) = harness.upstream.requests
    assert received.header(b"upgrade") is None
    assert b"upgrade" not in (received.header(b"connection") or b"").lower()


@pytest.mark.parametrize(
    "body", [b"Content-Length: 2\r\n\r\nhi", b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"]
)
@pytest_twisted.ensureDeferred
async def test_handshake_with_body_is_a_400(harness: ProxyHarness, body: bytes) -> None:
    await harness.start()
    refused = await harness.ask(HANDSHAKE.replace(b"\r\n\r\n", b"\r\n" + body))
    assert refused.status == 400
    assert json.loads(refused.body)["error"]["code"] == "bad_request"
    assert len(harness.upstream.requests) == 0


@pytest_twisted.ensureDeferred
async def test_handshake_with_content_length_0_is_accepted(stand: TunnelStand) -> None:
    await stand.start()
    client = await stand.connect()
    client.send(HANDSHAKE.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"))
    upstream = await stand.upstream.peer()
    await upstream.head()
    upstream.send(SWITCHED)
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")


@pytest_twisted.ensureDeferred
async def test_upgrades_off_refuses_handshakes_with_426(harness: ProxyHarness) -> None:
    await harness.start(UPGRADES="off")
    client = await harness.connect()
    client.send(HANDSHAKE)
    refused = await client.answer()
    assert (refused.status, refused.get("Upgrade")) == (426, b"websocket")
    assert refused.get("Connection") == b"Upgrade"
    assert json.loads(refused.body)["error"]["code"] == "upgrade_refused"
    client.send(request(headers=[("Connection", "Upgrade"), ("Upgrade", "h2c")]))
    assert (await client.answer()).status == 200
    assert [each["code"] for each in (await harness.logged(2))[:1]] == ["upgrade_refused"]


@pytest_twisted.ensureDeferred
async def test_handshakes_spend_tokens(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1", UPGRADES="off")
    assert (await harness.ask(HANDSHAKE)).status == 426
    assert (await harness.ask(HANDSHAKE)).status == 429


@pytest_twisted.ensureDeferred
async def test_request_timeout_bounds_the_wait_for_the_101(stand: TunnelStand) -> None:
    await stand.start(REQUEST_TIMEOUT="300ms")
    client, upstream = await stand.shake_hands()
    answer = await client.answer()
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (504, "upstream_timeout")
    await upstream.wait_closed()


@pytest_twisted.ensureDeferred
async def test_draining_daemon_refuses_handshakes(stand: TunnelStand) -> None:
    await stand.start()
    client = await stand.connect()
    client.send(request("/health"))
    assert (await client.answer()).status == 200
    assert stand.harness.daemon is not None
    stand.harness.daemon.admin.stats.draining = True
    client.send(HANDSHAKE)
    assert (await client.answer()).status == 503


@pytest_twisted.ensureDeferred
async def test_handshake_on_an_idle_connection_that_was_closed_is_retried(
    stand: TunnelStand,
) -> None:
    await stand.start(CACHE_TTL="0")
    client = await stand.connect()
    client.send(request())
    first = await stand.upstream.peer()
    await first.head()
    first.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await client.answer()
    client.send(HANDSHAKE)
    await first.head()
    first.abort()
    second = await stand.upstream.peer(2)
    await second.head()
    second.send(SWITCHED)
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")
