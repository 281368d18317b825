"""Requests that miss in the process and are looked up in a second level of the cache."""

from __future__ import annotations

import json
import time
from typing import Any

import attrs
import pytest
import pytest_twisted
from msgspec import structs

from goproxyai.cache.record import Record
from goproxyai.proxy.upstream_request import UpstreamRequest
from tests.integration.cached_requests import CHAT, store_of
from tests.integration.concurrent_requests import (
    answers_of,
    assert_all_released,
    flights_of,
    send_concurrently,
    wait_for_pauses,
)
from tests.support.answers import event, head, response, sse
from tests.support.harness import ProxyHarness, RawClient, eventually, post, request
from tests.support.second_level import FakeLookUp, FakeSecondLevel, install
from tests.support.steps import Pause, Reset

MODELS = "/v1/models"
PLAIN = request()
DONE = b"data: [DONE]\n\n"
SAMPLED = post(CHAT, b'{"temperature":1}')
"""A request that does not coalesce."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSecondLevel:
    return install(monkeypatch)


async def looked_up(harness: ProxyHarness, fake: FakeSecondLevel, count: int = 1) -> FakeLookUp:
    """The last look-up, when there are *count*."""
    await eventually(harness.reactor, lambda: len(fake.look_ups) == count)
    return fake.look_ups[-1]


async def waiting(
    harness: ProxyHarness, fake: FakeSecondLevel, data: bytes = PLAIN
) -> tuple[RawClient, FakeLookUp]:
    """Send a request on a new connection; return the connection and the look-up."""
    count = len(fake.look_ups)
    client = await harness.connect()
    client.send(data)
    return client, await looked_up(harness, fake, count + 1)


async def stored_record(harness: ProxyHarness, fake: FakeSecondLevel, data: bytes) -> Record:
    """Make one upstream request; return the record of it, and clear the daemon's cache."""
    client, look_up = await waiting(harness, fake, data)
    claim = look_up.deny()
    await client.answer()
    fake.look_ups.clear()
    store_of(harness).clear()
    (record,) = [end for end in claim.ends if isinstance(end, Record)]
    return record


