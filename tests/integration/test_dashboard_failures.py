"""Failures in `/stats` and in the dashboard's state: the verdict, and errors by cause."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from tests.support.answers import response
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.steps import Reset

CHAT = "/v1/chat/completions"
ERROR = b'{"error":{"message":"refused by upstream"}}'


def refusal(status: int, upstream_id: bytes) -> bytes:
    return response(ERROR, status, [(b"x-request-id", upstream_id)])


async def stats(harness: ProxyHarness, **more: Any) -> Any:
    return json.loads((await harness.ask(request("/stats", **more))).body)


async def state(harness: ProxyHarness) -> Any:
    """Return the first state event of a subscription."""
    client = await harness.connect()
    client.send(request("/dashboard/events"))
    marker = b"event: state\ndata: "
    await client.until(
        lambda: marker in client.received and client.received.partition(marker)[2].count(b"\n\n")
    )
    text = client.received.partition(marker)[2].partition(b"\n")[0]
    client.abort()
    return json.loads(text)


async def fail(harness: ProxyHarness, path: str, times: int) -> None:
    for number in range(times):
        await harness.ask(request(f"{path}?{number}", "POST", body=b"{}"))


@pytest_twisted.ensureDeferred
async def test_upstreams_429_and_401_are_an_incident(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script("/v1/files", refusal(429, b"req_limit"))
    harness.upstream.script("/v1/batches", refusal(401, b"req_key"))
    await fail(harness, "/v1/files", 3)
    await fail(harness, "/v1/batches", 2)
    await harness.ask(request("/v1/models"))
    verdict = (await stats(harness))["verdict"]
    assert verdict["text"].startswith("5 of 6 requests failing for 10 s: upstream answers 429 ")
    assert verdict["text"].endswith(" and 401 (API key refused)")
    assert (verdict["level"], verdict["cause"]) == ("bad", "upstream_429")
    found = await state(harness)
    assert found["verdict"]["text"] == verdict["text"]
    shown = found["ranges"]["5 min"]
    assert (shown["incidents"], shown["errors"], shown["levels"]["errors"]) == (5, 5, "bad")
    limited, refused = shown["causes"]
    assert (limited["cause"], limited["count"], limited["status"]) == ("upstream_429", 3, 429)
    assert (limited["path"], limited["upstream_request_id"]) == ("/v1/files?2", "req_limit")
    assert limited["first_seen"] < limited["last_seen"] <= found["now"]
    assert (refused["cause"], refused["upstream_request_id"]) == ("upstream_401", "req_key")
    assert found["recent_errors"][0]["upstream_request_id"] == "req_key"
    assert found["recent_errors"][0]["cause"] == "upstream_401"
    assert found["clients"][0]["errors"] == 5


@pytest_twisted.ensureDeferred
async def test_unreachable_upstream_is_named_with_its_reason(harness: ProxyHarness) -> None:
    await harness.start(BREAKER="0")
    harness.upstream.script("/v1/files", [Reset()])
    await fail(harness, "/v1/files", 3)
    verdict = (await stats(harness))["verdict"]
    assert verdict["text"] == (
        "3 of 3 requests failing for 10 s: upstream closes connections before it answers"
    )


@pytest_twisted.ensureDeferred
async def test_limited_client_is_named_and_is_first(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="3", TRUSTED_PROXIES="127.0.0.0/8")
    one = [("X-Forwarded-For", "192.0.2.1")]
    other = [("X-Forwarded-For", "192.0.2.7")]
    for _ in range(3):
        await harness.ask(request("/v1/models", headers=one))
    for _ in range(8):
        await harness.ask(request("/v1/models", headers=other))
    found = await state(harness)
    assert found["verdict"]["text"] == (
        "Clients are limited: 5 of 11 requests exceed RATE_LIMIT, most of them from 192.0.2.7"
    )
    assert found["clients"][0] == {
        "client": "192.0.2.7", "requests": 8, "limited": 5, "errors": 0
    }  # fmt: skip
    (cause,) = found["ranges"]["5 min"]["causes"]
    assert (cause["cause"], cause["incident"]) == ("rate_limited", False)
    assert found["ranges"]["5 min"]["levels"]["errors"] == "good"
    assert found["ranges"]["5 min"]["levels"]["limited"] == "busy"
    assert found["recent_errors"] == []


@pytest_twisted.ensureDeferred
async def test_own_pages_are_counted_apart(harness: ProxyHarness) -> None:
    await harness.start()
    for path in ("/health", "/health/ready", "/stats", "/metrics", "/", "/dashboard"):
        await harness.ask(request(path))
    await harness.ask(request("/v1/models"))
    found = await state(harness)
    assert (found["requests"]["own_pages"], found["requests"]["total"]) == (6, 1)
    assert found["ranges"]["1 h"]["requests"] == 1
    assert [client["requests"] for client in found["clients"]] == [1]
    assert (await stats(harness))["requests"]["own_pages"] >= 6


@pytest_twisted.ensureDeferred
async def test_refused_operator_is_no_failure_of_the_api(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_ALLOW="", ADMIN_TOKEN="open-sesame")
    for _ in range(5):
        assert (await harness.ask(request("/stats"))).status == 403
    found = await stats(harness, key=b"Bearer open-sesame")
    assert found["failures"] == {}
    assert found["verdict"]["text"] == "No requests in the last 5 min"


@pytest.mark.parametrize("path", ["/nothing", "/v1/models"])
@pytest_twisted.ensureDeferred
async def test_errors_of_clients_are_no_incident(harness: ProxyHarness, path: str) -> None:
    await harness.start()
    harness.upstream.script("/v1/models", response(ERROR, 404))
    await fail(harness, path, 4)
    verdict = (await stats(harness))["verdict"]
    assert verdict["text"].startswith("Clients send invalid requests: 4 of 4 requests")
    assert verdict["level"] == "busy"


@pytest_twisted.ensureDeferred
async def test_model_without_a_price_is_marked(harness: ProxyHarness) -> None:
    await harness.start()
    assert harness.daemon is not None
    from goproxyai.usage.prices import parse

    harness.daemon.context.counters.tokens.prices = parse(b'{"gpt-4o":{"prompt":1,"completion":2}}')
    usage = b'"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}'
    for model in (b"gpt-4o", b"unheard-of"):
        harness.upstream.script(CHAT, response(b'{"model":"%b","choices":[],%b' % (model, usage)))
        await harness.ask(post(CHAT, b'{"model":"%b"}' % model))
    rows = {row["model"]: row for row in (await state(harness))["tokens"]["models"]}
    assert (rows["gpt-4o"]["priced"], rows["gpt-4o"]["spent"]) == (True, 13e-06)
    assert (rows["unheard-of"]["priced"], rows["unheard-of"]["spent"]) == (False, 0.0)
    models = (await stats(harness))["tokens"]["models"]
    assert models["unheard-of"]["money"] is None
    assert models["gpt-4o"]["money"] == {"spent": 13e-06, "saved": 0.0}


@pytest_twisted.ensureDeferred
async def test_resources_and_bypasses_are_shown(harness: ProxyHarness) -> None:
    await harness.start()
    await harness.ask(request("/v1/models", headers=[("X-Unusual", "1")]))
    found = await state(harness)
    assert found["ranges"]["1 h"]["bypasses"] == [["header", 1]]
    resources = found["resources"]
    assert resources["resident_bytes"] > 5_000_000
    assert 0 < resources["descriptors"] < resources["max_descriptors"]
    assert resources["connections"] >= 1
    assert resources["levels"]["connections"] == "good"
    process = (await stats(harness))["process"]
    assert process["processes"] == 1
    assert process["cpu_ms"] > 0


@pytest_twisted.ensureDeferred
async def test_stop_is_told(harness: ProxyHarness) -> None:
    await harness.start(DRAIN_TIMEOUT="1h")
    assert harness.daemon is not None
    daemon, client = harness.daemon, await harness.connect()
    await eventually(harness.reactor, lambda: daemon.listeners.factory.connections)
    daemon.admin.stats.ready = False
    assert (await stats(harness))["verdict"]["text"].startswith("Stopping")
    client.abort()


@pytest_twisted.ensureDeferred
async def test_cause_without_a_reported_failure_is_left_out(harness: ProxyHarness) -> None:
    await harness.start()
    assert harness.daemon is not None
    harness.daemon.context.counters.finished.causes["upstream_429"] += 1
    assert (await state(harness))["ranges"]["5 min"]["causes"] == []
