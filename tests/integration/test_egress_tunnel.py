"""Requests to https upstreams through a CONNECT tunnel of an egress proxy."""

from __future__ import annotations

import base64
import json

import pytest
import pytest_twisted

from tests.integration.egress_proxy import (
    BASIC,
    CREDENTIALS,
    TARGET,
    proxy_refusal,
    start_with_egress_proxy,
)
from tests.support.answers import chunk, response
from tests.support.harness import KEY, Answer, ProxyHarness, post, request
from tests.support.prompt import PROMPT_SECONDS
from tests.support.proxy import ESTABLISHED, Splice
from tests.support.steps import Answer as Script
from tests.support.steps import Close, Dribble, Pause, Reset

pytestmark = pytest.mark.usefixtures("collect_garbage")


def error_code(answer: Answer) -> str:
    return str(json.loads(answer.body)["error"]["code"])


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("userinfo", ["", "user:p%40ss@"], ids=["anonymous", "user"])
@pytest_twisted.ensureDeferred
async def test_proxy_and_upstream_each_get_only_their_own_credentials(
    harness: ProxyHarness, userinfo: str, scheme: str
) -> None:
    credentials = CREDENTIALS if userinfo else None
    proxy = await start_with_egress_proxy(
        harness, userinfo, credentials, scheme=scheme, CACHE_TTL="0"
    )
    for _ in range(2):
        answer = await harness.ask(post("/v1/chat/completions", b'{"model":"m"}'))
        assert (answer.status, answer.get("X-Cache")) == (200, b"MISS")
    (connect,) = proxy.requests
    assert (connect.method, connect.target, connect.version) == (b"CONNECT", TARGET.encode(), "1.1")
    assert connect.all(b"host") == [TARGET.encode()]
    assert connect.all(b"proxy-authorization") == ([BASIC] if userinfo else [])
    assert {name.lower() for name, _ in connect.headers} <= {b"host", b"proxy-authorization"}
    for seen in harness.upstream.requests:
        assert seen.target == b"/v1/chat/completions"
        assert seen.all(b"host") == [b"api.openai.test"]
        assert seen.all(b"authorization") == [KEY]
        assert not [name for name, _ in seen.headers if name.lower().startswith(b"proxy-")]
    assert len(harness.upstream.requests) == 2
    assert len(proxy.tunnels) == 1


@pytest_twisted.ensureDeferred
async def test_proxy_authorization_of_client_is_dropped(harness: ProxyHarness) -> None:
    proxy = await start_with_egress_proxy(harness)
    await harness.ask(request(headers=[("Proxy-Authorization", "Basic bWluZQ==")]))
    assert proxy.requests[0].all(b"proxy-authorization") == []
    assert harness.upstream.requests[0].all(b"proxy-authorization") == []


