"""The metrics endpoint: authorization, format, and counts of mixed requests."""

from __future__ import annotations

from collections import defaultdict

import pytest_twisted
from prometheus_client.parser import text_string_to_metric_families

from goproxyai.errors import STATUS
from tests.support.answers import response
from tests.support.harness import ProxyHarness, post, request
from tests.support.steps import Reset

CHAT = "/v1/chat/completions"
Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


async def scrape(harness: ProxyHarness) -> Samples:
    """Return every sample, by name and labels."""
    answer = await harness.ask(request("/metrics"))
    assert answer.status == 200
    assert (answer.get("Content-Type") or b"").startswith(b"text/plain")
    found: Samples = defaultdict(dict)
    for family in text_string_to_metric_families(answer.body.decode()):
        assert family.documentation
        for sample in family.samples:
            found[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return found


def total(samples: Samples, name: str, **labels: str) -> float:
    """Return the sum of the samples of *name* that have these labels."""
    expected = set(labels.items())
    return sum(value for key, value in samples[name].items() if expected <= set(key))


@pytest_twisted.ensureDeferred
async def test_metrics_count_requests(harness: ProxyHarness) -> None:
    await harness.start(COALESCE="off")
    for _ in range(3):
        await harness.ask(request("/v1/models"))
    await harness.ask(post(CHAT, b'{"model":"secret-model","messages":[]}'))
    await harness.ask(request("/v1/files/file-secret", "DELETE"), b"DELETE")
    await harness.ask(request("/nowhere"))
    harness.upstream.script(lambda _: True, [Reset()])
    await harness.ask(request("/v1/models/other"))
    samples = await scrape(harness)
    requests = "goproxyai_requests_total"
    models = {"route": "/v1/models", "method": "GET", "status": "200"}
    assert total(samples, requests, **models, cache="MISS") == 1
    assert total(samples, requests, **models, cache="HIT") == 2
    assert total(samples, requests, route=CHAT, method="POST") == 1
    assert total(samples, requests, route="/v1/files", cache="method") == 1
    assert total(samples, requests, route="other", status="404") == 1
    assert total(samples, requests) == 7
    assert total(samples, "goproxyai_errors_total", code="upstream_unreachable") == 1
    assert total(samples, "goproxyai_errors_total", code="not_found") == 1
    assert total(samples, "goproxyai_cache_requests_total", outcome="hit") == 2
    assert total(samples, "goproxyai_cache_entries") == 2
    assert total(samples, "goproxyai_retries_total", cause="reset") <= 2
    assert total(samples, "goproxyai_circuit_open") == 0
    assert total(samples, "goproxyai_requests_in_flight") == 1, "the scrape itself"
    assert total(samples, "goproxyai_request_seconds_count") == 7
    assert total(samples, "goproxyai_connections") >= 1
    next_samples = await scrape(harness)
    assert total(next_samples, requests, route="/metrics", status="200") == 1
    assert total(next_samples, requests) == 8


@pytest_twisted.ensureDeferred
async def test_metrics_contain_nothing_from_requests(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_TOKEN="token-secret", PROXY_URL="")
    data = request(
        "/v1/secret/path?key=secret", headers=[("X-Forwarded-For", "192.0.2.77")], key=b"sk-secret"
    )
    await harness.ask(data)
    await harness.ask(data.replace(b"GET", b"BREW", 1))
    body = (await harness.ask(request("/metrics"))).body
    for text in (b"secret", b"192.0.2.77", b"BREW"):
        assert text not in body


@pytest_twisted.ensureDeferred
async def test_metrics_need_authorization(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_ALLOW="", ADMIN_TOKEN="open-sesame")
    assert (await harness.ask(request("/metrics"))).status == 403
    assert (await harness.ask(request("/metrics", key=b"Bearer open-sesame"))).status == 200


@pytest_twisted.ensureDeferred
async def test_every_error_code_has_a_series_from_the_start(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script(lambda _: True, response(b"{}"))
    samples = await scrape(harness)
    codes = {dict(key)["code"] for key in samples["goproxyai_errors_total"]}
    assert codes == {*STATUS, "RATE_LIMIT_EXCEEDED"}
