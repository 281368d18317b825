"""``goproxyai check`` against real sockets: each step to the upstream, and how it fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import pytest_twisted

from goproxyai.cli.check_command import check
from goproxyai.cli.findings import Finding, Result
from goproxyai.config.sources import ConfigSources
from goproxyai.egress.tls import ClientTLS
from tests.support.answers import response
from tests.support.authority import self_signed
from tests.support.harness import ProxyHarness
from tests.support.ports import free_port
from tests.support.proxy import refusal
from tests.support.socks import FakeSocks
from tests.support.steps import Close, Pause

pytestmark = pytest.mark.usefixtures("collect_garbage")

HTTPS = "https://api.openai.test"


async def steps(harness: ProxyHarness, url: str, **texts: str) -> dict[str, Finding]:
    """Check *url*; return the findings about it by the names of the steps."""
    sources = ConfigSources({}, {"OPENAI_API_URL": url, **texts}, "/")
    found = await check(
        harness.reactor,
        sources,
        {},
        tls=lambda host: ClientTLS(host, harness.authority.trust_root()),
    )
    assert [each.result for each in found if not each.upstream] == [Result.OK] * 2
    return {each.name: each for each in found if each.upstream}


def results(found: Mapping[str, Finding]) -> dict[str, str]:
    return {name: finding.result.value for name, finding in found.items()}


async def upstream_with_tls(harness: ProxyHarness, identity: Any = None) -> str:
    """Let the upstream listen; return its URL."""
    port = await harness.listen_with_tls(identity)
    harness.names(api_openai_test="127.0.0.1")
    return f"{HTTPS}:{port}"


@pytest_twisted.ensureDeferred
async def test_every_step_has_its_time_and_401_is_a_success(harness: ProxyHarness) -> None:
    harness.upstream.script("/v1/models", response(b"{}", 401))
    found = await steps(harness, await upstream_with_tls(harness))
    assert results(found) == dict.fromkeys(["DNS", "TCP", "TLS", "HTTP"], "ok")
    assert all(finding.seconds is not None for finding in found.values())
    assert found["DNS"].detail == "api.openai.test: 127.0.0.1"
    assert found["TLS"].detail.startswith("TLSv1.3, certificate valid until ")
    assert found["HTTP"].detail == "GET /v1/models: 401, as expected without an API key"
    (seen,) = harness.upstream.requests
    assert seen.header(b"authorization") is None


@pytest_twisted.ensureDeferred
async def test_path_is_that_of_the_base_url_and_the_first_prefix(harness: ProxyHarness) -> None:
    port = await harness.upstream.listen(harness.loopback())
    found = await steps(harness, f"http://127.0.0.1:{port}/base", RELAY_PATHS="/openai/ /v1/")
    assert results(found) == {"DNS": "ok", "TCP": "ok", "HTTP": "ok"}
    assert found["DNS"].detail == "an address needs no look-up"
    assert [each.target for each in harness.upstream.requests] == [b"/base/openai/models"]


@pytest_twisted.ensureDeferred
async def test_unknown_name_fails_the_look_up(harness: ProxyHarness) -> None:
    harness.names()
    found = await steps(harness, "https://nosuch.test")
    assert results(found) == {
        "DNS": "failed", "TCP": "not reached", "TLS": "not reached", "HTTP": "not reached",
    }  # fmt: skip
    assert found["DNS"].detail == "nosuch.test does not resolve"
    assert "PROXY_URL" in found["DNS"].advice


@pytest_twisted.ensureDeferred
async def test_refused_connection_names_the_address(harness: ProxyHarness) -> None:
    port = free_port()
    found = await steps(harness, f"http://127.0.0.1:{port}")
    assert results(found) == {"DNS": "ok", "TCP": "failed", "HTTP": "not reached"}
    assert found["TCP"].detail == f"127.0.0.1:{port} refuses connections"
    assert "OPENAI_API_URL" in found["TCP"].advice


@pytest.mark.parametrize(
    ("identity", "detail"),
    [
        ("wrong_name", "the certificate is not for api.openai.test"),
        ("expired", "the certificate has expired"),
        ("self_signed", "the certificate is self-signed"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_wrong_certificate_fails_tls(
    harness: ProxyHarness, identity: str, detail: str
) -> None:
    made = self_signed() if identity == "self_signed" else getattr(harness.authority, identity)()
    found = await steps(harness, await upstream_with_tls(harness, made))
    assert results(found) == {"DNS": "ok", "TCP": "ok", "TLS": "failed", "HTTP": "not reached"}
    assert found["TLS"].detail == detail


@pytest_twisted.ensureDeferred
async def test_port_without_tls_fails_tls(harness: ProxyHarness) -> None:
    port = await harness.upstream.listen(harness.loopback())
    found = await steps(harness, f"https://127.0.0.1:{port}")
    assert results(found)["TLS"] == "failed"
    assert "http:// for one without" in found["TLS"].advice


@pytest.mark.parametrize(
    ("answer", "result", "words"),
    [
        (response(b"{}"), "ok", "GET /v1/models: 200"),
        (response(b"", 500), "failed", "GET /v1/models: 500"),
        (response(b"", 404), "warning", "GET /v1/models: 404"),
        (response(b"", 403), "warning", "GET /v1/models: 403"),
        (response(b"", 302, [(b"Location", b"https://other.test/")]), "warning",
         "GET /v1/models: 302, which redirects to https://other.test/"),
        (response(b"", 302, [(b"Location", b"\xff")]), "warning",
         r"GET /v1/models: 302, which redirects to \xff"),
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_status_decides_the_last_step(
    harness: ProxyHarness, answer: bytes, result: str, words: str
) -> None:
    harness.upstream.script("/v1/models", answer)
    port = await harness.upstream.listen(harness.loopback())
    found = await steps(harness, f"http://127.0.0.1:{port}")
    assert results(found) == {"DNS": "ok", "TCP": "ok", "HTTP": result}
    assert found["HTTP"].detail in (words, words.replace(r"\xff", "\xff"))
    assert bool(found["HTTP"].advice) is (result != "ok")


@pytest_twisted.ensureDeferred
async def test_late_response_fails_the_last_step(harness: ProxyHarness) -> None:
    pause = Pause()
    harness.upstream.script("/v1/models", [pause])
    port = await harness.upstream.listen(harness.loopback())
    found = await steps(harness, f"http://127.0.0.1:{port}", REQUEST_TIMEOUT="50ms")
    assert found["HTTP"].detail == "no response within REQUEST_TIMEOUT"
    pause.release()


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "did not speak HTTP/1.1"),
        ([Close()], "the connection was closed by 127.0.0.1:"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_server_of_another_protocol_fails_the_last_step(
    harness: ProxyHarness, answer: Any, detail: str
) -> None:
    harness.upstream.script("/v1/models", answer)
    port = await harness.upstream.listen(harness.loopback())
    found = await steps(harness, f"http://127.0.0.1:{port}")
    assert results(found)["HTTP"] == "failed"
    assert detail in found["HTTP"].detail


# Through an egress proxy.


@pytest_twisted.ensureDeferred
async def test_tunnel_is_a_step_and_the_password_is_masked(harness: ProxyHarness) -> None:
    await harness.listen_with_tls()
    _, port = await harness.egress(("me", "hunter2"))
    found = await steps(harness, HTTPS, PROXY_URL=f"http://me:hunter2@127.0.0.1:{port}")
    assert results(found) == dict.fromkeys(["DNS", "TCP", "CONNECT", "TLS", "HTTP"], "ok")
    assert found["HTTP"].proxy == f"http://***:***@127.0.0.1:{port}"
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("userinfo", "advice"), [("", "Add a user"), ("me:wrong@", "Check the user and the password")]
)
@pytest_twisted.ensureDeferred
async def test_407_of_the_proxy_fails_connect(
    harness: ProxyHarness, userinfo: str, advice: str
) -> None:
    _, port = await harness.egress(("me", "hunter2"))
    found = await steps(harness, HTTPS, PROXY_URL=f"http://{userinfo}127.0.0.1:{port}")
    assert results(found) == {
        "DNS": "ok", "TCP": "ok", "CONNECT": "failed", "TLS": "not reached", "HTTP": "not reached",
    }  # fmt: skip
    assert found["CONNECT"].detail == "the egress proxy answers 407"
    assert found["CONNECT"].advice.startswith(advice)


@pytest.mark.parametrize(
    ("answer", "detail", "advice"),
    [
        (refusal(502), "the egress proxy answers 502", "cannot reach api.openai.test:443"),
        (refusal(403), "the egress proxy answers 403", "Allow CONNECT to api.openai.test:443"),
        (refusal(400), "the egress proxy answers 400", "Check that PROXY_URL has an HTTP proxy"),
        (refusal(407, (b"Proxy-Authenticate", b"NTLM")), "the egress proxy answers 407", "NTLM"),
        (b"SSH-2.0\r\n\r\n", "is not HTTP", "PROXY_URL"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_refused_tunnel_says_what_to_do(
    harness: ProxyHarness, answer: Any, detail: str, advice: str
) -> None:
    proxy, port = await harness.egress()
    proxy.script(lambda _: True, answer)
    found = await steps(harness, HTTPS, PROXY_URL=f"http://127.0.0.1:{port}")
    assert results(found)["CONNECT"] == "failed"
    assert detail in found["CONNECT"].detail
    assert advice in found["CONNECT"].advice


@pytest_twisted.ensureDeferred
async def test_silent_proxy_fails_connect_after_the_timeout(harness: ProxyHarness) -> None:
    proxy, port = await harness.egress()
    pause = Pause()
    proxy.script(lambda _: True, [pause])
    found = await steps(
        harness, HTTPS, PROXY_URL=f"http://127.0.0.1:{port}", CONNECT_TIMEOUT="50ms"
    )
    assert found["CONNECT"].detail == "no answer from the egress proxy within CONNECT_TIMEOUT"
    pause.release()


@pytest_twisted.ensureDeferred
async def test_wrong_certificate_of_the_proxy_fails_connect(harness: ProxyHarness) -> None:
    _, port = await harness.egress(identity=harness.authority.wrong_name())
    found = await steps(harness, HTTPS, PROXY_URL=f"https://127.0.0.1:{port}")
    assert results(found)["CONNECT"] == "failed"
    assert found["CONNECT"].detail == "the certificate is not for the egress proxy"


@pytest_twisted.ensureDeferred
async def test_request_of_plain_http_has_no_tunnel(harness: ProxyHarness) -> None:
    harness.upstream_port = await harness.upstream.listen(harness.loopback())
    _, port = await harness.egress(("me", "hunter2"), tls=True)
    url = "http://api.openai.test"
    found = await steps(harness, url, PROXY_URL=f"https://me:hunter2@127.0.0.1:{port}")
    assert results(found) == dict.fromkeys(["DNS", "TCP", "TLS", "HTTP"], "ok")
    found = await steps(harness, url, PROXY_URL=f"https://127.0.0.1:{port}")
    assert found["HTTP"].detail == "GET /v1/models: 407 from the egress proxy"


@pytest_twisted.ensureDeferred
async def test_host_in_no_proxy_is_connected_to_directly(harness: ProxyHarness) -> None:
    url = await upstream_with_tls(harness)
    found = await steps(harness, url, PROXY_URL="http://127.0.0.1:1", NO_PROXY="api.openai.test")
    assert list(found) == ["DNS", "TCP", "TLS", "HTTP"]
    assert found["TCP"].proxy == ""


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest_twisted.ensureDeferred
async def test_socks_tunnel_is_a_step(harness: ProxyHarness, scheme: str) -> None:
    url = await upstream_with_tls(harness)
    socks = FakeSocks(harness.reactor, harness.upstream_port)
    proxy = f"{scheme}://127.0.0.1:{await socks.listen()}"
    found = await steps(harness, url, PROXY_URL=proxy)
    assert results(found) == dict.fromkeys(["DNS", "TCP", "SOCKS", "TLS", "HTTP"], "ok")
    assert ("api.openai.test" in found["DNS"].detail) is (scheme == "socks5")
    socks.replies = [2]
    found = await steps(harness, url, PROXY_URL=proxy)
    assert results(found)["SOCKS"] == "failed"
    assert found["SOCKS"].advice == "Allow the host of OPENAI_API_URL in the rules of the proxy."
    await socks.close()


# Several upstreams, and the configuration.


@pytest_twisted.ensureDeferred
async def test_every_upstream_is_checked(harness: ProxyHarness) -> None:
    port = await harness.upstream.listen(harness.loopback())
    refused = f"http://127.0.0.1:{free_port()}"
    sources = ConfigSources({}, {"OPENAI_API_URL": f"{refused} http://127.0.0.1:{port}"}, "/")
    found = await check(harness.reactor, sources, {})
    assert [each.result.value for each in found if each.upstream == refused] == [
        "ok", "failed", "not reached",
    ]  # fmt: skip
    assert [each.result.value for each in found[-3:]] == ["ok", "ok", "ok"]


@pytest_twisted.ensureDeferred
async def test_invalid_configuration_contacts_no_upstream(harness: ProxyHarness) -> None:
    found = await check(harness.reactor, ConfigSources({}, {"PORT": "x"}, "/"), {})
    assert [(each.name, each.result) for each in found] == [("configuration", Result.FAILED)]
    assert found[0].detail == "PORT is 'x', expected a port from 0 to 65535"