REFUSALS: dict[str, Script] = {
    **{
        str(status): proxy_refusal(status)
        for status in (301, 400, 403, 404, 407, 429, 500, 502, 503)
    },
    "not_http": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "closed": [Close()],
    "reset": [Reset()],
    "closed_inside_head": [b"HTTP/1.1 200 Connection", Close()],
    "head_over_16_kib": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 20000,
    "endless_interim_responses": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,
    "dribbled_407": [Dribble(proxy_refusal(407)[:60], 0.002), proxy_refusal(407)[60:]],
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
@pytest_twisted.ensureDeferred
async def test_refused_tunnel_is_a_502(harness: ProxyHarness, answer: Script, scheme: str) -> None:
    proxy = await start_with_egress_proxy(harness, scheme=scheme)
    script = proxy.script(TARGET, answer)
    client = await harness.connect()
    client.send(request())
    refused = await client.answer()
    assert (refused.status, error_code(refused)) == (502, "egress_proxy_refused")
    assert refused.get("Proxy-Authenticate") is None
    assert refused.get("X-Cache") == b"MISS"
    assert [each["code"] for each in await harness.logged()] == ["egress_proxy_refused"]
    assert len(harness.upstream.requests) == 0
    script.times = 0
    client.send(request())
    assert (await client.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_log_of_refused_tunnel_has_no_credentials(harness: ProxyHarness) -> None:
    await start_with_egress_proxy(harness, "user:wr0ng@", CREDENTIALS)
    assert (await harness.ask(request())).status == 502
    (event,) = await harness.logged()
    assert "407" in event["detail"]
    assert "wr0ng" not in repr(event)
    assert base64.b64encode(b"user:wr0ng").decode() not in repr(event)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("offered", "named"),
    [
        ([b"Negotiate", b"NTLM"], "NTLM or Negotiate"),
        ([b'Digest realm="x", qop="auth"'], "Digest"),
        ([b"NTLM", b'Basic realm="x"'], ""),
    ],
)
@pytest_twisted.ensureDeferred
async def test_proxy_without_basic_authentication_is_named_in_error_and_log(
    harness: ProxyHarness, scheme: str, offered: list[bytes], named: str
) -> None:
    proxy = await start_with_egress_proxy(harness, upstream=f"{scheme}://api.openai.test")
    challenges = [(b"Proxy-Authenticate", value) for value in offered]
    refused = response(b"no", 407, [*challenges, (b"Connection", b"close")])
    proxy.script(lambda _: True, [refused, Close()])
    answer = await harness.ask(request())
    assert (answer.status, error_code(answer)) == (502, "egress_proxy_refused")
    (event,) = await harness.logged()
    for text in (json.loads(answer.body)["error"]["message"], event["detail"]):
        assert ("supports only Basic" in text) is bool(named)
        assert named in text


@pytest_twisted.ensureDeferred
async def test_target_that_proxy_cannot_reach_is_a_502(harness: ProxyHarness) -> None:
    proxy = await start_with_egress_proxy(harness)
    proxy.names.clear()
    answer = await harness.ask(request())
    assert error_code(answer) == "egress_proxy_refused"


GRANTS: dict[str, Script] = {
    "200": [ESTABLISHED, Splice()],
    "204": [b"HTTP/1.1 204 Fine\r\n\r\n", Splice()],
    "http_1_0": [b"HTTP/1.0 200 Connection established\r\n\r\n", Splice()],
    "with_content_length": [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Splice()],
    "with_transfer_encoding": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Splice()],
    "after_interim_response": [b"HTTP/1.1 100 Continue\r\n\r\n" + ESTABLISHED, Splice()],
    "dribbled": [Dribble(ESTABLISHED, 0.002), Splice()],
}


@pytest.mark.parametrize("answer", GRANTS.values(), ids=GRANTS)
@pytest_twisted.ensureDeferred
async def test_any_2xx_opens_tunnel(harness: ProxyHarness, answer: Script) -> None:
    proxy = await start_with_egress_proxy(harness)
    proxy.script(TARGET, answer)
    assert (await harness.ask(request())).status == 200


@pytest_twisted.ensureDeferred
async def test_tunnel_closed_at_once_is_a_502(harness: ProxyHarness) -> None:
    proxy = await start_with_egress_proxy(harness)
    proxy.script(TARGET, [ESTABLISHED, Close()])
    answer = await harness.ask(request())
    assert answer.status == 502
    assert error_code(answer) in ("upstream_unreachable", "upstream_tls_failed")


@pytest_twisted.ensureDeferred
async def test_plain_text_in_tunnel_is_a_502(harness: ProxyHarness) -> None:
    proxy = await start_with_egress_proxy(harness)
    proxy.script(TARGET, [ESTABLISHED + b"welcome to the tunnel", Pause()])
    answer = await harness.ask(request())
    assert error_code(answer) == "upstream_tls_failed"
    await proxy.wait_closed()


@pytest_twisted.ensureDeferred
async def test_connect_timeout_covers_tcp_connect_and_tls(harness: ProxyHarness) -> None:
    proxy = await start_with_egress_proxy(harness, CONNECT_TIMEOUT="300ms")
    proxy.script(TARGET, [Dribble(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0.02, 25)])
    answer = await harness.ask(request())
    assert (answer.status, error_code(answer)) == (504, "upstream_timeout")
    assert b"raise CONNECT_TIMEOUT." in answer.body
    await proxy.wait_closed(timeout=PROMPT_SECONDS)


@pytest_twisted.ensureDeferred
async def test_stream_through_tls_in_tls(harness: ProxyHarness) -> None:
    proxy = await start_with_egress_proxy(harness, scheme="https")
    body = bytes(range(256)) * 4096
    gate = Pause()
    pieces = [body[:1000], body[1000:]]
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    harness.upstream.script(
        "/v1/files", [head + chunk(pieces[0]), gate, chunk(pieces[1]), chunk(b"")]
    )
    client = await harness.connect()
    client.send(request("/v1/files", "POST", body=body))
    await client.until(lambda: pieces[0] in client.received)
    gate.release()
    answer = await client.answer()
    assert answer.body == body
    assert harness.upstream.requests[0].body == body
    assert len(proxy.tunnels) == 1
