"""The rate limit: limited responses, the client of a request, and refilling."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs

from goproxyai.limits.addresses import TrustedProxies
from goproxyai.proxy.admission import Admission
from goproxyai.state.refilled_buckets import SWEEP_SLICE, TICK_SECONDS
from tests.support.answers import response
from tests.support.harness import KEY, Answer, ProxyHarness, RawClient, lines, post, request

REFUSAL = b'{"error":"Rate limit exceeded. Please try again later.","code":"RATE_LIMIT_EXCEEDED"}'
ASKED = b'{"model":"gpt-4o-mini","messages":[]}'


async def statuses(harness: ProxyHarness, *requests: bytes) -> list[int]:
    return [(await harness.ask(data)).status for data in requests]


def from_(address: str, target: str = "/v1/models") -> bytes:
    return request(target, headers=[("X-Forwarded-For", address)])


# Limited responses.


@pytest_twisted.ensureDeferred
async def test_limited_response_states_the_wait(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="2")
    assert await statuses(harness, request(), request()) == [200, 200]
    answer = await harness.ask(request())
    assert (answer.status, answer.reason) == (429, b"Too Many Requests")
    assert answer.body == REFUSAL
    assert answer.all("Content-Type") == [b"application/json"]
    milliseconds = int(answer.get("retry-after-ms") or 0)
    seconds = int(answer.get("Retry-After") or 0)
    assert 25_000 < milliseconds <= 30_000
    assert seconds == ceil(milliseconds / 1000)
    assert answer.all("RateLimit-Policy") == [b'"default";q=2;w=60']
    assert answer.all("RateLimit") == [b'"default";r=0;t=%d' % seconds]
    assert answer.all("X-Cache") == [b"MISS"]
    assert answer.all("X-Proxy") == [b"goproxyai"]
    assert len(harness.upstream.requests) == 1


@pytest_twisted.ensureDeferred
async def test_refusal_takes_no_token_and_keeps_connection_open(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    wire = await harness.connect()
    wire.send(request())
    assert (await wire.answer()).status == 200
    waits = []
    for _ in range(50):
        wire.send(request())
        answer = await wire.answer()
        assert (answer.status, answer.body) == (429, REFUSAL)
        waits.append(int(answer.get("retry-after-ms") or 0))
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] <= 60_000
    assert not wire.closed


@pytest_twisted.ensureDeferred
async def test_hits_and_upstream_errors_take_tokens(
    harness: ProxyHarness,
) -> None:
    await harness.start(RATE_LIMIT="4")
    asked = [request(), request(), request("/v1/nothing"), post("/v1/embeddings", b"{")]
    assert await statuses(harness, *asked) == [200, 200, 404, 400]
    assert await statuses(harness, request(), post("/v1/embeddings", ASKED)) == [429, 429]


@pytest_twisted.ensureDeferred
async def test_refused_head_request_has_no_body(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    wire = await harness.connect()
    wire.send(request() + request("/v1/models", "HEAD"))
    assert (await wire.answer()).status == 200
    refused = await wire.answer(b"HEAD")
    assert (refused.status, refused.body) == (429, b"")
    assert refused.get("Content-Length") == b"%d" % len(REFUSAL)
    wire.send(request())
    assert (await wire.answer()).status == 429


@pytest_twisted.ensureDeferred
async def test_refused_request_gets_no_100_continue(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    await harness.ask(request())
    wire = await harness.connect()
    wire.send(
        b"POST /v1/files HTTP/1.1\r\nHost: a\r\nAuthorization: %b\r\nExpect: 100-continue\r\n"
        b"Content-Length: 1000000\r\n\r\n" % KEY
    )
    answer = await wire.answer()
    assert (answer.status, answer.get("Connection")) == (429, b"close")
    await wire.wait_closed()


@pytest_twisted.ensureDeferred
async def test_rate_limit_fields_of_upstream_are_relayed(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="2")
    theirs = [
        (b"x-ratelimit-limit-requests", b"10000"),
        (b"x-ratelimit-remaining-tokens", b"9"),
        (b"RateLimit", b'"theirs";r=5'),
        (b"Retry-After", b"3"),
    ]
    harness.upstream.script("/v1/models", response(b"{}", 200, theirs))
    harness.upstream.script("/v1/limited", response(b'{"error":1}', 429, theirs))
    limited = await harness.ask(from_("192.0.2.1", "/v1/limited"))
    assert (limited.status, limited.body) == (429, b'{"error":1}')
    for answer in (limited, await harness.ask(request()), await harness.ask(request())):
        assert [answer.all(name.decode()) for name, _ in theirs] == [[value] for _, value in theirs]
        assert answer.all("RateLimit-Policy") == []


# The client of a request.


@pytest_twisted.ensureDeferred
async def test_clients_behind_trusted_peer_have_their_own_buckets(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    one, other = from_("192.0.2.1"), from_("192.0.2.2")
    assert await statuses(harness, one, other, one, other) == [200, 200, 429, 429]
    assert await statuses(harness, from_("203.0.113.7, 192.0.2.1"), request()) == [429, 200]
    twice = request(headers=[("X-Forwarded-For", "192.0.2.3"), ("x-forwarded-for", "192.0.2.2")])
    assert await statuses(harness, twice) == [429]


@pytest.mark.parametrize(
    "form",
    ["192.0.2.1:4711", "[::ffff:192.0.2.1]:80", "::ffff:c000:201", ' "192.0.2.1" ', "x, 192.0.2.1"],
)
@pytest_twisted.ensureDeferred
async def test_notations_of_an_address_share_a_bucket(harness: ProxyHarness, form: str) -> None:
    await harness.start(RATE_LIMIT="1")
    assert await statuses(harness, from_("192.0.2.1"), from_(form)) == [200, 429]


@pytest.mark.parametrize("value", ["", "unknown", "192.0.2.1, junk", "_hidden"])
@pytest_twisted.ensureDeferred
async def test_invalid_entry_makes_the_peer_the_client(harness: ProxyHarness, value: str) -> None:
    await harness.start(RATE_LIMIT="1")
    assert await statuses(harness, request(), from_(value)) == [200, 429]


@pytest.mark.parametrize("trusted", ["", "192.0.2.0/24"])
@pytest_twisted.ensureDeferred
async def test_untrusted_peer_is_the_client(harness: ProxyHarness, trusted: str) -> None:
    await harness.start(RATE_LIMIT="1", TRUSTED_PROXIES=trusted)
    assert await statuses(harness, from_("192.0.2.1"), from_("192.0.2.2")) == [200, 429]
    assert [event["client"] for event in await harness.logged(2)] == ["127.0.0.1"] * 2


@pytest.mark.parametrize(
    ("trusted", "expected"), [("unix", [200, 200, 429]), ("127.0.0.1", [200, 429, 429])]
)
@pytest_twisted.ensureDeferred
async def test_clients_of_unix_socket_share_a_bucket_unless_its_peers_are_trusted(
    harness: ProxyHarness, tmp_path: Path, trusted: str, expected: list[int]
) -> None:
    path = str(tmp_path / "proxy.sock")
    await harness.start(RATE_LIMIT="1", LISTEN=f"unix:{path}", TRUSTED_PROXIES=trusted)
    client = await connectProtocol(
        UNIXClientEndpoint(harness.reactor, path), RawClient(harness.reactor)
    )
    harness.clients.append(client)
    seen = []
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
        client.send(from_(address))
        seen.append((await client.answer()).status)
    assert seen == expected
    clients = {event["client"] for event in await harness.logged(3)}
    assert clients == ({"192.0.2.1", "192.0.2.2"} if trusted == "unix" else {"local"})


def warnings(events: list[LogEvent]) -> list[str]:
    return [line for line in lines(events) if line.startswith("warn: ")]


@pytest_twisted.ensureDeferred
async def test_forwarding_by_untrusted_private_peer_is_warned_about_once(
    harness: ProxyHarness,
) -> None:
    await harness.start(TRUSTED_PROXIES="10.0.0.0/8")
    with capturedLogs() as events:
        await statuses(harness, request())
        assert warnings(events) == []
        await statuses(harness, from_("192.0.2.77"), from_("192.0.2.78"), from_("junk"))
    (line,) = warnings(events)
    assert "X-Forwarded-For from 127.0.0.1" in line
    assert "TRUSTED_PROXIES" in line
    assert "192.0.2" not in line


@pytest.mark.parametrize("value", ["192.0.2.1", "junk", "127.0.0.1"])
@pytest_twisted.ensureDeferred
async def test_forwarding_by_trusted_peer_is_not_warned_about(
    harness: ProxyHarness, value: str
) -> None:
    await harness.start()
    with capturedLogs() as events:
        await statuses(harness, from_(value))
    assert warnings(events) == []


@pytest_twisted.ensureDeferred
async def test_ipv6_client_has_one_bucket_for_its_64(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    same = [from_("2001:db8::1"), from_("[2001:db8::ffff:ffff:ffff:ffff]:443"), from_("2001:db8::")]
    assert await statuses(harness, *same) == [200, 429, 429]
    assert await statuses(harness, from_("2001:db8:0:1::1")) == [200]


@pytest_twisted.ensureDeferred
async def test_health_is_never_limited(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    assert await statuses(harness, request(), request()) == [200, 429]
    for target in ("/health", "/health/live", "/health/ready"):
        assert await statuses(harness, *[request(target)] * 3) == [200] * 3


@pytest_twisted.ensureDeferred
async def test_refusals_and_requests_share_a_bucket(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="5", ADMIN_ALLOW="")
    missing_host = b"GET /v1/models HTTP/1.1\r\n\r\n"
    refused = [request("/nowhere"), request("/health", "POST"), request("/stats"), missing_host]
    assert await statuses(harness, *refused) == [404, 405, 403, 400]
    assert await statuses(harness, request(), request()) == [200, 429]
    assert await statuses(harness, *refused) == [429] * 4
    answer = await harness.ask(missing_host)
    assert (answer.body, answer.all("Connection")) == (REFUSAL, [b"close"])
    assert await statuses(harness, request("/health")) == [200]


@pytest.mark.parametrize(
    "target", ["GET /v1/a/../b HTTP/1.1\r\nHost: a", "GET /v1/a HTTP/1.1\r\nHost: a\r\nHost: b"]
)
@pytest_twisted.ensureDeferred
async def test_refused_head_spends_the_token_of_the_forwarded_client(
    harness: ProxyHarness, target: str
) -> None:
    await harness.start(RATE_LIMIT="1")

    async def ask(client: str) -> int:
        head = f"{target}\r\nX-Forwarded-For: 1.1.1.1, {client}\r\n\r\n"
        return (await harness.ask(head.encode())).status

    assert [await ask("192.0.2.1"), await ask("192.0.2.1")] == [400, 429]
    assert [await ask("192.0.2.2"), await ask("192.0.2.2")] == [400, 429]
    assert await statuses(harness, request()) == [200]
    assert (await harness.logged())[0]["client"] == "192.0.2.1"


@pytest_twisted.ensureDeferred
async def test_unfinished_head_spends_the_token_of_the_peer(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    fields = b"".join(b"X-%d: x\r\n" % number for number in range(300))
    head = b"GET /v1/a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n" + fields
    assert (await harness.ask(head)).status == 431
    assert await statuses(harness, request()) == [429]


@pytest_twisted.ensureDeferred
async def test_pages_of_operators_are_not_limited(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    pages = ("/stats", "/metrics", "/dashboard", "/dashboard/app.js")
    assert await statuses(harness, *[request(page) for page in pages * 2]) == [200] * 8
    assert await statuses(harness, request(), request()) == [200, 429]
    assert await statuses(harness, request("/cache", "DELETE")) == [200]


@pytest_twisted.ensureDeferred
async def test_limit_of_0_is_no_limit(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="0")
    wire = await harness.connect()
    answers: list[Answer] = []
    for _ in range(100):
        wire.send(request())
        answers.append(await wire.answer())
    assert {answer.status for answer in answers} == {200}
    assert json.loads((await harness.ask(request("/stats"))).body)["rate_limit"] == 0


# Refilling.


class Jumpy:
    """A clock whose time can be set while its delayed calls still run.

    :ivar off: seconds that it is wrong by.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.off = 0.0

    def seconds(self) -> float:
        return self.clock.seconds() + self.off

    def callLater(self, delay: float, call: Any, *args: Any) -> IDelayedCall:
        return self.clock.callLater(delay, call, *args)

    def run(self, seconds: float) -> None:
        """Advance the clock tick by tick."""
        self.clock.pump([TICK_SECONDS] * round(seconds / TICK_SECONDS))


