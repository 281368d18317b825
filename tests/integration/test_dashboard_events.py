"""The dashboard's event stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from goproxyai.admin.events import MAX_SUBSCRIPTIONS
from goproxyai.admin.history import SLOT_SECONDS
from tests.integration.admin_requests import error_of
from tests.support.answers import response
from tests.support.harness import Skewed, Stand, Wire, eventually, post, request
from tests.support.steps import Pause, Reset

EVENTS = "/dashboard/events"
CHAT = "/v1/chat/completions"
COMPLETION = (
    b'{"model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,'
    b'"total_tokens":10}}'
)


def documents(client: Wire, event: str) -> list[Any]:
    """Return the documents of the complete events of that name."""
    text = client.came.decode().replace("\r\n", "\n")
    found = []
    for block in text.split("\n\n"):
        if f"event: {event}\ndata: " in block:
            data = block.partition("\ndata: ")[2].partition("\n")[0]
            try:
                found.append(json.loads(data))
            except ValueError:  # the event is incomplete
                continue
    return found


async def subscribe(stand: Stand, data: bytes | None = None) -> Wire:
    """Return a connection that has received the first events."""
    client = await stand.connect()
    client.send(data or request(EVENTS))
    await client.until(lambda: bool(documents(client, "state")))
    return client


def event_stream(stand: Stand) -> Any:
    assert stand.daemon is not None
    return stand.daemon.admin.events


async def unsubscribe(stand: Stand, client: Wire) -> None:
    client.abort()
    await eventually(stand.reactor, lambda: len(event_stream(stand)) == 0)


@pytest_twisted.ensureDeferred
async def test_new_subscription_gets_slots_and_state(stand: Stand) -> None:
    await stand.start(OPENAI_API_URL="unused")
    stand.upstream.script(CHAT, response(COMPLETION))
    stand.upstream.script("/v1/broken", [Reset()])
    await stand.ask(post(CHAT, b"{}"))
    await stand.ask(post(CHAT, b"{}"))
    await stand.ask(request("/v1/broken?key=secret", "POST", body=b"x"))
    client = await subscribe(stand)
    assert b"text/event-stream" in client.came
    assert b"Cache-Control: no-store" in client.came
    (slots,), state = documents(client, "slots"), documents(client, "state")[0]
    assert slots == {"seconds": SLOT_SECONDS, "slots": []}
    assert state["requests"]["in_flight"] == 0, "a subscription is not a request in flight"
    hour = state["hour"]
    assert (hour["requests"], hour["hits"], hour["lookups"], hour["errors"]) == (3, 1, 2, 1)
    assert 0 < hour["p50_ms"] <= hour["p99_ms"]
    assert state["routes"][0] == {"route": CHAT, "requests": 2, "hits": 1, "errors": 0}
    assert state["tokens"]["upstream"]["prompt"] == state["tokens"]["cache"]["prompt"] == 7
    assert state["tokens"]["models"] == [{"model": "gpt-4o-mini", "upstream": 10, "cache": 10}]
    assert state["tokens"]["money"] is None
    assert state["cache"]["item_count"] == 1
    assert state["upstreams"][0]["circuit"] == "closed"
    (error,) = state["recent_errors"]
    assert (error["path"], error["status"], error["code"]) == (
        "/v1/broken?key", 502, "upstream_unreachable",
    )  # fmt: skip
    assert error["request_id"]
    assert state["slot"][1] == 3
    assert b"secret" not in client.came


@pytest_twisted.ensureDeferred
async def test_request_appears_in_next_state(stand: Stand) -> None:
    await stand.start()
    client = await subscribe(stand)
    await stand.ask(request())
    await client.until(
        lambda: any(one["hour"]["requests"] == 1 for one in documents(client, "state"))
    )
    before = len(documents(client, "state"))
    await client.until(lambda: len(documents(client, "state")) > before)
    assert documents(client, "state")[-1]["hour"]["requests"] == 1


@pytest_twisted.ensureDeferred
async def test_closed_slot_is_sent_once(stand: Stand) -> None:
    await stand.start()
    client = await subscribe(stand)
    await stand.ask(request())
    event_stream(stand)._close_slot()
    await client.until(lambda: len(documents(client, "slots")) == 2)
    first, second = documents(client, "slots")
    assert first["slots"] == []
    ((_, requests, hits, lookups, errors, *_),) = second["slots"]
    assert (requests, hits, lookups, errors) == (1, 0, 1, 0)
    later = await subscribe(stand)
    assert documents(later, "slots")[0]["slots"] == second["slots"]


@pytest_twisted.ensureDeferred
async def test_events_need_authorization(stand: Stand) -> None:
    await stand.start(ADMIN_ALLOW="", ADMIN_TOKEN="open-sesame")
    for key in (b"Bearer wrong", b"open-sesame", b""):
        assert (await stand.ask(request(EVENTS, key=key))).status == 403
    assert len(event_stream(stand)) == 0
    client = await subscribe(stand, request(EVENTS, key=b"Bearer open-sesame"))
    assert len(event_stream(stand)) == 1
    client.abort()


@pytest_twisted.ensureDeferred
async def test_state_timer_runs_only_with_subscriptions(stand: Stand) -> None:
    await stand.start()
    timer = event_stream(stand)._state_timer
    assert not timer.running
    first, second = await subscribe(stand), await subscribe(stand)
    assert timer.running
    first.abort()
    await eventually(stand.reactor, lambda: len(event_stream(stand)) == 1)
    assert timer.running
    await unsubscribe(stand, second)
    assert not timer.running


@pytest_twisted.ensureDeferred
async def test_subscriptions_are_limited(stand: Stand) -> None:
    await stand.start()
    clients = [await subscribe(stand) for _ in range(MAX_SUBSCRIPTIONS)]
    answer = await stand.ask(request(EVENTS))
    assert (answer.status, error_of(answer)["code"]) == (503, "overloaded")
    clients[0].abort()
    await eventually(stand.reactor, lambda: len(event_stream(stand)) < MAX_SUBSCRIPTIONS)
    await subscribe(stand)


@pytest_twisted.ensureDeferred
async def test_paused_subscription_misses_events_and_gets_all_slots_again(stand: Stand) -> None:
    await stand.start()
    client = await subscribe(stand)
    (subscription,) = event_stream(stand)._subscriptions
    subscription.pauseProducing()
    count = len(documents(client, "state"))
    event_stream(stand)._close_slot()
    for _ in range(1000):
        event_stream(stand)._send_state()
    assert len(documents(client, "state")) == count
    subscription.resumeProducing()
    event_stream(stand)._send_state()
    await client.until(lambda: len(documents(client, "state")) > count)
    assert [len(one["slots"]) for one in documents(client, "slots")] == [0, 1]


@pytest_twisted.ensureDeferred
async def test_drain_ends_subscription_as_complete_response(stand: Stand) -> None:
    await stand.start(DRAIN_TIMEOUT="1h")
    assert stand.daemon is not None
    client = await subscribe(stand)
    await stand.daemon.stopService()
    await client.until_closed()
    assert client.came.endswith(b"0\r\n\r\n")
    stand.daemon = None


@pytest_twisted.ensureDeferred
async def test_exception_while_sending_is_logged_and_sending_continues(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, failures: list[Any]
) -> None:
    await stand.start()
    client = await subscribe(stand)
    with monkeypatch.context() as patch:
        patch.setattr(type(event_stream(stand)), "_state_event", lambda self: 1 // 0)
        event_stream(stand)._send_state()
    assert len(failures) == 1
    failures.clear()
    count = len(documents(client, "state"))
    event_stream(stand)._send_state()
    await client.until(lambda: len(documents(client, "state")) > count)


@pytest_twisted.ensureDeferred
async def test_exception_in_subscribe_leaves_no_subscription(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, failures: list[Any]
) -> None:
    await stand.start()
    with monkeypatch.context() as patch:
        patch.setattr(type(event_stream(stand)), "_state_event", lambda self: 1 // 0)
        client = await stand.connect()
        client.send(request(EVENTS))
        await eventually(stand.reactor, lambda: failures)
    client.abort()
    failures.clear()
    assert len(event_stream(stand)) == 0


@pytest_twisted.ensureDeferred
async def test_long_subscription_is_not_logged_as_slow(stand: Stand) -> None:
    clock = Skewed(stand.reactor)
    stand.reactor = clock
    await stand.start(LOG_SLOW="1s")
    client = await subscribe(stand)
    clock.ahead += 100
    await unsubscribe(stand, client)
    (event,) = await stand.logged()
    assert event["path"] == EVENTS
    assert "slow" not in event


@pytest_twisted.ensureDeferred
async def test_state_counts_open_streams(stand: Stand) -> None:
    await stand.start()
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    stand.upstream.script(CHAT, [head + b"3\r\n:a\n\r\n", Pause()])
    stream = await stand.connect()
    stream.send(post(CHAT, b"{}"))
    await stream.until(lambda: b":a" in stream.came)
    client = await subscribe(stand)
    requests = documents(client, "state")[0]["requests"]
    assert (requests["open_streams"], requests["in_flight"]) == (1, 1)


@pytest_twisted.ensureDeferred
async def test_subscription_is_not_part_of_request_durations(stand: Stand) -> None:
    clock = Skewed(stand.reactor)
    stand.reactor = clock
    await stand.start()
    client = await subscribe(stand)
    clock.ahead += 3600
    await unsubscribe(stand, client)
    await stand.logged()
    stats = json.loads((await stand.ask(request("/stats"))).body)
    assert stats["requests"]["time"]["max_ms"] < 60_000


@pytest_twisted.ensureDeferred
async def test_head_request_does_not_subscribe(stand: Stand) -> None:
    await stand.start()
    answer = await stand.ask(request(EVENTS, "HEAD"), b"HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert len(event_stream(stand)) == 0


@pytest_twisted.ensureDeferred
async def test_subscribe_is_refused_during_drain(stand: Stand) -> None:
    await stand.start(DRAIN_TIMEOUT="1h")
    assert stand.daemon is not None
    daemon, client = stand.daemon, await stand.connect()
    await eventually(stand.reactor, lambda: daemon.listeners.factory.connections)
    stopping = daemon.stopService()
    await eventually(stand.reactor, lambda: not daemon.admin.stats.ready)
    client.send(request(EVENTS))
    answer = await client.answer()
    assert (answer.status, error_of(answer)["code"]) == (503, "draining")
    await stopping
    stand.daemon = None
