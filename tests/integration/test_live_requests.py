"""The requests in progress that the dashboard shows."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from goproxyai.proxy.live_requests import MAX_LIVE
from tests.integration.cached_requests import QUESTION as CHAT_QUESTION
from tests.integration.test_paced_replay import PACED, Paced, paced, recorded
from tests.support.harness import ProxyHarness, RawClient, eventually, post, request
from tests.support.steps import Pause
from tests.support.websocket import TunnelStand

__all__ = ["paced"]  # a fixture

CHAT = "/v1/chat/completions"
QUESTION = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"secret question"}]}'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FRAME = b'data: {"model":"gpt-4o","choices":[]}\n\n'


def live(harness: ProxyHarness) -> list[Any]:
    assert harness.daemon is not None
    rows: list[Any] = harness.daemon.admin.stats.sources.live()
    return rows


async def send(harness: ProxyHarness, data: bytes) -> RawClient:
    client = await harness.connect()
    client.send(data)
    return client


async def phases(harness: ProxyHarness, *expected: str) -> list[Any]:
    """Wait until the requests in progress are in these phases; return their rows."""
    await eventually(
        harness.reactor, lambda: sorted(row[5] for row in live(harness)) == sorted(expected)
    )
    return live(harness)


@pytest_twisted.ensureDeferred
async def test_request_is_shown_with_its_model_until_it_ends(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script(CHAT, [Pause()])
    client = await send(harness, post(CHAT + "?key=secret", QUESTION))
    ((age, method, path, address, model, _, first_byte),) = await phases(harness, "waiting")
    assert (method, path, address, model) == (
        "POST", "/v1/chat/completions?key", "127.0.0.1", "gpt-4o-mini",
    )  # fmt: skip
    assert age >= 0 > first_byte
    assert "secret" not in str(live(harness))
    client.abort()
    await phases(harness)


@pytest.mark.parametrize("temperature", [b"0", b"1"])
@pytest_twisted.ensureDeferred
async def test_stream_is_shown_with_first_byte_and_model_of_the_response(
    harness: ProxyHarness, temperature: bytes
) -> None:
    """With temperature 0 the request is shared, and forwarded alone otherwise."""
    await harness.start()
    harness.upstream.script(CHAT, [STREAM + b"%x\r\n%b\r\n" % (len(FRAME), FRAME), Pause()])
    body = b'{"temperature":%b,"stream":true,"messages":"%b"}' % (temperature, b"x" * 5000)
    client = await send(harness, post(CHAT, body))
    await phases(harness, "streaming")
    await eventually(harness.reactor, lambda: live(harness)[0][4] == "gpt-4o")
    assert live(harness)[0][6] >= 0
    client.abort()


@pytest_twisted.ensureDeferred
async def test_upload_and_unfinished_response_have_their_phases(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script(
        "/v1/models", [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx", Pause()]
    )
    one = await send(harness, request("/v1/models"))
    other = await send(harness, post(CHAT, QUESTION)[:-5])
    rows = await phases(harness, "responding", "receiving")
    assert {row[4] for row in rows} == {""}
    one.abort()
    other.abort()


@pytest_twisted.ensureDeferred
async def test_own_pages_are_not_shown_and_rows_are_bounded(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script("/v1/models", [Pause()])
    clients = [await send(harness, request("/dashboard/events"))]
    for number in range(MAX_LIVE + 5):
        clients.append(await send(harness, request(f"/v1/models?{number}", "POST", body=b"{}")))
    rows = await phases(harness, *["waiting"] * MAX_LIVE)
    ages = [row[0] for row in rows]
    assert ages == sorted(ages, reverse=True)
    for client in clients:
        client.abort()


@pytest_twisted.ensureDeferred
async def test_replay_from_the_cache_is_shown(harness: ProxyHarness, paced: Paced) -> None:
    await harness.start()
    await recorded(harness, paced)
    client = await send(harness, post(CHAT, CHAT_QUESTION, PACED))
    rows = await phases(harness, "streaming")
    assert rows[0][6] >= 0
    client.abort()


@pytest_twisted.ensureDeferred
async def test_tunnel_is_shown(stand: TunnelStand) -> None:
    await stand.start()
    client, _ = await stand.open()
    rows = await phases(stand.harness, "tunnel")
    assert rows[0][1] == "GET"
    assert rows[0][6] >= 0
    client.abort()
    await phases(stand.harness)