@pytest_twisted.ensureDeferred
async def test_record_is_a_hit_for_all_that_wait(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    old = await stored_record(harness, fake, request())
    clients = await send_concurrently(harness, [request()] * 3)
    look_up = await looked_up(harness, fake)
    assert (look_up.key, look_up.path, look_up.claims) == (old.key, b"/v1/models", True)
    look_up.then(structs.replace(old, stored=old.stored - 7, expires=old.expires - 7), None)
    answers = await answers_of(clients)
    assert [answer.get("X-Cache") for answer in answers] == [b"HIT"] * 3
    assert {answer.get("Age") for answer in answers} <= {b"7", b"8"}
    assert {answer.body for answer in answers} == {old.body}
    for answer in answers:
        assert answer.get("X-Cache-Timestamp")
        assert (answer.get("Cache-Status") or b"").startswith(b"goproxyai; hit; ttl=29")
    assert (await harness.ask(request())).get("X-Cache") == b"HIT"
    assert (len(fake.look_ups), len(harness.upstream.requests)) == (1, 1)
    stats = json.loads((await harness.ask(request("/stats"))).body)["cache"]
    assert (stats["hits"], stats["misses"], stats["coalesced"]) == (4, 1, 0)


@pytest_twisted.ensureDeferred
async def test_denied_look_up_makes_one_upstream_request_and_stores(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    clients = await send_concurrently(harness, [request()] * 3)
    claim = (await looked_up(harness, fake)).deny()
    answers = await answers_of(clients)
    assert [answer.get("X-Cache") for answer in answers] == [b"MISS"] * 3
    assert len(harness.upstream.requests) == 1
    record = claim.ends[0]
    assert isinstance(record, Record)
    assert (record.path, record.body) == (b"/v1/models", answers[0].body)
    assert abs(record.stored - time.time()) < 60
    await assert_all_released(harness)


@pytest_twisted.ensureDeferred
async def test_requests_that_do_not_coalesce_share_the_look_up_only(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    clients = await send_concurrently(harness, [SAMPLED] * 2)
    look_up = await looked_up(harness, fake)
    assert not look_up.claims
    claim = look_up.deny()
    await answers_of(clients)
    assert len(harness.upstream.requests) == 2
    assert isinstance(claim.ends[0], Record)


@pytest_twisted.ensureDeferred
async def test_second_level_that_is_away_changes_nothing(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, answers_at_once=True)
    await harness.start()
    for data, expected in (
        (request(), b"MISS"), (request(), b"HIT"), (SAMPLED, b"MISS"), (SAMPLED, b"HIT"),
    ):  # fmt: skip
        assert (await harness.ask(data)).get("X-Cache") == expected


@pytest_twisted.ensureDeferred
async def test_local_flight_is_joined_without_a_look_up(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script(MODELS, [gate, response(b"{}")])
    (first,) = await send_concurrently(harness, [request()])
    (await looked_up(harness, fake)).deny()
    await wait_for_pauses(harness)
    (second,) = await send_concurrently(harness, [request()])
    await eventually(harness.reactor, lambda: len(flights_of(harness)[0]) == 2)
    gate.release()
    await answers_of([first, second])
    assert (len(fake.look_ups), len(harness.upstream.requests)) == (1, 1)


@pytest.mark.parametrize("cache_control", ["no-cache", "max-age=0, no-cache"])
@pytest_twisted.ensureDeferred
async def test_response_replaces_the_stored_one_that_the_request_refuses(
    harness: ProxyHarness, fake: FakeSecondLevel, cache_control: str
) -> None:
    await harness.start()
    answer = await harness.ask(request(headers=[("Cache-Control", cache_control)]))
    assert answer.get("X-Cache") == b"MISS"
    assert fake.look_ups == []
    ((stored,),) = [each.ends for each in fake.replacing]
    assert stored.body == answer.body


@pytest_twisted.ensureDeferred
async def test_response_that_must_not_be_stored_replaces_nothing(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    answer = await harness.ask(request(headers=[("Cache-Control", "no-store")]))
    assert answer.get("X-Cache") == b"MISS"
    assert fake.look_ups == []
    assert fake.replacing == []


@pytest_twisted.ensureDeferred
async def test_record_that_is_too_old_for_the_request_is_not_served(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    old = await stored_record(harness, fake, request())
    old = structs.replace(old, stored=old.stored - 60, expires=old.expires - 60)
    data = request(headers=[("Cache-Control", "max-age=30")])
    strict, lenient = await send_concurrently(harness, [data, request()])
    (await looked_up(harness, fake)).then(old, None)
    assert (await strict.answer()).get("X-Cache") == b"MISS"
    assert (await lenient.answer()).get("X-Cache") == b"HIT"


@pytest.mark.parametrize("found", [True, False])
@pytest_twisted.ensureDeferred
async def test_only_if_cached_is_looked_up_and_never_forwarded(
    harness: ProxyHarness, fake: FakeSecondLevel, found: bool
) -> None:
    await harness.start()
    old = await stored_record(harness, fake, request())
    client, look_up = await waiting(
        harness, fake, request(headers=[("Cache-Control", "only-if-cached")])
    )
    assert not look_up.claims
    if found:
        look_up.then(old, None)
    else:
        look_up.deny()
    answer = await client.answer()
    assert answer.status == (200 if found else 504)
    assert len(harness.upstream.requests) == 1  # the one that made the record
    if not found:
        assert json.loads(answer.body)["error"]["code"] == "only_if_cached"


@pytest_twisted.ensureDeferred
async def test_only_if_cached_of_a_write_is_not_forwarded(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    client, look_up = await waiting(
        harness, fake, post(CHAT, b'{"store":true}', [("Cache-Control", "only-if-cached")])
    )
    look_up.deny()
    assert (await client.answer()).status == 504
    assert len(harness.upstream.requests) == 0


@pytest_twisted.ensureDeferred
async def test_stale_entry_is_replaced_by_a_fresh_record(
    skewed_harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    harness = skewed_harness
    await harness.start(CACHE_TTL="60s", CACHE_STALE="10m")
    client, look_up = await waiting(harness, fake)
    claim = look_up.deny()
    await client.answer()
    harness.advance(90)
    client.send(request())
    look_up = await looked_up(harness, fake, 2)
    fresh = structs.replace(claim.ends[0], body=b'{"fresh":1}')
    look_up.then(fresh, None)
    answer = await client.answer()
    assert (answer.get("X-Cache"), answer.body) == (b"HIT", b'{"fresh":1}')


@pytest_twisted.ensureDeferred
async def test_client_that_leaves_does_not_delay_others(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    first, second = await send_concurrently(harness, [request()] * 2)
    look_up = await looked_up(harness, fake)
    finished = harness.daemon.context.counters.finished  # type: ignore[union-attr]
    first.abort()
    await eventually(harness.reactor, lambda: harness.access_log.flush() or finished.client_gone)  # type: ignore[func-returns-value]
    assert not look_up.cancelled
    claim = look_up.deny()
    assert (await second.answer()).status == 200
    assert isinstance(claim.ends[0], Record)


@pytest_twisted.ensureDeferred
async def test_look_up_is_cancelled_when_all_clients_have_left(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    clients = await send_concurrently(harness, [request()] * 2)
    look_up = await looked_up(harness, fake)
    for client in clients:
        client.abort()
    await eventually(harness.reactor, lambda: look_up.cancelled)
    (client,) = await send_concurrently(harness, [request()])
    (await looked_up(harness, fake, 2)).deny()
    assert (await client.answer()).status == 200
    assert len(harness.upstream.requests) == 1


@pytest_twisted.ensureDeferred
async def test_invalid_rest_of_a_request_ends_its_wait(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    client, look_up = await waiting(harness, fake, request() + b"GET\0 / HTTP/1.1\r\n\r\n")
    claim = look_up.deny()
    assert (await client.answer()).status in (200, 400)
    assert claim.ends


@pytest.mark.parametrize(
    "invalidation", [request("/v1/files/x", "DELETE"), request("/cache", "DELETE")]
)
@pytest_twisted.ensureDeferred
async def test_record_that_a_write_has_overtaken_is_not_served(
    harness: ProxyHarness, fake: FakeSecondLevel, invalidation: bytes
) -> None:
    await harness.start()
    old = await stored_record(harness, fake, request("/v1/files"))
    (early,) = await send_concurrently(harness, [request("/v1/files")])
    first = await looked_up(harness, fake)
    harness.upstream.script("DELETE /v1/files/x", response(b"{}"))
    assert (await harness.ask(invalidation)).status == 200
    (late,) = await send_concurrently(harness, [request("/v1/files")])
    second = await looked_up(harness, fake, 2)
    first.then(old, None)
    second.deny()
    for answer in await answers_of([early, late]):
        assert answer.get("X-Cache") == b"MISS"


@pytest_twisted.ensureDeferred
async def test_record_of_another_key_is_not_served(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    old = await stored_record(harness, fake, request())
    client, look_up = await waiting(harness, fake)
    look_up.then(structs.replace(old, key=bytes(32)), None)
    assert (await client.answer()).get("X-Cache") == b"MISS"


@pytest_twisted.ensureDeferred
async def test_reload_meanwhile_applies_to_what_waits(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    old = await stored_record(harness, fake, request())
    client, look_up = await waiting(harness, fake)
    assert harness.daemon is not None
    options = harness.daemon.context.options
    options.current = attrs.evolve(options.current, caches=False)
    look_up.then(old, None)
    answer = await client.answer()
    assert answer.get("Cache-Status") == b"goproxyai; fwd=bypass; detail=off"


@pytest_twisted.ensureDeferred
async def test_body_of_a_request_that_waits_is_counted(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    body = b'{"seed":1,"x":"' + b"x" * 500_000 + b'"}'
    client, look_up = await waiting(harness, fake, post("/v1/embeddings", body))
    assert harness.daemon is not None
    memory = harness.daemon.context.memory
    assert memory.used >= len(body)
    look_up.deny()
    await client.answer()
    await assert_all_released(harness)


@pytest_twisted.ensureDeferred
async def test_request_that_waits_finishes_before_the_end_of_a_drain(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    client, look_up = await waiting(harness, fake)
    assert harness.daemon is not None
    stopping = harness.daemon.stopService()
    await eventually(harness.reactor, lambda: harness.daemon.stats.draining)  # type: ignore[union-attr]
    look_up.deny()
    assert (await client.answer()).status == 200
    await stopping
    harness.daemon = None


@pytest_twisted.ensureDeferred
async def test_stream_is_stored_at_its_end(harness: ProxyHarness, fake: FakeSecondLevel) -> None:
    await harness.start()
    usual = {"choices": [{"index": 0, "finish_reason": "stop", "delta": {"content": "x"}}]}
    harness.upstream.script(CHAT, sse([event(usual), DONE], 0))
    data = post(CHAT, b'{"stream":true,"seed":1}')
    old = await stored_record(harness, fake, data)
    assert old.timing is not None
    assert old.body == event(usual) + DONE
    client, look_up = await waiting(harness, fake, data)
    look_up.then(old, None)
    answer = await client.answer()
    assert (answer.get("X-Cache"), answer.body) == (b"HIT", old.body)


ENDS: list[tuple[Any, str]] = [
    (response(b"no", 500), "failed"),
    (response(b"", 200), "failed"),
    (response(b"{}", headers=[(b"Cache-Control", b"no-store")]), "failed"),
    ([head(200, [(b"Content-Length", b"9")]), b"{", Reset()], "failed"),
    ([], "failed"),
]


@pytest.mark.parametrize(("script", "end"), ENDS)
@pytest_twisted.ensureDeferred
async def test_request_without_a_stored_response_ends_the_claim(
    harness: ProxyHarness, fake: FakeSecondLevel, script: Any, end: str
) -> None:
    await harness.start(REQUEST_TIMEOUT="1s", CACHE_TTL="1m")
    harness.upstream.script(MODELS, script)
    client, look_up = await waiting(
        harness, fake, request(headers=[("X-Stainless-Retry-Count", "0")])
    )
    claim = look_up.deny()
    await client.until(lambda: bool(claim.ends))
    assert claim.ends[0] == end


@pytest_twisted.ensureDeferred
async def test_claim_is_given_up_when_the_clients_leave(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    harness.upstream.script(MODELS, [Pause()])
    client, look_up = await waiting(harness, fake)
    claim = look_up.deny()
    await wait_for_pauses(harness)
    client.abort()
    await eventually(harness.reactor, lambda: claim.ends)
    assert claim.ends[0] == "given up"


@pytest_twisted.ensureDeferred
async def test_claim_that_no_request_needs_is_given_up(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    old = await stored_record(harness, fake, request())
    client, look_up = await waiting(harness, fake)
    # Meanwhile another request has stored the response in this process.
    other = await harness.connect()
    other.send(request(headers=[("Cache-Control", "no-cache")]))
    await other.answer()
    assert old.key == look_up.key
    claim = look_up.deny()
    assert (await client.answer()).get("X-Cache") == b"HIT"
    assert claim.ends == ["given up"]


@pytest_twisted.ensureDeferred
async def test_claim_outlives_the_first_request_that_waits(
    harness: ProxyHarness, fake: FakeSecondLevel
) -> None:
    await harness.start()
    old = await stored_record(harness, fake, request())
    expired = structs.replace(old, stored=old.stored - 60, expires=old.expires - 60)
    first = request(headers=[("Cache-Control", "max-age=30")])
    clients = await send_concurrently(harness, [first, request()])
    look_up = await looked_up(harness, fake)
    other = await harness.connect()
    other.send(request(headers=[("Cache-Control", "no-cache")]))
    await other.answer()
    store_of(harness).clear()
    claim = look_up.deny()
    await answers_of(clients)
    assert isinstance(claim.ends[0], Record)
    assert expired.key == look_up.key


@pytest_twisted.ensureDeferred
async def test_body_beyond_the_bound_fails_the_claim_at_once(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(monkeypatch, max_record_bytes=10)
    await harness.start()
    gate = Pause()
    body = b'{"object":"model","x":"' + b"x" * 20 + b'"}'
    steps = [head(200, [(b"Content-Length", b"%d" % len(body))]), b"{", gate, body[1:]]
    harness.upstream.script(MODELS, steps)
    client, look_up = await waiting(harness, fake)
    claim = look_up.deny()
    await wait_for_pauses(harness)
    await eventually(harness.reactor, lambda: claim.ends)
    assert claim.ends == ["failed"]
    gate.release()
    assert (await client.answer()).body == body
    assert (await harness.ask(request())).get("X-Cache") == b"HIT"


@pytest.mark.parametrize("data", [PLAIN, SAMPLED], ids=["shared", "alone"])
@pytest_twisted.ensureDeferred
async def test_response_that_no_process_can_have_is_not_looked_up(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    fake = install(monkeypatch, known=True)
    await harness.start()
    answer = await harness.ask(data)
    assert (answer.status, answer.get("X-Cache"), fake.look_ups) == (200, b"MISS", [])
    (claim,) = fake.claims
    assert isinstance(claim.ends[0], Record)
    assert claim.ends[0].body == answer.body
    assert harness.daemon is not None
    assert harness.daemon.context.counters.shared_look_ups["miss"] == 1


@pytest_twisted.ensureDeferred
async def test_request_that_cannot_be_sent_fails_its_claim(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, failures: list[Any]
) -> None:
    fake = install(monkeypatch, known=True)
    await harness.start()

    def send(_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(UpstreamRequest, "send", send)
    assert (await harness.ask(PLAIN)).status == 500
    assert fake.claims[0].ends
    failures.clear()
