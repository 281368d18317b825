"""The dashboard's stream of events: who may see it, what it says, and what it costs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from goproxyai.admin.assets import HEADERS, PAGE, assets
from goproxyai.admin.events import LOOK_SECONDS, MOST_VIEWERS
from goproxyai.admin.history import SLOT_SECONDS, SLOTS, History
from goproxyai.telemetry.counters import Counters, Histogram, percentile
from tests.support.answers import response
from tests.support.harness import ProxyHarness, RawClient, SkewedReactor, eventually, post, request
from tests.support.steps import Pause, Reset

EVENTS = "/dashboard/events"
CHAT = "/v1/chat/completions"
ANSWER = (
    b'{"model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,'
    b'"total_tokens":10}}'
)


def seen(wire: RawClient, name: str) -> list[Any]:
    """The documents of the events *name* that have come."""
    text = wire.received.decode().replace("\r\n", "\n")
    found = []
    for block in text.split("\n\n"):
        if f"event: {name}\ndata: " in block:
            data = block.partition("\ndata: ")[2].partition("\n")[0]
            try:
                found.append(json.loads(data))
            except ValueError:  # not all of it is here
                continue
    return found


async def looking(harness: ProxyHarness, data: bytes | None = None) -> RawClient:
    """A connection on which the first events have come."""
    wire = await harness.connect()
    wire.send(data or request(EVENTS))
    await wire.until(lambda: bool(seen(wire, "state")))
    return wire


def live(harness: ProxyHarness) -> Any:
    assert harness.daemon is not None
    return harness.daemon.system.live


@pytest_twisted.ensureDeferred
async def test_who_looks_sees_the_hour_and_how_things_are(harness: ProxyHarness) -> None:
    await harness.start(OPENAI_API_URL="unused")
    harness.upstream.script(CHAT, response(ANSWER))
    harness.upstream.script("/v1/broken", [Reset()])
    await harness.ask(post(CHAT, b"{}"))
    await harness.ask(post(CHAT, b"{}"))
    await harness.ask(request("/v1/broken?key=secret", "POST", body=b"x"))
    wire = await looking(harness)
    assert b"text/event-stream" in wire.received
    assert b"Cache-Control: no-store" in wire.received
    (slots,), state = seen(wire, "slots"), seen(wire, "state")[0]
    assert slots == {"seconds": SLOT_SECONDS, "slots": []}
    assert state["requests"]["in_flight"] == 0, "who looks is no request under way"
    assert state["hour"]["requests"] == 3
    assert (state["hour"]["hits"], state["hour"]["lookups"], state["hour"]["errors"]) == (1, 2, 1)
    assert 0 < state["hour"]["p50_ms"] <= state["hour"]["p99_ms"]
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
    assert b"secret" not in wire.received


@pytest_twisted.ensureDeferred
async def test_a_request_shows_with_the_next_look(harness: ProxyHarness) -> None:
    await harness.start()
    wire = await looking(harness)
    await harness.ask(request())
    await wire.until(lambda: any(one["hour"]["requests"] == 1 for one in seen(wire, "state")))
    before = len(seen(wire, "state"))
    await wire.until(lambda: len(seen(wire, "state")) > before)
    assert seen(wire, "state")[-1]["hour"]["requests"] == 1


@pytest_twisted.ensureDeferred
async def test_a_slot_that_ends_is_sent_once(harness: ProxyHarness) -> None:
    await harness.start()
    wire = await looking(harness)
    await harness.ask(request())
    live(harness)._mark()
    await wire.until(lambda: len(seen(wire, "slots")) == 2)
    first, second = seen(wire, "slots")
    assert first["slots"] == []
    ((_, requests, hits, lookups, errors, *_),) = second["slots"]
    assert (requests, hits, lookups, errors) == (1, 0, 1, 0)
    late = await looking(harness)
    assert seen(late, "slots")[0]["slots"] == second["slots"]


@pytest_twisted.ensureDeferred
async def test_nobody_sees_it_who_is_no_operator(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_ALLOW="", ADMIN_TOKEN="open-sesame")
    for key in (b"Bearer wrong", b"open-sesame", b""):
        assert (await harness.ask(request(EVENTS, key=key))).status == 403
    assert len(live(harness)) == 0
    wire = await looking(harness, request(EVENTS, key=b"Bearer open-sesame"))
    assert len(live(harness)) == 1
    wire.abort()


@pytest_twisted.ensureDeferred
async def test_nothing_runs_while_nobody_looks(harness: ProxyHarness) -> None:
    await harness.start()
    assert not live(harness)._looking.running
    one, other = await looking(harness), await looking(harness)
    assert live(harness)._looking.running
    for wire, left in ((one, 1), (other, 0)):
        wire.abort()
        await eventually(harness.reactor, lambda left=left: len(live(harness)) == left)
    assert not live(harness)._looking.running


@pytest_twisted.ensureDeferred
async def test_so_many_may_look_and_no_more(harness: ProxyHarness) -> None:
    await harness.start()
    wires = [await looking(harness) for _ in range(MOST_VIEWERS)]
    answer = await harness.ask(request(EVENTS))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "overloaded")
    wires[0].abort()
    await eventually(harness.reactor, lambda: len(live(harness)) < MOST_VIEWERS)
    await looking(harness)


@pytest_twisted.ensureDeferred
async def test_who_does_not_keep_up_is_left_out_and_gets_the_hour_again(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    wire = await looking(harness)
    (viewer,) = live(harness)._viewers
    viewer.pauseProducing()
    count = len(seen(wire, "state"))
    live(harness)._mark()
    for _ in range(1000):
        live(harness)._look()
    assert len(seen(wire, "state")) == count
    viewer.resumeProducing()
    live(harness)._look()
    await wire.until(lambda: len(seen(wire, "state")) > count)
    assert [len(one["slots"]) for one in seen(wire, "slots")] == [0, 1]


@pytest_twisted.ensureDeferred
async def test_a_drain_does_not_wait_for_who_looks(harness: ProxyHarness) -> None:
    await harness.start(DRAIN_TIMEOUT="1h")
    assert harness.daemon is not None
    wire = await looking(harness)
    await harness.daemon.stopService()
    await wire.wait_closed()
    answer = wire.received
    assert answer.endswith(b"0\r\n\r\n"), "the stream ends as one that is whole"
    harness.daemon = None


@pytest_twisted.ensureDeferred
async def test_a_defect_is_logged_and_the_rest_goes_on(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, failures: list[Any]
) -> None:
    await harness.start()
    wire = await looking(harness)
    with monkeypatch.context() as patch:
        patch.setattr(type(live(harness)), "_state", lambda self: 1 // 0)
        live(harness)._look()
    assert len(failures) == 1
    failures.clear()
    count = len(seen(wire, "state"))
    live(harness)._look()
    await wire.until(lambda: len(seen(wire, "state")) > count)


@pytest_twisted.ensureDeferred
async def test_a_defect_at_the_first_look_takes_no_place(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, failures: list[Any]
) -> None:
    await harness.start()
    with monkeypatch.context() as patch:
        patch.setattr(type(live(harness)), "_state", lambda self: 1 // 0)
        wire = await harness.connect()
        wire.send(request(EVENTS))
        await eventually(harness.reactor, lambda: failures)
    wire.abort()
    failures.clear()
    assert len(live(harness)) == 0


@pytest_twisted.ensureDeferred
async def test_looking_is_not_slow_however_long_it_takes(harness: ProxyHarness) -> None:
    clock = SkewedReactor(harness.reactor)
    harness.reactor = clock
    await harness.start(LOG_SLOW="1s")
    wire = await looking(harness)
    clock.skew += 100
    wire.abort()
    await eventually(harness.reactor, lambda: len(live(harness)) == 0)
    (event,) = await harness.logged()
    assert event["path"] == EVENTS
    assert "slow" not in event


@pytest_twisted.ensureDeferred
async def test_streams_that_are_open_are_told(harness: ProxyHarness) -> None:
    await harness.start()
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    harness.upstream.script(CHAT, [head + b"3\r\n:a\n\r\n", Pause()])
    stream = await harness.connect()
    stream.send(post(CHAT, b"{}"))
    await stream.until(lambda: b":a" in stream.received)
    wire = await looking(harness)
    state = seen(wire, "state")[0]
    assert (state["requests"]["open_streams"], state["requests"]["in_flight"]) == (1, 1)


@pytest_twisted.ensureDeferred
async def test_how_long_somebody_looks_is_no_requests_duration(harness: ProxyHarness) -> None:
    clock = SkewedReactor(harness.reactor)
    harness.reactor = clock
    await harness.start()
    wire = await looking(harness)
    clock.skew += 3600
    wire.abort()
    await eventually(harness.reactor, lambda: len(live(harness)) == 0)
    await harness.logged()
    stats = json.loads((await harness.ask(request("/stats"))).body)
    assert stats["requests"]["time"]["max_ms"] < 60_000


@pytest_twisted.ensureDeferred
async def test_a_head_of_the_stream_is_no_viewer(harness: ProxyHarness) -> None:
    await harness.start()
    answer = await harness.ask(request(EVENTS, "HEAD"), b"HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert len(live(harness)) == 0


@pytest_twisted.ensureDeferred
async def test_who_comes_to_look_as_the_daemon_drains_is_told_so(harness: ProxyHarness) -> None:
    await harness.start(DRAIN_TIMEOUT="1h")
    assert harness.daemon is not None
    daemon, wire = harness.daemon, await harness.connect()
    await eventually(harness.reactor, lambda: daemon.door.factory.connections)
    stopping = daemon.stopService()
    await eventually(harness.reactor, lambda: not daemon.system.stats.ready)
    wire.send(request(EVENTS))
    answer = await wire.answer()
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "draining")
    await stopping
    harness.daemon = None


@pytest.mark.parametrize("target", [EVENTS, "/stats", "/metrics"])
@pytest_twisted.ensureDeferred
async def test_a_page_of_another_site_has_nothing_asked_by_an_operators_browser(
    harness: ProxyHarness, target: str
) -> None:
    await harness.start(ADMIN_TOKEN="open-sesame")
    other = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")]
    assert (await harness.ask(request(target, headers=other))).status == 403
    assert (await harness.ask(request("/cache", "DELETE", headers=other))).status == 403
    assert len(live(harness)) == 0
    link = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")]
    assert (await harness.ask(request("/dashboard", headers=link))).status == 200
    known = request("/stats", headers=other, key=b"Bearer open-sesame")
    assert (await harness.ask(known)).status == 200
    asked = [("Origin", "https://other.example"), ("Access-Control-Request-Method", "DELETE")]
    preflight = await harness.ask(request("/cache", "OPTIONS", headers=asked))
    assert preflight.status == 405
    assert not [name for name, _ in preflight.headers if name.lower().startswith(b"access-control")]


# The page.


@pytest_twisted.ensureDeferred
async def test_the_page_and_its_files_are_served_with_a_strict_policy(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    page = await harness.ask(request("/dashboard"))
    assert page.status == 200
    assert page.get("Content-Type") == b"text/html; charset=utf-8"
    for name in assets():
        if name != PAGE:
            answer = await harness.ask(request(f"/dashboard/{name}"))
            assert (answer.status, answer.body) == (200, assets()[name][1])
            for field, value in HEADERS:
                assert answer.get(field.decode()) == value
    policy = page.get("Content-Security-Policy") or b""
    assert b"unsafe" not in policy
    assert policy.startswith(b"default-src 'none'")
    for missing in ("index.html", "nothing.js", "web.py", "app.js/", "events/x"):
        assert (await harness.ask(request(f"/dashboard/{missing}"))).status == 404
    assert (await harness.ask(request("/dashboard", "POST"))).status == 405


@pytest.mark.parametrize(
    ("token", "accept", "kind"),
    [
        ("open-sesame", "text/html,*/*", b"text/html; charset=utf-8"),
        ("open-sesame", "*/*", b"application/json"),
        ("", "text/html", b"application/json"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_browser_is_asked_for_the_token_where_there_is_one(
    harness: ProxyHarness, token: str, accept: str, kind: bytes
) -> None:
    await harness.start(ADMIN_ALLOW="", ADMIN_TOKEN=token)
    answer = await harness.ask(request("/dashboard", headers=[("Accept", accept)]))
    assert (answer.status, answer.get("Content-Type")) == (403, kind)
    assert (await harness.logged())[0]["code"] == "admin_forbidden"
    with_token = request("/dashboard", key=b"Bearer open-sesame")
    assert (await harness.ask(with_token)).status == (200 if token else 403)


def test_the_page_names_no_other_host_and_runs_nothing_inline() -> None:
    page = assets()[PAGE][1]
    assert b"<script>" not in page
    assert b" style=" not in page
    for name, (_, content) in assets().items():
        text = content.replace(b"http://www.w3.org/", b"")  # of namespaces
        assert b"http://" not in text, name
        assert b"https://" not in text, name
        assert b"innerHTML" not in text, name


# The hour.


def test_the_hour_is_bounded_and_says_what_happened_in_it() -> None:
    counters = Counters()
    history = History(counters, 0.0)
    for number in range(1, 2 * SLOTS):
        counters.note(b"/v1/models", b"GET", 200, "HIT" if number % 2 else "MISS", 3)
        counters.note(b"/health", b"GET", 200, "-", 9)
        counters.note(b"/v1/files", b"POST", 502, "path", 1)
        counters.note(b"/v1/files", b"POST", 499, "path", 1)
        history.mark(number * 10.0)
    slots = history.slots()
    assert len(slots) == SLOTS
    assert {tuple(slot[1:5]) for slot in slots} == {(5, 3, 3, 1), (5, 0, 3, 1)}
    assert slots[-1][0] == (2 * SLOTS - 2) * 10.0
    assert history.last() == slots[-1:]
    open_slot, hour = history.now(2 * SLOTS * 10.0)
    assert open_slot.all == (0, 0, 0, 0)
    assert hour.all == (5 * SLOTS, 3 * SLOTS // 2, 3 * SLOTS, SLOTS)
    assert [route for route, _ in hour.routes] == ["/v1/models", "/v1/files"]
    assert History(counters, 0.0).last() == []


@given(st.lists(st.floats(0.00005, 800), min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 1]))
def test_a_percentile_lies_in_the_bucket_where_it_belongs(
    durations: list[float], share: float
) -> None:
    histogram = Histogram()
    for seconds in durations:
        histogram.note(seconds)
    again = Histogram()
    again.add(list(durations))
    assert histogram.counts() == again.counts()
    assert histogram.cumulative() == again.cumulative()
    found = percentile(histogram.counts(), share)
    assert found is not None
    upper = histogram.percentile(share)
    exact = sorted(durations)[max(0, -(-len(durations) * share // 1) - 1).__int__()]
    assert found <= max(2 * exact, 0.0001) * 1.000001
    assert found * 2.000001 >= min(exact, upper) or exact <= 0.0001


def test_of_nothing_there_is_no_percentile() -> None:
    assert percentile(Histogram().counts(), 0.5) is None


def test_one_histogram_of_many_is_that_of_all_durations() -> None:
    parts, whole = [Histogram(), Histogram()], Histogram()
    for number in range(100):
        parts[number % 2].note(number / 10)
        whole.note(number / 10)
    merged = Histogram.merged(parts)
    assert merged.counts() == whole.counts()
    assert (merged.count, merged.longest) == (whole.count, whole.longest)
    assert merged.total == pytest.approx(whole.total)


def test_a_look_every_second_is_what_the_page_expects() -> None:
    assert (LOOK_SECONDS, SLOT_SECONDS * SLOTS) == (1.0, 3600)
    assert Clock().seconds() == 0
