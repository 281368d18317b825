"""Which headers keep a request from the cache: behind infrastructure, and as the operator says."""

from __future__ import annotations

import json

import pytest
import pytest_twisted
from twisted.logger import capturedLogs

from goproxyai.proxy.bypass_warning import WINDOW_SECONDS
from tests.integration.cached_requests import (
    CHAT,
    QUESTION,
    advance,
    ask_twice,
    start_numbered,
    x_cache,
)
from tests.integration.infrastructure_headers import INFRASTRUCTURES, headers_behind
from tests.support.harness import ProxyHarness, lines, post, request

BYPASS = b"goproxyai; fwd=bypass; detail="


@pytest.mark.parametrize("name", INFRASTRUCTURES)
@pytest_twisted.ensureDeferred
async def test_second_request_behind_infrastructure_is_a_hit(
    harness: ProxyHarness, name: str
) -> None:
    await start_numbered(harness)
    first, second = (
        request(CHAT, "POST", headers_behind(name, number), QUESTION) for number in (1, 2)
    )
    answers = await ask_twice(harness, first, second)
    assert x_cache(*answers) == [b"MISS", b"HIT"]
    first, second = (
        request("/v1/models", "GET", headers_behind(name, number)) for number in (3, 4)
    )
    assert x_cache(*await ask_twice(harness, first, second)) == [b"MISS", b"HIT"]


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ([("baggage", "k=" + "x" * 1030)], b"header-size"),
        ([("tracestate", "x" * 600), ("baggage", "x" * 600)], b"header-size"),
        ([("X-Request-Id", "x" * 1030)], b"header-size"),
        ([("X-Stainless-Poll-Helper", "true")], b"header"),
        ([("Connection", "close"), ("X-Team", "a")], b"header"),
        ([("Cookie", "AWSALB=a")], b"header"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_other_headers_bypass(
    harness: ProxyHarness, headers: list[tuple[str, str]], detail: bytes
) -> None:
    await start_numbered(harness)
    answers = await ask_twice(harness, post(CHAT, QUESTION, headers))
    assert [answer.get("Cache-Status") for answer in answers] == [BYPASS + detail] * 2


@pytest_twisted.ensureDeferred
async def test_repeated_head_with_a_long_variable_field_bypasses(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    wire = await harness.connect()
    labels = []
    for size in (10, 10, 1030, 10, 1030):
        wire.send(post(CHAT, QUESTION, [("tracestate", "k=" + "x" * size)]))
        labels.append((await wire.answer()).get("Cache-Status"))
    assert [b"header-size" in (label or b"") for label in labels] == [
        False, False, True, False, True,
    ]  # fmt: skip


LIMIT = 1024 - len("X-B3-TraceId") - len("mozilla")
"""Bytes of values of which :func:`with_values` may have so many in all."""


def with_values(size: int) -> list[tuple[str, str]]:
    """Return short fields that identify a request, whose values have *size* bytes together."""
    names = ("traceparent", "tracestate", "baggage", "newrelic", "X-B3-TraceId", "Idempotency-Key")
    share, rest = divmod(size, len(names))
    return [
        ("User-Agent", "mozilla"),
        *((name, "x" * (share + (rest if name == "baggage" else 0))) for name in names),
    ]


@pytest_twisted.ensureDeferred
async def test_short_values_count_exactly_on_one_connection(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    wire = await harness.connect()
    for size in (600, 600, 60, LIMIT, 60, LIMIT - 1, LIMIT + 1, 60, LIMIT + 1, LIMIT, 600):
        wire.send(post(CHAT, QUESTION, with_values(size)))
        label = (await wire.answer()).get("Cache-Status") or b""
        assert label.endswith(b"header-size") == (size > LIMIT), size
    # A fixed field takes part of what the others may have.
    for size in (LIMIT - 100, LIMIT - 101, LIMIT - 100, 60):
        wire.send(post(CHAT, QUESTION, [*with_values(size), ("sec-x", "x" * 96)]))
        label = (await wire.answer()).get("Cache-Status") or b""
        assert label.endswith(b"header-size") == (size > LIMIT - 101), size


@pytest_twisted.ensureDeferred
async def test_field_that_a_later_request_has_too_large_is_named(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    for size in (60, 60, 1201):
        explained = [*with_values(size), ("X-Proxy-Explain", "1")]
        answer = await harness.ask(post(CHAT, QUESTION, explained))
        cache = json.loads(answer.body)["explain"]["cache"]
        # Its name counts as well.
        expected = ("header-size", "x-b3-traceid") if size > LIMIT else ("miss", None)
        assert (cache.get("reason"), cache.get("header")) == expected
    explained = [*with_values(300), ("sec-x", "x" * 900), ("X-Proxy-Explain", "1")]
    answer = await harness.ask(post(CHAT, QUESTION, explained))
    assert json.loads(answer.body)["explain"]["cache"]["header"] == "sec-x"


@pytest_twisted.ensureDeferred
async def test_header_that_connection_names_neither_bypasses_nor_is_forwarded(
    harness: ProxyHarness,
) -> None:
    await start_numbered(harness)
    first, second = (
        post(CHAT, QUESTION, [("Connection", "keep-alive, X-Hop"), ("X-Hop", value)])
        for value in "ab"
    )
    assert x_cache(*await ask_twice(harness, first, second)) == [b"MISS", b"HIT"]
    assert harness.upstream.requests[0].header(b"X-Hop") is None


@pytest.mark.parametrize(
    ("settings", "header", "labels"),
    [
        ({"CACHE_IGNORE_HEADERS": "X-Team x-corp-*"}, ("X-TEAM", "{}"), [b"MISS", b"HIT"]),
        ({"CACHE_IGNORE_HEADERS": "X-Team,x-corp-*"}, ("x-corp-user", "{}"), [b"MISS", b"HIT"]),
        ({"CACHE_IGNORE_HEADERS": "x-team"}, ("x-teams", "{}"), [b"MISS", b"MISS"]),
        ({"CACHE_IGNORE_HEADERS": "x-*"}, ("X-Api-Key", "{}"), [b"MISS", b"MISS"]),
        ({"CACHE_IGNORE_COOKIES": "AWSALB __cf*"}, ("Cookie", "AWSALB={}"), [b"MISS", b"HIT"]),
        (
            {"CACHE_IGNORE_COOKIES": "AWSALB,__cf*"},
            ("Cookie", "AWSALB={}; __cf_bm={}"),
            [b"MISS", b"HIT"],
        ),
        (
            {"CACHE_IGNORE_COOKIES": "AWSALB"},
            ("Cookie", "AWSALB={}; session=1"),
            [b"MISS", b"MISS"],
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_ignored_headers_and_cookies_are_forwarded_and_do_not_bypass(
    harness: ProxyHarness,
    settings: dict[str, str],
    header: tuple[str, str],
    labels: list[bytes],
) -> None:
    await start_numbered(harness, **settings)
    name, value = header
    first, second = (post(CHAT, QUESTION, [(name, value.replace("{}", number))]) for number in "12")
    assert x_cache(*await ask_twice(harness, first, second)) == labels
    assert harness.upstream.requests[0].header(name.encode()) == value.replace("{}", "1").encode()


@pytest_twisted.ensureDeferred
async def test_header_that_keeps_most_requests_from_the_cache_is_logged(
    skewed_harness: ProxyHarness,
) -> None:
    await start_numbered(skewed_harness, RATE_LIMIT="0")
    assert skewed_harness.daemon is not None
    wire = await skewed_harness.connect()
    with capturedLogs() as events:
        for _ in range(100):
            wire.send(post(CHAT, QUESTION, [("X-Team", "secret-team")]))
            await wire.answer()
        advance(skewed_harness, WINDOW_SECONDS)
        skewed_harness.daemon.listeners.factory.ticker.check_deadlines()
    warnings = [line for line in lines(events) if "x-team" in line]
    assert len(warnings) == 1
    assert "100 of the 100 cacheable requests" in warnings[0]
    assert not any("secret-team" in line for line in lines(events))


@pytest_twisted.ensureDeferred
async def test_bypasses_are_counted_by_reason(harness: ProxyHarness) -> None:
    await start_numbered(harness, CACHE_PATHS="responses")
    for data in (
        post("/v1/files", b"{}"),
        post(CHAT, QUESTION, [("X-Team", "a")]),
        post(CHAT, QUESTION, [("X-Team", "b")]),
        post("/v1/responses", b"{}"),
    ):
        await harness.ask(data)
    metrics = (await harness.ask(request("/metrics", key=b""))).body
    for reason, number in (("path", 1), ("header", 2), ("store", 1), ("size", 0)):
        line = f'goproxyai_cache_bypasses_total{{reason="{reason}"}} {number}.0\n'
        assert line.encode() in metrics
    stats = json.loads((await harness.ask(request("/stats", key=b""))).body)
    assert stats["cache"]["bypass_reasons"] == {"path": 1, "header": 2, "store": 1}
    assert stats["cache"]["bypasses"] == 4
