"""Upstream requests without a tunnel: absolute-form through an egress proxy, or direct."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP6ServerEndpoint

from tests.integration.egress_proxy import BASIC, CREDENTIALS, start_with_egress_proxy
from tests.support.harness import ProxyHarness, request
from tests.support.proxy import FakeProxy

pytestmark = pytest.mark.usefixtures("collect_garbage")


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_http_upstream_gets_absolute_form_with_credentials(
    harness: ProxyHarness, scheme: str
) -> None:
    upstream = "http://api.openai.test/base"
    proxy = await start_with_egress_proxy(
        harness, "user:p%40ss@", CREDENTIALS, upstream, scheme, CACHE_TTL="0"
    )
    for _ in range(2):
        await harness.ask(request("/v1/models?a=%20&b"))
    assert [each.method for each in proxy.requests] == [b"GET", b"GET"]
    assert [each.connection for each in proxy.requests] == [1, 1]
    for forwarded in proxy.requests:
        assert forwarded.target == b"http://api.openai.test/base/v1/models?a=%20&b"
        assert forwarded.all(b"proxy-authorization") == [BASIC]
        assert forwarded.all(b"host") == [b"api.openai.test"]
    for seen in harness.upstream.requests:
        assert seen.target == b"/base/v1/models?a=%20&b"
        assert seen.all(b"host") == [b"api.openai.test"]


@pytest_twisted.ensureDeferred
async def test_upload_through_proxy_without_tunnel(harness: ProxyHarness) -> None:
    await start_with_egress_proxy(harness, upstream="http://api.openai.test")
    body = bytes(range(256)) * 1000
    answer = await harness.ask(request("/v1/files", "POST", body=body))
    assert answer.status == 200
    assert harness.upstream.requests[0].body == body


@pytest_twisted.ensureDeferred
async def test_407_to_absolute_form_request_is_not_relayed(harness: ProxyHarness) -> None:
    await start_with_egress_proxy(harness, "", CREDENTIALS, "http://api.openai.test")
    for data in (request(), request("/v1/files", "POST", body=b"x" * 100_000)):
        answer = await harness.ask(data)
        assert answer.status == 502
        assert json.loads(answer.body)["error"]["code"] == "egress_proxy_refused"
        assert answer.get("Proxy-Authenticate") is None
        assert (answer.get("X-Cache"), answer.get("X-Proxy")) == (b"MISS", b"goproxyai")
    assert [each["code"] for each in await harness.logged(2)] == ["egress_proxy_refused"] * 2
    assert len(harness.upstream.requests) == 0


@pytest.mark.parametrize("path", ["/v1/models", "/v1/files"])
@pytest_twisted.ensureDeferred
async def test_407_to_absolute_form_request_is_timed(harness: ProxyHarness, path: str) -> None:
    """The log has the time until the 407, as for any other response."""
    await start_with_egress_proxy(harness, "", CREDENTIALS, "http://api.openai.test")
    data = request(path) if path == "/v1/models" else request(path, "POST", body=b"x")
    assert (await harness.ask(data)).status == 502
    [event] = await harness.logged(1)
    assert event["ms"].keys() == {"total", "upstream", "proxy"}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_host_in_no_proxy_is_reached_directly(harness: ProxyHarness, scheme: str) -> None:
    harness.names(api_openai_test="127.0.0.1")
    identity = harness.authority.good() if scheme == "https" else None
    harness.upstream_port = await harness.upstream.listen(harness.loopback(identity))
    proxy, port = await harness.egress()
    await harness.start(
        f"{scheme}://api.openai.test:{harness.upstream_port}",
        PROXY_URL=f"http://user:secret@127.0.0.1:{port}",
        NO_PROXY="example.com,.openai.test",
    )
    assert (await harness.ask(request())).status == 200
    assert proxy.connections_made == 0
    (seen,) = harness.upstream.requests
    assert seen.target == b"/v1/models"
    assert seen.all(b"proxy-authorization") == []


@needs_ipv6
@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_ipv6_address_is_bracketed(harness: ProxyHarness, scheme: str, proxied: bool) -> None:
    port = await harness.upstream.listen(on_ipv6(harness, scheme == "https"))
    proxy = FakeProxy(harness.reactor)
    texts = {}
    if proxied:
        texts["PROXY_URL"] = f"http://[::1]:{await proxy.listen(on_ipv6(harness))}"
    await harness.start(f"{scheme}://[::1]:{port}", **texts)
    answer = await harness.ask(request())
    await proxy.close()
    assert answer.status == 200
    authority = b"[::1]:%d" % port
    assert harness.upstream.requests[0].all(b"host") == [authority]
    expected = authority if scheme == "https" else b"http://%b/v1/models" % authority
    assert [each.target for each in proxy.requests] == ([expected] if proxied else [])


def on_ipv6(harness: ProxyHarness, tls: bool = False) -> Any:
    if tls:
        options = harness.authority.good().options()
        return SSL4ServerEndpoint(harness.reactor, 0, options, interface="::1")
    return TCP6ServerEndpoint(harness.reactor, 0, interface="::1")


@pytest.mark.parametrize("base", ["", "/", "/base", "/base/", "/a/b"])
@pytest_twisted.ensureDeferred
async def test_base_path_of_upstream_is_kept(harness: ProxyHarness, base: str) -> None:
    harness.upstream_port = await harness.upstream.listen(harness.loopback())
    await harness.start(f"http://127.0.0.1:{harness.upstream_port}{base}")
    await harness.ask(request("/v1/models?x=1"))
    (seen,) = harness.upstream.requests
    assert seen.target == base.rstrip("/").encode() + b"/v1/models?x=1"
    assert seen.all(b"host") == [b"127.0.0.1:%d" % harness.upstream_port]
