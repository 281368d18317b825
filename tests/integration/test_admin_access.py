"""Access control of the admin endpoints, and what pages of other sites can reach."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol

from tests.integration.admin_requests import FROM_ELSEWHERE, error_of
from tests.support.harness import Answer, ProxyHarness, RawClient, request

TOKEN = ("Authorization", "Bearer t0ken/=+")

CROSS_SITE = [("Origin", "https://evil.example"), ("Referer", "https://evil.example/")]
PREFLIGHT = [*CROSS_SITE, ("Access-Control-Request-Method", "DELETE")]


def request_without_key(method: str, target: str, *headers: tuple[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in headers)]
    if "Host" not in dict(headers):
        lines.append("Host: localhost")
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
        ({}, FROM_ELSEWHERE, 403),
        ({}, [("X-Forwarded-For", "127.0.0.1")], 403),
        ({}, [("X-Forwarded-For", "")], 403),
        ({}, [("X-Forwarded-For", "127.0.0.1"), ("x-forwarded-for", "10.1.2.3")], 403),
        ({}, [("Forwarded", "for=127.0.0.1")], 403),
        ({}, [("X-Real-IP", "127.0.0.1")], 403),
        ({}, [("X-Forwarded-Proto", "https")], 403),
        ({}, [("X-Client-IP", "127.0.0.1")], 403),
        ({}, [("X-Original-Forwarded-For", "127.0.0.1")], 403),
        ({}, [("X-Azure-ClientIP", "127.0.0.1")], 403),
        ({}, [("Via", "1.1 cache")], 403),
        ({}, [TOKEN], 200),
        ({}, [*FROM_ELSEWHERE, TOKEN], 403),
        ({}, [*FROM_ELSEWHERE, ("Authorization", "Bearer ")], 403),
        ({}, [*FROM_ELSEWHERE, ("Authorization", "Bearer None")], 403),
        ({"TRUSTED_PROXIES": ""}, FROM_ELSEWHERE, 403),
        ({"TRUSTED_PROXIES": ""}, [], 200),
        ({"ADMIN_ALLOW": ""}, [], 403),
        ({"ADMIN_ALLOW": "10.0.0.0/8 192.168.0.0/16 ::1"}, [], 403),
        ({"ADMIN_ALLOW": "", "ADMIN_TOKEN": "t0ken/=+"}, [TOKEN], 200),
        ({"ADMIN_ALLOW": "203.0.113.0/24"}, FROM_ELSEWHERE, 403),
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


OPERATOR_REQUESTS = [
    ("GET", "/dashboard/events"),
    ("GET", "/dashboard"),
    ("GET", "/stats"),
    ("GET", "/metrics"),
    ("DELETE", "/cache"),
]


# Host names.


@pytest.mark.parametrize(("method", "target"), OPERATOR_REQUESTS)
@pytest_twisted.ensureDeferred
async def test_unknown_host_name_is_refused_without_token(
    harness: ProxyHarness, method: str, target: str
) -> None:
    await harness.start(ADMIN_TOKEN="t0ken/=+")
    await harness.ask(request())
    rebound = request_without_key(method, target, ("Host", "evil.example:8080"))
    answer = await harness.ask(rebound, method.encode())
    assert answer.status == 403
    message = error_of(answer)["message"]
    assert "evil.example" in message
    assert "ADMIN_HOSTS" in message
    assert stored(harness) == 1
    with_token = request_without_key("GET", "/stats", ("Host", "evil.example:8080"), TOKEN)
    assert (await harness.ask(with_token)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LocalHost:8080", "127.0.0.1", "10.0.0.5:8080", "127.0.0.1:", "[::1]:8080",
        "[::1]", "Proxy.Example", "proxy.example.:80", "a_b",
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_addresses_localhost_and_names_in_admin_hosts_are_served(
    harness: ProxyHarness, host: str
) -> None:
    await harness.start(ADMIN_HOSTS="PROXY.example, a_b")
    assert (await harness.ask(request_without_key("GET", "/stats", ("Host", host)))).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "proxy",
        "x.proxy.example",
        "proxy.example.evil.example",
        "localhost.evil.example",
        "1.2.3.4.5",
    ],
)
@pytest_twisted.ensureDeferred
async def test_names_that_resemble_admin_hosts_are_refused(
    harness: ProxyHarness, host: str
) -> None:
    await harness.start(ADMIN_HOSTS="proxy.example")
    assert (await harness.ask(request_without_key("GET", "/stats", ("Host", host)))).status == 403


@pytest_twisted.ensureDeferred
async def test_operator_is_served_without_host_over_http_1_0(harness: ProxyHarness) -> None:
    await harness.start()
    assert (await harness.ask(b"GET /stats HTTP/1.0\r\n\r\n")).status == 200


# Other origins. Browsers send Sec-Fetch-* only to https and loopback origins.

SUBRESOURCE = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")]
SAME_SITE = [("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "no-cors")]
FRAME = [
    ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")
]  # fmt: skip


@pytest.mark.parametrize(
    "headers",
    [
        SUBRESOURCE,
        SAME_SITE,
        FRAME,
        [("Origin", "http://evil.example")],
        [("Origin", "null")],
        [("Origin", "http://localhost:9090")],
        [("Origin", "http://localhost.evil.example")],
        [("Origin", "http://localhost@evil.example")],
        [("Referer", "http://evil.example/page")],
        [("Referer", "http://evil.example/http://localhost/")],
        [("Origin", "http://localhost"), ("Referer", "http://evil.example/")],
        [("Origin", "http://evil.example"), ("Upgrade-Insecure-Requests", "1")],
        [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "same-origin")],
    ],
)
@pytest.mark.parametrize(
    ("method", "target"), [each for each in OPERATOR_REQUESTS if each[1] != "/dashboard"]
)
@pytest_twisted.ensureDeferred
async def test_request_of_a_page_of_another_origin_is_refused_without_token(
    harness: ProxyHarness, method: str, target: str, headers: list[tuple[str, str]]
) -> None:
    await harness.start(ADMIN_TOKEN="t0ken/=+")
    await harness.ask(request())
    answer = await harness.ask(request_without_key(method, target, *headers), method.encode())
    assert answer.status == 403
    assert "another origin" in error_of(answer)["message"]
    assert harness.daemon is not None
    assert len(harness.daemon.admin.events) == 0
    assert stored(harness) == 1


@pytest_twisted.ensureDeferred
async def test_cross_site_request_with_token_is_served(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_TOKEN="t0ken/=+")
    with_token = request_without_key("GET", "/stats", TOKEN, *SUBRESOURCE, *CROSS_SITE)
    assert (await harness.ask(with_token)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("Sec-Fetch-Site", "same-origin"), ("Origin", "http://10.0.0.5:8080")],
        [("Sec-Fetch-Site", "none")],
        [("Origin", "http://10.0.0.5:8080"), ("Referer", "http://10.0.0.5:8080/dashboard")],
        [("Referer", "http://10.0.0.5:8080/dashboard")],
        [("Referer", "http://10.0.0.5:8080")],
    ],
)
@pytest.mark.parametrize(("method", "target"), [("GET", "/stats"), ("DELETE", "/cache")])
@pytest_twisted.ensureDeferred
async def test_request_of_a_page_of_the_proxy_is_served(
    harness: ProxyHarness, method: str, target: str, headers: list[tuple[str, str]]
) -> None:
    await harness.start()
    own = request_without_key(method, target, ("Host", "10.0.0.5:8080"), *headers)
    assert (await harness.ask(own, method.encode())).status == 200


@pytest.mark.parametrize("origin", ["http://10.0.0.5", "http://10.0.0.5:80", "https://10.0.0.5"])
@pytest_twisted.ensureDeferred
async def test_default_port_of_the_origin_may_be_omitted(
    harness: ProxyHarness, origin: str
) -> None:
    await harness.start()
    own = request_without_key("DELETE", "/cache", ("Host", "10.0.0.5"), ("Origin", origin))
    assert (await harness.ask(own, b"DELETE")).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"),
         ("Sec-Fetch-Dest", "document"), ("Referer", "https://wiki.example/")],
        [("Upgrade-Insecure-Requests", "1"), ("Referer", "http://wiki.example/")],
    ],
)  # fmt: skip
@pytest.mark.parametrize("target", ["/", "/dashboard", "/stats"])
@pytest_twisted.ensureDeferred
async def test_link_from_another_site_is_served(
    harness: ProxyHarness, target: str, headers: list[tuple[str, str]]
) -> None:
    await harness.start()
    assert (await harness.ask(request_without_key("GET", target, *headers))).status == 200
    clearing = request_without_key("DELETE", "/cache", *headers)
    assert (await harness.ask(clearing, b"DELETE")).status == 403


# Unix sockets.


@pytest_twisted.ensureDeferred
async def test_peer_of_unix_socket_is_an_operator_only_with_token(
    harness: ProxyHarness, tmp_path: Path
) -> None:
    path = tmp_path / "proxy.sock"
    await harness.start(LISTEN=f"unix:{path}", ADMIN_TOKEN="t0ken/=+", TRUSTED_PROXIES="unix")

    async def status(*headers: tuple[str, str]) -> int:
        endpoint = UNIXClientEndpoint(harness.reactor, str(path))
        client = await connectProtocol(endpoint, RawClient(harness.reactor))
        harness.clients.append(client)
        client.send(request_without_key("GET", "/stats", *headers))
        return (await client.answer()).status

    assert await status() == 403
    assert await status(("X-Forwarded-For", "127.0.0.1")) == 403
    assert await status(TOKEN) == 200
