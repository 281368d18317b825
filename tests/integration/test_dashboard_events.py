"""The dashboard's event stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from goproxyai.admin.events import MAX_SUBSCRIPTIONS
from goproxyai.admin.history import SLOT_SECONDS
from tests.integration.admin_requests import error_of
from tests.integration.failing_upstreams import start_with_open_circuit
from tests.support.answers import response
from tests.support.harness import ProxyHarness, RawClient, SkewedReactor, eventually, post, request
from tests.support.steps import Pause, Reset

EVENTS = "/dashboard/events"
CHAT = "/v1/chat/completions"
COMPLETION = (
    b'{"model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,'
    b'"total_tokens":10}}'
)


def documents(client: RawClient, event: str) -> list[Any]:
    """Return the documents of the complete events of that name."""
    text = client.received.decode().replace("\r\n", "\n")
    found = []
    for block in text.split("\n\n"):
        if f"event: {event}\ndata: " in block:
            data = block.partition("\ndata: ")[2].partition("\n")[0]
            try:
                found.append(json.loads(data))
            except ValueError:  # the event is incomplete
                continue
    return found


async def subscribe(harness: ProxyHarness, data: bytes | None = None) -> RawClient:
    """Return a connection that has received the first events."""
    client = await harness.connect()
    client.send(data or request(EVENTS))
    await client.until(lambda: bool(documents(client, "state")))
    return client


def requests_of(state: Any) -> int:
    """Return the requests of the last hour."""
    return int(state["ranges"]["1 h"]["requests"])


def event_stream(harness: ProxyHarness) -> Any:
    assert harness.daemon is not None
    return harness.daemon.admin.events


async def unsubscribe(harness: ProxyHarness, client: RawClient) -> None:
    client.abort()
    await eventually(harness.reactor, lambda: len(event_stream(harness)) == 0)


@pytest_twisted.ensureDeferred
async def test_new_subscription_gets_slots_and_state(harness: ProxyHarness) -> None:
    await harness.start(OPENAI_API_URL="unused")
    harness.upstream.script(CHAT, response(COMPLETION))
    harness.upstream.script("/v1/broken", [Reset()])
    await harness.ask(post(CHAT, b"{}"))
    await harness.ask(post(CHAT, b"{}"))
    await harness.ask(request("/v1/broken?key=secret", "POST", body=b"x"))
    client = await subscribe(harness)
    assert b"text/event-stream" in client.received
    assert b"Cache-Control: no-store" in client.received
    (slots,), state = documents(client, "slots"), documents(client, "state")[0]
    assert slots == {"seconds": SLOT_SECONDS, "slots": []}
    assert state["requests"]["in_flight"] == 0, "a subscription is not a request in flight"
    assert list(state["ranges"]) == ["5 min", "15 min", "1 h"]
    hour = state["ranges"]["1 h"]
    assert (hour["requests"], hour["hits"], hour["lookups"], hour["errors"]) == (3, 1, 2, 1)
    for name in ("total", "upstream", "overhead", "hits"):
        p50, _, p99 = hour["latency"][name]
        assert 0 < p50 <= p99
    assert hour["routes"][0] == {"route": CHAT, "requests": 2, "hits": 1, "limited": 0, "errors": 0}
    assert state["tokens"]["upstream"]["prompt"] == state["tokens"]["cache"]["prompt"] == 7
    assert state["tokens"]["models"] == [
        {
            "model": "gpt-4o-mini", "upstream": 10, "cache": 10, "spent": 0.0, "saved": 0.0,
            "priced": False,
        }
    ]  # fmt: skip
    assert state["clients"] == [{"client": "127.0.0.1", "requests": 3, "limited": 0, "errors": 1}]
    assert state["cache"]["paths"] == [[CHAT, 1]]
    assert state["tokens"]["money"] is None
    assert state["cache"]["item_count"] == 1
    assert state["upstreams"][0]["circuit"] == "closed"
    (error,) = state["recent_errors"]
    assert (error["path"], error["status"], error["code"]) == (
        "/v1/broken?key", 502, "upstream_unreachable",
    )  # fmt: skip
    assert error["request_id"]
    assert state["slot"][1] == 3
    assert b"secret" not in client.received


@pytest_twisted.ensureDeferred
async def test_request_appears_in_next_state(harness: ProxyHarness) -> None:
    await harness.start()
    client = await subscribe(harness)
    await harness.ask(request())
    await client.until(lambda: any(requests_of(one) == 1 for one in documents(client, "state")))
    before = len(documents(client, "state"))
    await client.until(lambda: len(documents(client, "state")) > before)
    assert requests_of(documents(client, "state")[-1]) == 1


@pytest_twisted.ensureDeferred
async def test_closed_slot_is_sent_once(harness: ProxyHarness) -> None:
    await harness.start()
    client = await subscribe(harness)
    await harness.ask(request())
    event_stream(harness)._feed._close_slot()
    await client.until(lambda: len(documents(client, "slots")) == 2)
    first, second = documents(client, "slots")
    assert first["slots"] == []
    ((_, requests, hits, lookups, errors, limited, *_),) = second["slots"]
    assert (requests, hits, lookups, errors, limited) == (1, 0, 1, 0, 0)
    later = await subscribe(harness)
    assert documents(later, "slots")[0]["slots"] == second["slots"]


@pytest_twisted.ensureDeferred
async def test_events_need_authorization(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_ALLOW="", ADMIN_TOKEN="open-sesame")
    for key in (b"Bearer wrong", b"open-sesame", b""):
        assert (await harness.ask(request(EVENTS, key=key))).status == 403
    assert len(event_stream(harness)) == 0
    client = await subscribe(harness, request(EVENTS, key=b"Bearer open-sesame"))
    assert len(event_stream(harness)) == 1
    client.abort()


@pytest_twisted.ensureDeferred
async def test_state_timer_runs_only_with_subscriptions(harness: ProxyHarness) -> None:
    await harness.start()
    timer = event_stream(harness)._state_timer
    assert not timer.running
    first, second = await subscribe(harness), await subscribe(harness)
    assert timer.running
    first.abort()
    await eventually(harness.reactor, lambda: len(event_stream(harness)) == 1)
    assert timer.running
    await unsubscribe(harness, second)
    assert not timer.running


@pytest_twisted.ensureDeferred
async def test_subscriptions_are_limited(harness: ProxyHarness) -> None:
    await harness.start()
    clients = [await subscribe(harness) for _ in range(MAX_SUBSCRIPTIONS)]
    answer = await harness.ask(request(EVENTS))
    assert (answer.status, error_of(answer)["code"]) == (503, "overloaded")
    clients[0].abort()
    await eventually(harness.reactor, lambda: len(event_stream(harness)) < MAX_SUBSCRIPTIONS)
    await subscribe(harness)


@pytest_twisted.ensureDeferred
async def test_paused_subscription_misses_events_and_gets_all_slots_again(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    client = await subscribe(harness)
    (subscription,) = event_stream(harness)._subscriptions
    subscription.pauseProducing()
    count = len(documents(client, "state"))
    event_stream(harness)._feed._slot_timer.stop()  # a busy machine takes seconds for this test
    event_stream(harness)._feed._close_slot()
    for _ in range(1000):
        event_stream(harness)._send()
    assert len(documents(client, "state")) == count
    subscription.resumeProducing()
    event_stream(harness)._send()
    await client.until(lambda: len(documents(client, "state")) > count)
    assert [len(one["slots"]) for one in documents(client, "slots")] == [0, 1]


@pytest_twisted.ensureDeferred
async def test_drain_ends_subscription_as_complete_response(harness: ProxyHarness) -> None:
    await harness.start(DRAIN_TIMEOUT="1h")
    assert harness.daemon is not None
    client = await subscribe(harness)
    await harness.daemon.stopService()
    await client.wait_closed()
    assert client.received.endswith(b"0\r\n\r\n")
    harness.daemon = None


@pytest_twisted.ensureDeferred
async def test_exception_while_sending_is_logged_and_sending_continues(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, failures: list[Any]
) -> None:
    await harness.start()
    client = await subscribe(harness)
    with monkeypatch.context() as patch:
        patch.setattr(type(event_stream(harness)._feed), "_state_event", lambda self: 1 // 0)
        event_stream(harness)._send()
    assert len(failures) == 1
    failures.clear()
    count = len(documents(client, "state"))
    event_stream(harness)._send()
    await client.until(lambda: len(documents(client, "state")) > count)


@pytest_twisted.ensureDeferred
async def test_exception_in_subscribe_leaves_no_subscription(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, failures: list[Any]
) -> None:
    await harness.start()
    with monkeypatch.context() as patch:
        patch.setattr(type(event_stream(harness)._feed), "_state_event", lambda self: 1 // 0)
        client = await harness.connect()
        client.send(request(EVENTS))
        await eventually(harness.reactor, lambda: failures)
    client.abort()
    failures.clear()
    assert len(event_stream(harness)) == 0


@pytest_twisted.ensureDeferred
async def test_long_subscription_is_not_logged_as_slow(harness: ProxyHarness) -> None:
    clock = SkewedReactor(harness.reactor)
    harness.reactor = clock
    await harness.start(LOG_SLOW="1s")
    client = await subscribe(harness)
    clock.skew += 100
    await unsubscribe(harness, client)
    (event,) = await harness.logged()
    assert event["path"] == EVENTS
    assert "slow" not in event


@pytest_twisted.ensureDeferred
async def test_state_counts_open_streams(harness: ProxyHarness) -> None:
    await harness.start()
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    harness.upstream.script(CHAT, [head + b"3\r\n:a\n\r\n", Pause()])
    stream = await harness.connect()
    stream.send(post(CHAT, b"{}"))
    await stream.until(lambda: b":a" in stream.received)
    client = await subscribe(harness)
    requests = documents(client, "state")[0]["requests"]
    assert (requests["open_streams"], requests["in_flight"]) == (1, 1)


@pytest_twisted.ensureDeferred
async def test_subscription_is_not_part_of_request_durations(harness: ProxyHarness) -> None:
    clock = SkewedReactor(harness.reactor)
    harness.reactor = clock
    await harness.start()
    client = await subscribe(harness)
    clock.skew += 3600
    await unsubscribe(harness, client)
    await harness.logged()
    stats = json.loads((await harness.ask(request("/stats"))).body)
    assert stats["requests"]["time"]["max_ms"] < 60_000


@pytest_twisted.ensureDeferred
async def test_head_request_does_not_subscribe(harness: ProxyHarness) -> None:
    await harness.start()
    answer = await harness.ask(request(EVENTS, "HEAD"), b"HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert len(event_stream(harness)) == 0


@pytest_twisted.ensureDeferred
async def test_subscribe_is_refused_during_drain(harness: ProxyHarness) -> None:
    await harness.start(DRAIN_TIMEOUT="1h")
    assert harness.daemon is not None
    daemon, client = harness.daemon, await harness.connect()
    await eventually(harness.reactor, lambda: daemon.listeners.factory.connections)
    stopping = daemon.stopService()
    await eventually(harness.reactor, lambda: daemon.admin.stats.draining)
    client.send(request(EVENTS))
    answer = await client.answer()
    assert (answer.status, error_of(answer)["code"]) == (503, "draining")
    await stopping
    harness.daemon = None


@pytest_twisted.ensureDeferred
async def test_readiness_is_that_of_the_health_page(skewed_harness: ProxyHarness) -> None:
    await start_with_open_circuit(skewed_harness)
    client = await subscribe(skewed_harness)
    assert documents(client, "state")[0]["readiness"] == "no upstream"
    assert (await skewed_harness.ask(request("/health/ready"))).status == 503
    await unsubscribe(skewed_harness, client)


@pytest_twisted.ensureDeferred
async def test_readiness_tells_of_a_drain(harness: ProxyHarness) -> None:
    await harness.start()
    assert harness.daemon is not None
    client = await subscribe(harness)
    assert documents(client, "state")[0]["readiness"] == "ready"
    assert (await harness.ask(request("/health/ready"))).status == 200
    harness.daemon.admin.stats.ready = False
    await client.until(lambda: documents(client, "state")[-1]["readiness"] == "draining")
    assert (await harness.ask(request("/health/ready"))).status == 503
    harness.daemon.admin.stats.ready = True
    await unsubscribe(harness, client)
