"""The admin endpoints: health, statistics, unknown paths and methods."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import pytest_twisted

from goproxyai import __version__
from goproxyai.proxy.recorder import PIECE_OVERHEAD_BYTES
from goproxyai.proxy.relayed_routes import RELAYED
from tests.integration.admin_requests import FROM_ELSEWHERE, error_of
from tests.support.answers import chunk, head
from tests.support.harness import Answer, ProxyHarness, post, request
from tests.support.raw_client import LOOPED_VIA
from tests.support.steps import Pause, Reset

COMPLETION = b'{"model":"gpt-4o-mini","messages":[]}'


def document_of(answer: Answer) -> Any:
    """Return the JSON of a successful answer, after checking its headers."""
    assert answer.status == 200
    assert answer.all("Content-Type") == [b"application/json"]
    assert answer.all("X-Proxy") == [b"goproxyai"]
    assert answer.all("Content-Length") == [b"%d" % len(answer.body)]
    assert answer.all("Cache-Control") == [b"no-store"]
    assert answer.all("Server") == []
    return json.loads(answer.body)


async def stats(harness: ProxyHarness) -> Any:
    return document_of(await harness.ask(request("/stats")))


@pytest_twisted.ensureDeferred
async def test_health_reports_healthy(harness: ProxyHarness) -> None:
    await harness.start()
    before = int(time.time())
    document = document_of(await harness.ask(request("/health")))
    timestamp = document.pop("timestamp")
    assert document == {"status": "healthy", "service": "openai-proxy"}
    assert isinstance(timestamp, str)
    assert before <= int(timestamp) <= time.time()


@pytest.mark.parametrize(
    "target", ["/health", "/health/", "/health?x=1", "/health/live", "/health/ready"]
)
@pytest_twisted.ensureDeferred
async def test_health_needs_no_authorization(harness: ProxyHarness, target: str) -> None:
    await harness.start(ADMIN_ALLOW="")
    assert document_of(await harness.ask(request(target, headers=FROM_ELSEWHERE)))["status"]
    minimal = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target.encode()
    assert (await harness.ask(minimal)).status == 200
    http_1_0 = await harness.ask(b"GET %b HTTP/1.0\r\n\r\n" % target.encode())
    assert (http_1_0.status, http_1_0.get("Connection")) == (200, b"close")


@pytest_twisted.ensureDeferred
async def test_head_of_health_has_no_body(harness: ProxyHarness) -> None:
    await harness.start()
    client = await harness.connect()
    client.send(request("/health", "HEAD") + request("/health"))
    without_body = await client.answer(b"HEAD")
    with_body = await client.answer()
    assert (without_body.status, without_body.body) == (200, b"")
    assert without_body.get("Content-Length") == with_body.get("Content-Length")
    assert json.loads(with_body.body)["status"] == "healthy"


@pytest.mark.parametrize(
    "data",
    [
        request("/health", "POST", body=b"x" * 1000),
        request("/health", "POST", [("Transfer-Encoding", "chunked")]) + chunk(b"x") + chunk(b""),
        request(
            "/health", "POST", [("Content-Type", "application/x-www-form-urlencoded")], b"a=1&b=2"
        ),
    ],
    ids=["content_length", "chunked", "form"],
)
@pytest_twisted.ensureDeferred
async def test_body_of_refused_request_is_not_parsed_as_request(
    harness: ProxyHarness, data: bytes
) -> None:
    await harness.start()
    client = await harness.connect()
    client.send(data + request("/health"))
    refused = await client.answer()
    assert (refused.status, error_of(refused)["code"]) == (405, "method_not_allowed")
    assert (await client.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_large_request_body_is_refused(harness: ProxyHarness) -> None:
    await harness.start()
    answer = await harness.ask(request("/cache", "DELETE", body=b"x" * 70_000))
    assert (answer.status, error_of(answer)["code"]) == (413, "request_too_large")


@pytest_twisted.ensureDeferred
async def test_stats_report_settings(harness: ProxyHarness) -> None:
    await harness.start(
        RATE_LIMIT="120",
        CACHE_TTL="90s",
        MAX_CACHE_SIZE="3",
        PROXY_URL="http://user:hunter2@proxy.test:3128",
    )
    document = await stats(harness)
    assert document["cache"]["ttl"] == "1m30s"
    assert document["cache"]["item_count"] == 0
    assert document["cache"]["max_bytes"] == 3 * 1024 * 1024
    assert document["rate_limit"] == 120
    assert document["openai_url"] == f"http://127.0.0.1:{harness.upstream_port}"
    assert document["proxy_url"] == "http://***:***@proxy.test:3128"
    assert document["ready"] is True
    assert document["uptime_seconds"] >= 0


@pytest_twisted.ensureDeferred
async def test_stats_report_default_settings(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="60")
    document = await stats(harness)
    assert document["cache"]["ttl"] == "5m0s"
    assert (document["rate_limit"], document["proxy_url"]) == (60, "")


@pytest_twisted.ensureDeferred
async def test_stats_count_requests(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="8")
    harness.upstream.script("/v1/broken", [Reset()])
    upload = request("/v1/files", "POST", body=b"x" * 5000)
    sent = [post("/v1/chat/completions", COMPLETION)] * 2  # a miss and a hit
    sent += [request("/v1/nothing"), upload, request("/v1/broken"), request("/v1/models", "HEAD")]
    sent += [request("/nowhere"), request("/health"), b"GET /v1/x HTTP/1.1\r\n\r\n"]
    sent += [request()] * 2  # over the rate limit
    answers = [await harness.ask(data, data.partition(b" ")[0]) for data in sent]
    expected = [200, 200, 404, 200, 502, 200, 404, 200, 400, 429, 429]
    assert [answer.status for answer in answers] == expected
    document = await stats(harness)
    cache, requests = document["cache"], document["requests"]
    assert (cache["item_count"], cache["stores"], cache["evictions"]) == (1, 1, 0)
    assert (cache["hits"], cache["misses"], cache["bypasses"]) == (1, 3, 2)
    assert cache["bytes"] > len(answers[0].body)
    assert requests["total"] == len(sent) + 1
    assert requests["in_flight"] == 1  # the request for /stats
    assert requests["by_status"] == {"2xx": 5, "3xx": 0, "4xx": 5, "5xx": 1}
    assert requests["limited"] == 2
    assert (requests["client_gone"], requests["cut_by_upstream"]) == (0, 0)
    assert requests["bytes_in"] == 2 * len(COMPLETION) + 5000
    assert requests["bytes_out"] == sum(len(answer.body) for answer in answers)
    assert requests["time"]["max_ms"] >= requests["time"]["p50_ms"] > 0
    assert document["errors"] == {"bad_request": 1, "not_found": 1, "upstream_unreachable": 1}
    assert document["clients"] == 1


@pytest_twisted.ensureDeferred
async def test_stats_report_bytes_being_recorded(harness: ProxyHarness) -> None:
    await harness.start()
    pause = Pause()
    beginning = head(200, [(b"Transfer-Encoding", b"chunked")]) + chunk(b"x" * 5000)
    harness.upstream.script("/v1/models", [beginning, pause, chunk(b"")])
    client = await harness.connect()
    client.send(request())
    await client.until(lambda: b"xxx" in client.received)
    assert (await stats(harness))["cache"]["reserved"] == 5000 + PIECE_OVERHEAD_BYTES
    pause.release()
    await client.answer()
    assert (await stats(harness))["cache"]["reserved"] == 0


@pytest.mark.parametrize(
    "data",
    [
        request("/v1/models"),
        request("/v1/nothing"),
        request("/v1/broken"),
        request("/v1/x", "TRACE"),
        request("/v1/x", headers=[("Via", LOOPED_VIA)]),
        request("/v1/x", headers=[("Cache-Control", "only-if-cached")]),
        request("/v1/./x"),
        request("/v1/x", "POST", [("Content-Length", "99999999999")]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_relayed_path_always_gets_proxy_and_cache_headers(
    harness: ProxyHarness, data: bytes
) -> None:
    await harness.start()
    harness.upstream.script("/v1/broken", [Reset()])
    answer = await harness.ask(data)
    assert answer.all("X-Cache") == [b"MISS"]
    assert answer.all("X-Proxy") == [b"goproxyai"]
    assert answer.all("Via") == [b"1.1 goproxyai"]
    assert len(answer.all("Cache-Status")) == 1


@pytest.mark.parametrize(
    "target",
    [
        "/v1", "/v2/models", "/healthz", "/Health", "/stats/", "/cache/x",
        "//v1/models", "/v1%2fmodels", "/%761/models", "/V1/models", "//health", "/index.html",
        "/health%00", "/a%0d%0aX-Evil:1",
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_unknown_path_is_not_found(harness: ProxyHarness, target: str) -> None:
    await harness.start()
    client = await harness.connect()
    client.send(request(target) + request("/health"))
    answer = await client.answer()
    assert (answer.status, error_of(answer)["code"]) == (404, "not_found")
    assert (await client.answer()).status == 200
    assert answer.get("Location") is None
    assert not list(harness.upstream.requests)


ALLOW_RELAYED = ", ".join(RELAYED.methods).encode()


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("POST", "/health", b"GET, HEAD"),
        ("DELETE", "/health/live", b"GET, HEAD"),
        ("PUT", "/health/ready", b"GET, HEAD"),
        ("PATCH", "/stats", b"GET, HEAD"),
        ("GET", "/cache", b"DELETE"),
        ("POST", "/", b"GET, HEAD"),
        ("POST", "/cache", b"DELETE"),
        ("TRACE", "/v1/models", ALLOW_RELAYED),
        ("PROPFIND", "/v1/models", ALLOW_RELAYED),
    ],
)
@pytest_twisted.ensureDeferred
async def test_other_method_is_refused_with_allow(
    harness: ProxyHarness, method: str, target: str, allow: bytes
) -> None:
    await harness.start()
    answer = await harness.ask(request(target, method))
    assert (answer.status, error_of(answer)["code"]) == (405, "method_not_allowed")
    assert answer.all("Allow") == [allow]
    assert not list(harness.upstream.requests)


@pytest_twisted.ensureDeferred
async def test_head_of_unknown_path_has_no_body(harness: ProxyHarness) -> None:
    await harness.start()
    client = await harness.connect()
    client.send(request("/nowhere", "HEAD") + request("/health"))
    assert (await client.answer(b"HEAD")).status == 404
    assert (await client.answer()).status == 200


# The index.

BROWSER = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")]


@pytest.mark.parametrize("target", ["/", "/?x", "/?/v1/models"])
@pytest_twisted.ensureDeferred
async def test_index_tells_every_client_name_version_and_endpoints(
    harness: ProxyHarness, target: str
) -> None:
    await harness.start(ADMIN_ALLOW="", PROXY_URL="http://user:hunter2@proxy.test:3128")
    answer = await harness.ask(request(target, headers=FROM_ELSEWHERE))
    assert document_of(answer) == {
        "name": "goproxyai",
        "version": __version__,
        "endpoints": {
            "/v1/": "GET POST PUT DELETE PATCH HEAD OPTIONS",
            "/": "GET HEAD",
            "/cache": "DELETE",
            "/dashboard": "GET HEAD",
            "/dashboard/events": "GET HEAD",
            "/health": "GET HEAD",
            "/health/": "GET HEAD",
            "/health/live": "GET HEAD",
            "/health/ready": "GET HEAD",
            "/metrics": "GET HEAD",
            "/stats": "GET HEAD",
        },
    }


@pytest_twisted.ensureDeferred
async def test_index_redirects_browsers_to_dashboard(harness: ProxyHarness) -> None:
    await harness.start()
    for method in ("GET", "HEAD"):
        data = request("/", method, [*BROWSER, *FROM_ELSEWHERE])
        answer = await harness.ask(data, method.encode())
        assert (answer.status, answer.all("Location")) == (302, [b"/dashboard"])
        assert answer.all("Vary") == [b"Accept"]
        assert bool(answer.body) == (method == "GET")
    other = await harness.ask(request("/", "HEAD"), b"HEAD")
    assert (other.status, other.all("Location"), other.body) == (200, [], b"")


@pytest_twisted.ensureDeferred
async def test_index_spends_a_token_unless_an_operator_asks(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    other = request("/", headers=FROM_ELSEWHERE)
    assert [(await harness.ask(other)).status for _ in range(2)] == [200, 429]
    assert [(await harness.ask(request("/"))).status for _ in range(3)] == [200] * 3


@pytest_twisted.ensureDeferred
async def test_exception_in_endpoint_is_logged_and_not_disclosed(
    harness: ProxyHarness, failures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.start()
    assert harness.daemon is not None
    monkeypatch.setattr(harness.daemon.context.counters, "summary", lambda: 1 // 0)
    answer = await harness.ask(request("/stats"))
    assert (answer.status, error_of(answer)["code"]) == (500, "internal_error")
    assert b"zero" not in answer.body
    assert failures.pop()["log_failure"].check(ZeroDivisionError)
