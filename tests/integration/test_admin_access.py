"""Access control of the admin endpoints, and what pages of other sites can reach."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.integration.admin_requests import FROM_ELSEWHERE, error_of
from tests.support.harness import Answer, ProxyHarness, request

TOKEN = ("Authorization", "Bearer t0ken/=+")

CROSS_SITE = [("Origin", "https://evil.example"), ("Referer", "https://evil.example/")]
PREFLIGHT = [*CROSS_SITE, ("Access-Control-Request-Method", "DELETE")]


def request_without_key(method: str, target: str, *headers: tuple[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: a", *(f"{n}: {v}" for n, v in headers)]
    return "\r\n".join([*lines, "", ""]).encode()


def stored(harness: ProxyHarness) -> int:
    """Return the number of cache entries."""
    assert harness.daemon is not None
    return len(harness.daemon.context.store)


def cors_headers(answer: Answer) -> list[bytes]:
    return [name for name, _ in answer.headers if name.lower().startswith(b"access-control-")]


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/stats"), ("HEAD", "/stats"), ("DELETE", "/cache")]
)
@pytest.mark.parametrize(
    ("texts", "headers", "status"),
    [
        ({}, [], 200),
        ({}, [("X-Forwarded-For", "10.1.2.3")], 200),
        ({}, [("X-Forwarded-For", "::ffff:192.168.0.9")], 200),
        ({}, [("X-Forwarded-For", "fd00::1")], 200),
        ({}, FROM_ELSEWHERE, 403),
        ({}, [("X-Forwarded-For", "10.1.2.3, 203.0.113.9")], 403),
        ({}, [("X-Forwarded-For", "2001:db8::1")], 403),
        ({}, [*FROM_ELSEWHERE, TOKEN], 403),
        ({}, [*FROM_ELSEWHERE, ("Authorization", "Bearer ")], 403),
        ({}, [*FROM_ELSEWHERE, ("Authorization", "Bearer None")], 403),
        ({"TRUSTED_PROXIES": ""}, FROM_ELSEWHERE, 200),
        ({"ADMIN_ALLOW": ""}, [], 403),
        ({"ADMIN_ALLOW": "", "ADMIN_TOKEN": "t0ken/=+"}, [TOKEN], 200),
        ({"ADMIN_ALLOW": "203.0.113.0/24"}, FROM_ELSEWHERE, 200),
        ({"ADMIN_ALLOW": "203.0.113.0/24"}, [], 403),
        ({"ADMIN_TOKEN": "t0ken/=+"}, FROM_ELSEWHERE, 403),
        ({"ADMIN_TOKEN": "t0ken/=+"}, [*FROM_ELSEWHERE, TOKEN], 200),
        ({"ADMIN_TOKEN": "t0ken/=+"},
         [*FROM_ELSEWHERE, ("Authorization", "bearer t0ken/=+")], 200),
        ({"ADMIN_TOKEN": "t0ken/=+"}, [*FROM_ELSEWHERE, ("Authorization", "Bearer t0ken/=")], 403),
        ({"ADMIN_TOKEN": "t0ken/=+"},
         [*FROM_ELSEWHERE, ("Authorization", "Bearer t0ken/=++")], 403),
        ({"ADMIN_TOKEN": "t0ken/=+"}, [*FROM_ELSEWHERE, ("Authorization", "Basic t0ken/=+")], 403),
        ({"ADMIN_TOKEN": "t0ken/=+"}, [*FROM_ELSEWHERE, ("Authorization", "t0ken/=+")], 403),
        ({"ADMIN_TOKEN": "t0ken/=+"},
         [*FROM_ELSEWHERE, TOKEN, ("Authorization", "Bearer x")], 403),
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_operator_is_authorized_by_address_or_token(
    harness: ProxyHarness,
    texts: dict[str, str],
    headers: list[tuple[str, str]],
    status: int,
    method: str,
    target: str,
) -> None:
    await harness.start(**texts)
    await harness.ask(request())
    answer = await harness.ask(request_without_key(method, target, *headers), method.encode())
    assert answer.status == status
    if status == 403 and method != "HEAD":
        assert error_of(answer)["code"] == "admin_forbidden"
        assert b"t0ken" not in answer.body
    assert stored(harness) == (0 if (method, status) == ("DELETE", 200) else 1)


@pytest_twisted.ensureDeferred
async def test_preflight_to_clear_cache_is_refused(harness: ProxyHarness) -> None:
    await harness.start()
    await harness.ask(request())
    for target in ("/cache", "/cache?path=/v1/models"):
        answer = await harness.ask(request(target, "OPTIONS", PREFLIGHT), b"OPTIONS")
        assert answer.status == 405
        assert cors_headers(answer) == []
    assert stored(harness) == 1


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("POST", b"_method=DELETE")])
@pytest_twisted.ensureDeferred
async def test_html_form_cannot_clear_cache(
    harness: ProxyHarness, method: str, body: bytes
) -> None:
    await harness.start()
    await harness.ask(request())
    form = [*CROSS_SITE, ("X-HTTP-Method-Override", "DELETE")]
    if body:
        form.append(("Content-Type", "application/x-www-form-urlencoded"))
    answer = await harness.ask(
        request("/cache?_method=DELETE", method, form, body), method.encode()
    )
    assert answer.status == 405
    assert stored(harness) == 1


@pytest.mark.parametrize("target", ["/stats", "/health", "/health/ready", "/cache", "/nowhere"])
@pytest_twisted.ensureDeferred
async def test_admin_endpoint_sends_no_cors_headers(harness: ProxyHarness, target: str) -> None:
    await harness.start()
    assert cors_headers(await harness.ask(request(target, headers=CROSS_SITE))) == []


@pytest.mark.parametrize(("method", "target"), [("GET", "/stats"), ("DELETE", "/cache")])
@pytest_twisted.ensureDeferred
async def test_dns_rebinding_is_refused_if_token_is_required(
    harness: ProxyHarness, method: str, target: str
) -> None:
    await harness.start(ADMIN_ALLOW="", ADMIN_TOKEN="a-token-of-the-operators")
    await harness.ask(request())
    rebound = f"{method} {target} HTTP/1.1\r\nHost: evil.example:8080\r\n\r\n".encode()
    answer = await harness.ask(rebound, method.encode())
    assert answer.status == 403
    assert stored(harness) == 1


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/dashboard/events"),
        ("GET", "/stats"),
        ("GET", "/metrics"),
        ("DELETE", "/cache"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_cross_site_request_is_refused_without_token(
    harness: ProxyHarness, method: str, target: str
) -> None:
    await harness.start(ADMIN_TOKEN="open-sesame")
    subresource = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")]
    assert (await harness.ask(request(target, method, subresource))).status == 403
    assert harness.daemon is not None
    assert len(harness.daemon.admin.events) == 0


@pytest_twisted.ensureDeferred
async def test_cross_site_request_with_token_is_served(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_TOKEN="open-sesame")
    subresource = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")]
    with_token = request("/stats", headers=subresource, key=b"Bearer open-sesame")
    assert (await harness.ask(with_token)).status == 200


@pytest_twisted.ensureDeferred
async def test_cross_site_link_to_dashboard_is_served(harness: ProxyHarness) -> None:
    await harness.start()
    link = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")]
    assert (await harness.ask(request("/dashboard", headers=link))).status == 200
