"""What Prometheus is told: it adds up with what was asked, and holds nothing of a client's."""

from __future__ import annotations

from collections import defaultdict

import pytest_twisted
from prometheus_client.parser import text_string_to_metric_families

from goproxyai.errors import STATUS
from goproxyai.telemetry.counters import MOST_OUTCOMES, ROUTES, Counters, Histogram, route_of
from tests.support.answers import response
from tests.support.harness import ProxyHarness, post, request
from tests.support.steps import Reset

CHAT = "/v1/chat/completions"
Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


async def scraped(harness: ProxyHarness) -> Samples:
    """Every sample, by name and labels."""
    answer = await harness.ask(request("/metrics"))
    assert answer.status == 200
    assert (answer.get("Content-Type") or b"").startswith(b"text/plain")
    found: Samples = defaultdict(dict)
    for family in text_string_to_metric_families(answer.body.decode()):
        assert family.documentation
        for sample in family.samples:
            found[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return found


def summed(samples: Samples, name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(value for key, value in samples[name].items() if wanted <= set(key))


@pytest_twisted.ensureDeferred
async def test_the_numbers_are_those_of_what_was_asked(harness: ProxyHarness) -> None:
    await harness.start(COALESCE="off")
    for _ in range(3):
        await harness.ask(request("/v1/models"))
    await harness.ask(post(CHAT, b'{"model":"secret-model","messages":[]}'))
    await harness.ask(request("/v1/files/file-secret", "DELETE"), b"DELETE")
    await harness.ask(request("/nowhere"))
    harness.upstream.script(lambda _: True, [Reset()])
    await harness.ask(request("/v1/models/other"))
    samples = await scraped(harness)
    requests = "goproxyai_requests_total"
    models = {"route": "/v1/models", "method": "GET", "status": "200"}
    assert summed(samples, requests, **models, cache="MISS") == 1
    assert summed(samples, requests, **models, cache="HIT") == 2
    assert summed(samples, requests, route=CHAT, method="POST") == 1
    assert summed(samples, requests, route="/v1/files", cache="method") == 1
    assert summed(samples, requests, route="other", status="404") == 1
    assert summed(samples, requests) == 7
    assert summed(samples, "goproxyai_errors_total", code="upstream_unreachable") == 1
    assert summed(samples, "goproxyai_errors_total", code="not_found") == 1
    assert summed(samples, "goproxyai_cache_requests_total", outcome="hit") == 2
    assert summed(samples, "goproxyai_cache_entries") == 2
    assert summed(samples, "goproxyai_retries_total", cause="reset") <= 2
    assert summed(samples, "goproxyai_circuit_open") == 0
    assert summed(samples, "goproxyai_requests_in_flight") == 1, "the scrape itself"
    assert summed(samples, "goproxyai_request_seconds_count") == 7
    assert summed(samples, "goproxyai_connections") >= 1
    again = await scraped(harness)
    assert summed(again, requests, route="/metrics", status="200") == 1
    assert summed(again, requests) == 8


@pytest_twisted.ensureDeferred
async def test_nothing_of_a_clients_is_a_label(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_TOKEN="token-secret", PROXY_URL="")
    asked = request(
        "/v1/secret/path?key=secret", headers=[("X-Forwarded-For", "192.0.2.77")], key=b"sk-secret"
    )
    await harness.ask(asked)
    await harness.ask(asked.replace(b"GET", b"BREW", 1))
    body = (await harness.ask(request("/metrics"))).body
    for secret in (b"secret", b"192.0.2.77", b"BREW"):
        assert secret not in body


@pytest_twisted.ensureDeferred
async def test_metrics_are_for_operators(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_ALLOW="", ADMIN_TOKEN="open-sesame")
    assert (await harness.ask(request("/metrics"))).status == 403
    assert (await harness.ask(request("/metrics", key=b"Bearer open-sesame"))).status == 200


@pytest_twisted.ensureDeferred
async def test_every_code_is_there_before_it_happens(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script(lambda _: True, response(b"{}"))
    samples = await scraped(harness)
    codes = {dict(key)["code"] for key in samples["goproxyai_errors_total"]}
    assert codes == {*STATUS, "RATE_LIMIT_EXCEEDED"}


def test_a_route_is_a_resource_and_what_lies_below() -> None:
    assert route_of(b"/v1/files/file-1/content?x=1") == "/v1/files"
    assert route_of(b"/v1/chat/completions") == CHAT
    assert route_of(b"/v1/filesystem") == "other"
    assert route_of(b"/v1/\xff") == "other"
    assert len(set(ROUTES)) == len(ROUTES)


def test_combinations_are_bounded() -> None:
    counters = Counters()
    for status in range(100, 600):
        for cache in ("HIT", "MISS", "-", "STALE", "off"):
            counters.note(b"/v1/models", b"GET", status, cache, 1)
    assert len(counters.outcomes) <= MOST_OUTCOMES + 5
    assert sum(counters.outcomes.values()) == 2500


def test_a_histogram_counts_upwards_and_ends_with_all() -> None:
    histogram = Histogram()
    histogram.add([0.00005, 0.00015, 0.1, 1e6])
    counts = [count for _, count in histogram.cumulative()]
    assert counts == sorted(counts)
    assert (counts[0], counts[1], counts[-1], histogram.count) == (1, 2, 3, 4)