def admission(clock: Any, per_minute: int) -> Admission:
    one = Admission(clock, per_minute, TrustedProxies())
    one.start()
    return one


def burst(one: Admission, client: str = "192.0.2.1") -> int:
    """Return how many requests of *client* are admitted now."""
    count = 0
    while one.take_token(client) == 0:
        count += 1
    return count


@pytest.mark.parametrize("per_minute", [1, 7, 60, 600, 6000])
def test_bucket_refills_by_ticks_up_to_its_depth(per_minute: int) -> None:
    clock = Jumpy()
    one = admission(clock, per_minute)
    assert burst(one) == per_minute
    clock.run(30)
    assert burst(one) in (per_minute // 2, (per_minute + 1) // 2)
    clock.run(600)
    assert burst(one) == per_minute
    one.stop()


@pytest.mark.parametrize("per_minute", [1, 7, 60, 600, 6000])
def test_client_is_admitted_after_the_wait_and_not_sooner(per_minute: int) -> None:
    clock = Jumpy()
    one = admission(clock, per_minute)
    burst(one)
    wait = one.take_token("192.0.2.1")
    clock.run(wait - TICK_SECONDS)
    assert one.take_token("192.0.2.1") == pytest.approx(TICK_SECONDS)
    clock.run(TICK_SECONDS)
    assert one.take_token("192.0.2.1") == 0
    one.stop()


def test_bucket_does_not_refill_between_ticks() -> None:
    clock = Clock()
    one = admission(clock, 6000)
    burst(one)
    clock.advance(TICK_SECONDS * 0.9)
    assert one.take_token("192.0.2.1") > 0
    clock.advance(TICK_SECONDS * 0.2)
    assert burst(one) in (9, 10, 11)
    one.stop()


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 86_400 * 365.0, 61.0, -61.0])
def test_clock_jump_adds_no_tokens(jump: float) -> None:
    clock = Jumpy()
    one = admission(clock, 600)
    burst(one)
    clock.off = jump
    clock.run(TICK_SECONDS)
    assert burst(one) == 0
    clock.run(6)
    assert burst(one) in (59, 60)
    clock.off = 0.0
    clock.run(TICK_SECONDS)
    assert burst(one) == 0
    one.stop()


