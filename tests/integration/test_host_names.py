"""Host names of upstreams and egress proxies that are unusual but in use."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from goproxyai.upstream.no_proxy import parse_no_proxy
from tests.support.authority import Authority, Identity
from tests.support.harness import Answer, ProxyHarness, request
from tests.support.serving import FakeServer

pytestmark = pytest.mark.usefixtures("collect_garbage")

NAMES = [
    "upstream.test",
    "my_service",  # Docker Compose
    "project_upstream_1",
    "_upstream",
    "r3---sn-x.test",
    "a1--b.test",
    "upstream.ns.svc.cluster.local.",  # Kubernetes, absolute
    "my_service.",
]

every_name = pytest.mark.parametrize("name", NAMES)


def sent(name: str) -> str:
    """The name as peers and certificates have it."""
    return name.removesuffix(".")


def server_names(server: FakeServer) -> list[bytes]:
    """The SNI of the open connections to *server*, which must have agreed on HTTP/1.1."""
    transports: list[Any] = [each.transport for each in server.connections]
    handles = [transport.getHandle() for transport in transports]
    assert {handle.get_alpn_proto_negotiated() for handle in handles} == {b"http/1.1"}
    return [handle.get_servername() for handle in handles]


def error_code(answer: Answer) -> str:
    return str(json.loads(answer.body)["error"]["code"])


@every_name
@pytest_twisted.ensureDeferred
async def test_http_upstream_of_any_name_is_reached(harness: ProxyHarness, name: str) -> None:
    harness.resolve({name: "127.0.0.1"})  # the dot is for the resolver
    port = await harness.upstream.listen(harness.loopback())
    await harness.start(f"http://{name}:{port}")
    assert (await harness.ask(request())).status == 200
    assert harness.upstream.requests[0].all(b"host") == [f"{sent(name)}:{port}".encode()]


@every_name
@pytest_twisted.ensureDeferred
async def test_https_upstream_of_any_name_is_verified(
    harness: ProxyHarness, authority: Authority, name: str
) -> None:
    harness.resolve({name: "127.0.0.1"})
    port = await harness.listen_with_tls(authority.issue_unchecked(sent(name)))
    await harness.start(f"https://{name}:{port}")
    assert (await harness.ask(request())).status == 200
    assert server_names(harness.upstream) == [sent(name).encode()]
    assert harness.upstream.requests[0].all(b"host") == [f"{sent(name)}:{port}".encode()]


@every_name
@pytest.mark.parametrize("certificate", ["another name", "no name"])
@pytest_twisted.ensureDeferred
async def test_certificate_of_another_host_is_refused(
    harness: ProxyHarness, authority: Authority, name: str, certificate: str
) -> None:
    harness.resolve({name: "127.0.0.1"})
    names = ["other" + sent(name)] if certificate == "another name" else []
    port = await harness.listen_with_tls(authority.issue_unchecked(*names))
    await harness.start(f"https://{name}:{port}")
    answer = await harness.ask(request())
    assert (answer.status, error_code(answer)) == (502, "upstream_tls_failed")
    assert len(harness.upstream.requests) == 0


@pytest.mark.parametrize("other", ["*.internal", "*", "a.*.test", "192.0.2.1"])
@pytest_twisted.ensureDeferred
async def test_invalid_name_alongside_the_right_one_is_ignored(
    harness: ProxyHarness, authority: Authority, other: str
) -> None:
    harness.resolve({"api.internal": "127.0.0.1"})
    port = await harness.listen_with_tls(authority.issue_unchecked("api.internal", other))
    await harness.start(f"https://api.internal:{port}")
    assert (await harness.ask(request())).status == 200


@pytest.mark.parametrize("names", [("*.internal",), ("other.test", "*.internal")])
@pytest_twisted.ensureDeferred
async def test_invalid_name_matches_no_host(
    harness: ProxyHarness, authority: Authority, names: tuple[str, ...]
) -> None:
    harness.resolve({"api.internal": "127.0.0.1"})
    port = await harness.listen_with_tls(authority.issue_unchecked(*names))
    await harness.start(f"https://api.internal:{port}")
    answer = await harness.ask(request())
    assert (answer.status, error_code(answer)) == (502, "upstream_tls_failed")
    assert len(harness.upstream.requests) == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
@every_name
@pytest_twisted.ensureDeferred
async def test_egress_proxy_of_any_name_is_used(
    harness: ProxyHarness, authority: Authority, name: str, scheme: str
) -> None:
    harness.resolve({name: "127.0.0.1"})
    await harness.listen_with_tls()
    identity: Identity | None = None
    if scheme == "https":
        identity = authority.issue_unchecked(sent(name))
    proxy, port = await harness.egress(identity=identity)
    await harness.start("https://api.openai.test", PROXY_URL=f"{scheme}://{name}:{port}")
    assert (await harness.ask(request())).status == 200
    if scheme == "https":
        assert server_names(proxy) == [sent(name).encode()]


@pytest.mark.parametrize("scheme", ["http", "https"])
@every_name
@pytest_twisted.ensureDeferred
async def test_egress_proxy_is_asked_for_the_name_without_a_dot(
    harness: ProxyHarness, authority: Authority, name: str, scheme: str
) -> None:
    tls = scheme == "https"
    identity = authority.issue_unchecked(sent(name)) if tls else None
    harness.upstream_port = await harness.upstream.listen(harness.loopback(identity))
    proxy, port = await harness.egress()
    authority_form = f"{sent(name)}:{443 if tls else 80}"
    proxy.names[authority_form] = ("127.0.0.1", harness.upstream_port)
    await harness.start(f"{scheme}://{name}", PROXY_URL=f"http://127.0.0.1:{port}")
    assert (await harness.ask(request())).status == 200
    (asked,) = proxy.requests
    if tls:
        assert asked.target == authority_form.encode()
        assert asked.all(b"host") == [authority_form.encode()]
    else:
        assert asked.target == f"http://{sent(name)}/v1/models".encode()
        assert asked.all(b"host") == [sent(name).encode()]
    assert harness.upstream.requests[0].all(b"host") == [sent(name).encode()]


@every_name
@pytest_twisted.ensureDeferred
async def test_no_proxy_lists_a_name_with_or_without_a_dot(
    harness: ProxyHarness, name: str
) -> None:
    harness.resolve({name: "127.0.0.1"})
    port = await harness.upstream.listen(harness.loopback())
    proxy, proxy_port = await harness.egress()
    no_proxy = sent(name)
    assert parse_no_proxy(no_proxy) == (no_proxy,)
    await harness.start(
        f"http://{name}:{port}", PROXY_URL=f"http://127.0.0.1:{proxy_port}", NO_PROXY=no_proxy
    )
    assert (await harness.ask(request())).status == 200
    assert len(proxy.requests) == 0
