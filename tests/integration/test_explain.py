"""``X-Proxy-Explain``: the fate of a request, told to operators without any effect."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from goproxyai.proxy.handler import MAX_KEYED_BODY_BYTES
from tests.integration.egress_proxy import start_with_egress_proxy
from tests.support.answers import response
from tests.support.harness import Answer, ProxyHarness, RawClient, eventually, post, request
from tests.support.steps import Pause

CHAT = b'{"model":"m","temperature":0,"messages":[]}'
EXPLAIN = ("X-Proxy-Explain", "1")
TOKEN = "operator-token"


def explanation(answer: Answer) -> dict[str, Any]:
    assert (answer.status, answer.get("Content-Type")) == (200, b"application/json"), answer.body
    assert answer.get("Cache-Control") == b"no-store"
    assert answer.get("X-Cache") is None
    document: dict[str, Any] = json.loads(answer.body)["explain"]
    return document


async def explained(
    harness: ProxyHarness, path: str = "/v1/models", *headers: tuple[str, str], **more: Any
) -> dict[str, Any]:
    return explanation(await harness.ask(request(path, headers=[EXPLAIN, *headers], **more)))


def peeked(harness: ProxyHarness) -> tuple[int, ...]:
    """Return what an explanation must not change."""
    assert harness.daemon is not None
    context = harness.daemon.context
    counters = context.counters
    return (
        len(harness.upstream.requests), counters.hits, counters.misses, counters.bypasses,
        counters.limited, context.store.expirations, len(context.store),
    )  # fmt: skip


@pytest_twisted.ensureDeferred
async def test_miss_and_hit_are_explained_without_an_effect(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="10", CACHE_TTL="90s")
    first = await harness.ask(post("/v1/chat/completions", CHAT, [EXPLAIN]))
    before = explanation(first)
    assert before["client"] == {"address": "127.0.0.1", "limited_as": "127.0.0.1"}
    assert before["rate_limit"] == {
        "per_minute": 10, "tokens_left": 10, "others_may_have_more": False,
    }  # fmt: skip
    cache = before["cache"]
    key = cache.pop("key")
    assert cache == {
        "outcome": "miss", "reason": "miss", "may_be_in_second_level": False, "ttl_seconds": 90.0,
        "may_share_upstream_request": True, "would_join_request_in_progress": False,
    }  # fmt: skip
    assert before["upstream"] == {
        "url": f"http://127.0.0.1:{harness.upstream_port}", "circuit": "closed", "proxy": None,
    }  # fmt: skip
    assert peeked(harness) == (0, 0, 0, 0, 0, 0, 0)
    relayed = await harness.ask(post("/v1/chat/completions", CHAT))
    assert relayed.get("X-Cache") == b"MISS"
    state = peeked(harness)
    after = explanation(await harness.ask(post("/v1/chat/completions", CHAT, [EXPLAIN])))
    assert (after["cache"]["outcome"], after["cache"]["key"]) == ("hit", key)
    assert (after["cache"]["status"], after["cache"]["age_seconds"]) == (200, 0)
    assert 0 < after["cache"]["fresh_for_seconds"] <= 90
    assert after["cache"]["stored_at"].endswith("Z")
    assert after["upstream"] is None
    assert after["rate_limit"]["tokens_left"] == 9  # of the relayed request
    assert peeked(harness) == state
    assert all(seen.header(b"x-proxy-explain") is None for seen in harness.upstream.requests)


@pytest_twisted.ensureDeferred
async def test_repeated_request_of_a_connection_is_explained_each_time(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    client = await harness.connect()
    for _ in range(3):
        client.send(request("/v1/models", headers=[EXPLAIN]))
        assert explanation(await client.answer())["cache"]["outcome"] == "miss"
    client.send(request("/v1/models"))
    assert (await client.answer()).get("X-Cache") == b"MISS"
    client.send(request("/v1/models", headers=[EXPLAIN]))
    assert explanation(await client.answer())["cache"]["outcome"] == "hit"


@pytest_twisted.ensureDeferred
async def test_reason_of_a_bypass_is_named(harness: ProxyHarness) -> None:
    await harness.start()
    found = await explained(harness, "/v1/models", ("X-Team", "a"))
    assert found["cache"] == {"outcome": "bypass", "reason": "header", "header": "x-team"}
    found = await explained(harness, "/v1/models", ("Range", "bytes=0-"))
    assert found["cache"] == {"outcome": "bypass", "reason": "range"}
    answer = await harness.ask(post("/v1/files", b"{}", [EXPLAIN]))
    assert explanation(answer)["cache"]["reason"] == "path"
    body = b'{"model":"m","store":true}'
    answer = await harness.ask(post("/v1/chat/completions", body, [EXPLAIN]))
    assert explanation(answer)["cache"]["reason"] == "store"
    assert len(harness.upstream.requests) == 0


@pytest_twisted.ensureDeferred
async def test_body_that_decides_is_a_reason(harness: ProxyHarness) -> None:
    await harness.start(CACHE_PATHS="responses")
    answer = await harness.ask(post("/v1/responses", b'{"model":"m"}', [EXPLAIN]))
    assert explanation(answer)["cache"]["outcome"] == "bypass"


@pytest_twisted.ensureDeferred
async def test_large_body_is_a_bypass_whether_announced_or_not(harness: ProxyHarness) -> None:
    await harness.start()
    client = await harness.connect()
    length = str(MAX_KEYED_BODY_BYTES + 1)
    head = request("/v1/embeddings", "POST", [EXPLAIN, ("Content-Length", length)])
    client.send(head)
    assert explanation(await client.answer())["cache"]["reason"] == "size"
    client = await harness.connect()
    client.send(request("/v1/embeddings", "POST", [EXPLAIN, ("Transfer-Encoding", "chunked")]))
    piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    for _ in range(11):
        client.send(piece)
    client.send(b"0\r\n\r\n")
    assert explanation(await client.answer())["cache"]["reason"] == "size"


@pytest_twisted.ensureDeferred
async def test_client_without_tokens_is_explained(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    await harness.ask(request("/v1/models"))
    assert (await harness.ask(request("/v1/models"))).status == 429
    for _ in range(3):
        assert (await explained(harness))["rate_limit"]["tokens_left"] == 0


@pytest_twisted.ensureDeferred
async def test_limit_that_is_off_has_no_tokens(harness: ProxyHarness) -> None:
    await harness.start()
    assert (await explained(harness))["rate_limit"] == {
        "per_minute": 0, "tokens_left": None, "others_may_have_more": False,
    }  # fmt: skip


@pytest_twisted.ensureDeferred
async def test_expired_and_refused_entries_are_misses(skewed_harness: ProxyHarness) -> None:
    harness = skewed_harness
    await harness.start(CACHE_TTL="10s", CACHE_STALE="1h")
    await harness.ask(request("/v1/models"))
    found = await explained(harness, "/v1/models", ("Cache-Control", "no-cache"))
    assert (found["cache"]["reason"], found["cache"]["may_share_upstream_request"]) == (
        "request", False,
    )  # fmt: skip
    harness.advance(11)
    assert (await explained(harness))["cache"]["reason"] == "stale"
    harness.advance(3600)
    state = peeked(harness)
    assert (await explained(harness))["cache"]["reason"] == "miss"
    assert peeked(harness) == state  # the entry is not removed by an explanation


@pytest_twisted.ensureDeferred
async def test_request_in_progress_that_would_be_joined_is_told(harness: ProxyHarness) -> None:
    pause = Pause()
    harness.upstream.script("/v1/models", [pause, response(b'{"object":"list","data":[]}')])
    await harness.start()
    client = await harness.connect()
    client.send(request("/v1/models"))
    await harness.upstream.requests.wait_for(lambda _: True)
    assert (await explained(harness))["cache"]["would_join_request_in_progress"]
    pause.release()
    assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("path", "headers", "texts", "code"),
    [
        ("/v1/models", [("Cache-Control", "only-if-cached")], {}, "only_if_cached"),
        (
            "/v1/realtime",
            [("Connection", "upgrade"), ("Upgrade", "websocket")],
            {"UPGRADES": "off"},
            "upgrade_refused",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_refusal_is_told_with_its_status(
    harness: ProxyHarness,
    path: str,
    headers: list[tuple[str, str]],
    texts: dict[str, str],
    code: str,
) -> None:
    await harness.start(**texts)
    found = await explained(harness, path, *headers)
    assert (found["cache"], found["upstream"]) == (None, None)
    assert found["error"]["code"] == code
    assert found["error"]["status"] >= 400


@pytest_twisted.ensureDeferred
async def test_websocket_is_a_bypass(harness: ProxyHarness) -> None:
    await harness.start()
    headers = [("Connection", "upgrade"), ("Upgrade", "websocket")]
    found = await explained(harness, "/v1/realtime", *headers)
    assert (found["cache"]["reason"], found["websocket"]) == ("upgrade", True)
    assert len(harness.upstream.requests) == 0


@pytest_twisted.ensureDeferred
async def test_open_circuit_is_told_as_the_error(harness: ProxyHarness) -> None:
    await harness.start()
    assert harness.daemon is not None
    upstream = harness.daemon.context.upstreams.first
    now = harness.reactor.seconds()
    for _ in range(50):
        upstream.breaker.record_probe(now, False)
    found = await explained(harness)
    assert found["upstream"] is None
    assert found["error"]["code"] == "circuit_open"


@pytest_twisted.ensureDeferred
async def test_egress_proxy_is_masked(harness: ProxyHarness) -> None:
    await start_with_egress_proxy(harness, "me:hunter2@", upstream="http://api.openai.test")
    answer = await harness.ask(request("/v1/models", headers=[EXPLAIN]))
    assert explanation(answer)["upstream"]["proxy"].startswith("http://***:***@127.0.0.1:")
    assert b"hunter2" not in answer.body


# Operators and other clients.


async def refused(harness: ProxyHarness, *headers: tuple[str, str]) -> Answer:
    answer = await harness.ask(request("/v1/models", headers=[EXPLAIN, *headers]))
    assert answer.status == 403
    assert json.loads(answer.body)["error"]["code"] == "admin_forbidden"
    assert b"Proxy-Authorization" in answer.body
    assert len(harness.upstream.requests) == 0
    return answer


@pytest_twisted.ensureDeferred
async def test_other_clients_are_refused_and_nothing_is_relayed(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_ALLOW="192.0.2.0/24", ADMIN_TOKEN=TOKEN, RATE_LIMIT="3")
    await refused(harness)
    await refused(harness, ("Proxy-Authorization", "Bearer wrong"))
    await refused(harness, ("Connection", "x-proxy-explain"))
    answer = await harness.ask(request("/v1/models", headers=[EXPLAIN]))
    assert answer.status == 429  # refusals spend tokens
    assert TOKEN.encode() not in answer.body


@pytest_twisted.ensureDeferred
async def test_operator_may_present_the_token_for_this_hop(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_ALLOW="", ADMIN_TOKEN=TOKEN)
    header = ("Proxy-Authorization", f"Bearer {TOKEN}")
    forwarded = ("X-Forwarded-For", "203.0.113.7")
    found = await explained(harness, "/v1/models", header, forwarded)
    assert found["client"]["address"] == "203.0.113.7"
    # The key is that of the client's request, whose credential is another one.
    without = await harness.ask(request("/v1/models"))
    assert without.get("X-Cache") == b"MISS"
    assert (await explained(harness, "/v1/models", header))["cache"]["outcome"] == "hit"


@pytest_twisted.ensureDeferred
async def test_token_in_place_of_the_api_key_is_not_accepted(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_ALLOW="", ADMIN_TOKEN=TOKEN)
    answer = await harness.ask(
        request("/v1/models", headers=[EXPLAIN], key=f"Bearer {TOKEN}".encode())
    )
    assert answer.status == 403


@pytest_twisted.ensureDeferred
async def test_forwarded_request_is_not_admitted_by_address(harness: ProxyHarness) -> None:
    await harness.start()
    await refused(harness, ("X-Forwarded-For", "203.0.113.7"))


@pytest_twisted.ensureDeferred
async def test_other_value_is_a_bad_request(harness: ProxyHarness) -> None:
    await harness.start()
    answer = await harness.ask(request("/v1/models", headers=[("X-Proxy-Explain", "0")]))
    assert answer.status == 400
    assert len(harness.upstream.requests) == 0


@pytest_twisted.ensureDeferred
async def test_listener_of_operators_explains_in_place_of_the_public_one(
    harness: ProxyHarness,
) -> None:
    await harness.start(ADMIN_LISTEN="tcp:0:interface=127.0.0.1")
    answer = await harness.ask(request("/v1/models", headers=[EXPLAIN]))
    assert answer.status == 403
    assert b"ADMIN_LISTEN" in answer.body
    assert harness.daemon is not None
    port = harness.daemon.listeners.addresses[1].port
    endpoint = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port)
    client = await connectProtocol(endpoint, RawClient(harness.reactor))
    harness.clients.append(client)
    client.send(request("/v1/models", headers=[EXPLAIN]))
    assert explanation(await client.answer())["cache"]["outcome"] == "miss"
    client.send(request("/v1/models"))
    assert (await client.answer()).status == 404
    assert len(harness.upstream.requests) == 0


# The client leaves, or its body is malformed.


@pytest_twisted.ensureDeferred
async def test_client_that_leaves_before_its_body_is_recorded(harness: ProxyHarness) -> None:
    await harness.start()
    client = await harness.connect()
    client.send(request("/v1/embeddings", "POST", [EXPLAIN, ("Content-Length", "5")]) + b"ab")
    assert harness.daemon is not None
    connections = harness.daemon.listeners.factory.connections
    await eventually(harness.reactor, lambda: any(not each.idle for each in connections))
    client.abort()
    await client.wait_closed()
    await eventually(harness.reactor, lambda: not connections)
    (line,) = await harness.logged()
    assert (line["status"], line["ended"]) == (499, "client_gone")


@pytest_twisted.ensureDeferred
async def test_malformed_body_is_refused(harness: ProxyHarness) -> None:
    await harness.start()
    client = await harness.connect()
    client.send(
        request("/v1/embeddings", "POST", [EXPLAIN, ("Transfer-Encoding", "chunked")]) + b"x\r\n"
    )
    assert (await client.answer()).status == 400


@pytest_twisted.ensureDeferred
async def test_explanation_is_marked_in_the_log(harness: ProxyHarness) -> None:
    await harness.start()
    await explained(harness)
    (line,) = await harness.logged()
    assert (line["status"], line["cache"], line["detail"]) == (200, "-", "explain")