def test_stopped_reactor_adds_no_tokens() -> None:
    clock = Clock()
    one = admission(clock, 600)
    burst(one)
    clock.advance(3600)
    assert burst(one) == 0
    one.stop()


def test_full_bucket_is_removed_within_five_minutes() -> None:
    clock = Jumpy()
    one = admission(clock, 60)
    for number in range(SWEEP_SLICE * 2 + 10):
        one.take_token(f"192.0.{number >> 8}.{number & 255}")
    assert len(one.buckets) == SWEEP_SLICE * 2 + 10
    clock.run(59)
    one.take_token("192.0.2.1")
    clock.run(60)
    assert len(one.buckets) <= 1
    clock.run(240)
    assert len(one.buckets) == 0
    one.stop()


def test_partial_bucket_is_never_removed() -> None:
    clock = Jumpy()
    one = admission(clock, 60)
    burst(one)
    for _ in range(20):
        clock.run(15)
        assert burst(one) in (14, 15, 16)
    one.stop()


def test_stop_cancels_the_delayed_call() -> None:
    clock = Clock()
    one = admission(clock, 60)
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(TICK_SECONDS)
    assert len(clock.getDelayedCalls()) == 1
    one.stop()
    assert clock.getDelayedCalls() == []
    one.stop()
    one.start()
    assert len(clock.getDelayedCalls()) == 1
    one.stop()
    assert clock.getDelayedCalls() == []


def test_tick_is_one_call_for_any_number_of_clients() -> None:
    clock = Clock()
    one = admission(clock, 60)
    for number in range(1000):
        one.take_token(f"192.0.{number >> 8}.{number & 255}")
    clock.advance(TICK_SECONDS)
    assert len(clock.getDelayedCalls()) == 1
    one.stop()


def test_no_limit_needs_no_ticks() -> None:
    clock = Clock()
    one = admission(clock, 0)
    assert clock.getDelayedCalls() == []
    assert [one.take_token("192.0.2.1") for _ in range(100)] == [0.0] * 100
    assert len(one.buckets) == 0
    one.stop()
