"""Requests that are refused before they are forwarded, and requests at the limits."""

from __future__ import annotations

import json

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS

from goproxyai.egress.tls import ClientTLS
from goproxyai.http11.framing import MAX_MULTIPART_FRAMING_BYTES
from tests.support.answers import chunk
from tests.support.harness import KEY, Answer, ProxyHarness, RawClient, request
from tests.support.malformed_requests import CHUNKED, MALFORMED, head, upload
from tests.support.steps import Pause

SMALL = "0.01"
"""``MAX_BODY_SIZE`` in megabytes: less than 11,000 bytes."""

SMALL_BYTES = 10_485

TOO_LARGE = b"x" * 11_000


def assert_is_refusal(answer: Answer, status: int, code: str) -> None:
    """Check the shape of an error of the proxy, on a connection that is closed."""
    assert (answer.status, answer.cut) == (status, False)
    assert answer.get("Content-Type") == b"application/json"
    assert answer.all("Connection") == [b"close"]
    document = json.loads(answer.body)
    assert list(document) == ["error"]
    assert set(document["error"]) == {"message", "type", "code"}
    assert document["error"]["type"] == "proxy_error"
    assert document["error"]["code"] == code
    assert document["error"]["message"].endswith(".")


async def refused(harness: ProxyHarness, raw: bytes, status: int, code: str) -> RawClient:
    """Send *raw*, which is refused without a connection to the upstream."""
    client = await harness.connect()
    client.send(raw)
    assert_is_refusal(await client.answer(), status, code)
    await client.wait_closed()
    assert client.received == b""
    assert harness.upstream.connections_made == 0
    return client


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
@pytest_twisted.ensureDeferred
async def test_malformed_request_gets_400(harness: ProxyHarness, raw: bytes) -> None:
    await harness.start()
    await refused(harness, raw, 400, "bad_request")


@pytest_twisted.ensureDeferred
async def test_refused_request_is_logged(harness: ProxyHarness) -> None:
    await harness.start()
    await refused(harness, head(host=None), 400, "bad_request")
    (event,) = await harness.logged()
    assert (event["status"], event["code"]) == (400, "bad_request")


ALLOW = b"GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS"


@pytest.mark.parametrize(
    ("line", "host"),
    [
        (b"OPTIONS * HTTP/1.1", b"a"),
        (b"OPTIONS * HTTP/1.0", b"a"),
        (b"CONNECT api.openai.com:443 HTTP/1.1", b"api.openai.com:443"),
        (b"CONNECT a:80 HTTP/1.1", b"a:80"),
        (b"CONNECT [::1]:443 HTTP/1.1", b"[::1]:443"),
        (b"CONNECT /v1/models HTTP/1.1", b"a"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_target_for_a_server_or_a_forward_proxy_is_405(
    harness: ProxyHarness, line: bytes, host: bytes
) -> None:
    await harness.start()
    client = await harness.connect()
    client.send(head(line=line, host=host) + b"bytes of a tunnel")
    answer = await client.answer()
    assert_is_refusal(answer, 405, "method_not_allowed")
    assert answer.all("Allow") == [ALLOW]
    await client.wait_closed()
    assert client.received == b""
    (event,) = await harness.logged()
    assert (event["status"], event["code"]) == (405, "method_not_allowed")
    assert harness.upstream.connections_made == 0


@pytest.mark.parametrize("version", [b"1.2", b"1.9"])
@pytest_twisted.ensureDeferred
async def test_later_minor_version_is_read_as_1_1(harness: ProxyHarness, version: bytes) -> None:
    await harness.start()
    client = await harness.connect()
    key = b"Authorization: Bearer sk-good"
    framed = upload(key, CHUNKED, version=version, body=b"5\r\nhello\r\n0\r\n\r\n")
    for raw in (head(key, line=b"GET /v1/models HTTP/" + version), framed) * 2:
        client.send(raw)
        answer = await client.answer()
        assert (answer.status, answer.get("Connection")) == (200, None)
    assert {seen.version for seen in harness.upstream.requests} == {"1.1"}
    client.send(head(key, b"Connection: close", line=b"GET /v1/models HTTP/" + version))
    assert (await client.answer()).get("Connection") == b"close"
    await client.wait_closed()


FOREIGN = {
    "a TLS handshake": bytes.fromhex("16030100a5010000a10303") + b"\x00" * 32,
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 9,
    "a header of the PROXY protocol": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + head(),
}


@pytest.mark.parametrize(("name", "raw"), FOREIGN.items(), ids=FOREIGN)
@pytest_twisted.ensureDeferred
async def test_other_protocol_is_logged_as_what_it_is(
    harness: ProxyHarness, name: str, raw: bytes
) -> None:
    await harness.start()
    await refused(harness, raw, 400, "bad_request")
    (event,) = await harness.logged()
    assert (event["status"], event["client"]) == (400, "127.0.0.1")
    assert event["detail"] == f"the client sent {name}"


@pytest_twisted.ensureDeferred
async def test_real_tls_client_on_a_plain_port_is_logged(harness: ProxyHarness) -> None:
    await harness.start()
    endpoint = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", harness.port)
    tls = ClientTLS("localhost", harness.authority.trust_root())
    client = RawClient(harness.reactor)
    await connectProtocol(wrapClientTLS(tls, endpoint), client)
    await client.wait_closed()
    (event,) = await harness.logged()
    assert (event["status"], event["detail"]) == (400, "the client sent a TLS handshake")


@pytest_twisted.ensureDeferred
async def test_foreign_bytes_in_a_body_are_no_other_protocol(harness: ProxyHarness) -> None:
    await harness.start()
    client = await harness.connect()
    client.send(upload(CHUNKED))
    await harness.upstream.wait_for(lambda seen: seen.path == "/v1/files")
    client.send(FOREIGN["a TLS handshake"])
    assert b"TLS" not in (await client.answer()).body
    await harness.upstream.wait_closed()


# Limits of size.

LONG_TARGET = head(line=b"GET /v1/" + b"a" * 17_000 + b" HTTP/1.1")


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (LONG_TARGET, 414, "target_too_long"),
        (LONG_TARGET[:16_800], 414, "target_too_long"),
        (head(b"X-A: " + b"a" * 66_000), 431, "headers_too_large"),
        (head(*[b"X-%d: %b" % (i, b"a" * 1000) for i in range(70)]), 431, "headers_too_large"),
        (head(*[b"X-%d: a" % i for i in range(200)]), 431, "headers_too_large"),
        (head(b"X-A: " + b"a" * 500_000)[:-4], 431, "headers_too_large"),
        (head(b"X-" + b"a" * 500_000)[:-4], 431, "headers_too_large"),
    ],
    ids=[
        "target over 16 KiB",
        "incomplete target over 16 KiB",
        "one field over 64 KiB",
        "many fields over 64 KiB",
        "201 fields",
        "endless value",
        "endless name",
    ],
)
@pytest_twisted.ensureDeferred
async def test_head_over_a_limit_is_refused(
    harness: ProxyHarness, raw: bytes, status: int, code: str
) -> None:
    await harness.start()
    await refused(harness, raw, status, code)


@pytest_twisted.ensureDeferred
async def test_head_at_the_limits_is_served(harness: ProxyHarness) -> None:
    await harness.start()
    authorization = b"Authorization: Bearer sk-good"
    for raw in (
        head(authorization, *[b"X-%d: a" % i for i in range(198)]),
        head(authorization, b"X-A: " + b"a" * 65_000),
        head(authorization, line=b"GET /v1/models?" + b"a" * 16_300 + b" HTTP/1.1"),
    ):
        assert (await harness.ask(raw)).status == 200


@pytest_twisted.ensureDeferred
async def test_announced_body_over_the_limit_is_refused_at_once(
    harness: ProxyHarness,
) -> None:
    await harness.start(MAX_BODY_SIZE=SMALL)
    await refused(harness, upload(b"Content-Length: 11000"), 413, "request_too_large")
    await refused(harness, upload(b"Content-Length: 9999999999999"), 413, "request_too_large")


FORM = b"Content-Type: multipart/form-data; boundary=x"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("content_type", "size", "status"),
    [
        (FORM, SMALL_BYTES + MAX_MULTIPART_FRAMING_BYTES, 200),
        (FORM, SMALL_BYTES + MAX_MULTIPART_FRAMING_BYTES + 1, 413),
        (b"Content-Type: Multipart/Form-Data", 11_000, 200),
        (b"Content-Type: multipart/form-database", 11_000, 413),
        (b"Content-Type: multipart/mixed; boundary=x", 11_000, 413),
        (b"X-Type: multipart/form-data", 11_000, 413),
        (b"Content-Type: application/json", SMALL_BYTES, 200),
    ],
)
@pytest_twisted.ensureDeferred
async def test_framing_of_form_data_does_not_count_towards_the_limit(
    harness: ProxyHarness, content_type: bytes, size: int, status: int, chunked: bool
) -> None:
    await harness.start(MAX_BODY_SIZE=SMALL)
    body = b"x" * size
    key = b"Authorization: Bearer sk-good"
    client = await harness.connect()
    for _ in range(2 if status == 200 else 1):  # the second head repeats the first
        if chunked:
            client.send(upload(key, content_type, CHUNKED) + chunk(body) + chunk(b""))
        else:
            client.send(upload(key, content_type, b"Content-Length: %d" % size, body=body))
        assert (await client.answer()).status == status
    if status == 200:
        assert [seen.body_length for seen in harness.upstream.requests] == [size] * 2
    harness.pool.close()
    await harness.upstream.wait_closed()


@pytest_twisted.ensureDeferred
async def test_refused_client_that_sends_its_body_gets_the_response(
    harness: ProxyHarness,
) -> None:
    await harness.start(MAX_BODY_SIZE=SMALL)
    body = b"x" * 3_000_000
    raw = upload(b"Content-Length: %d" % len(body), body=body)
    await refused(harness, raw, 413, "request_too_large")


@pytest_twisted.ensureDeferred
async def test_body_over_the_limit_gets_no_100_continue(
    harness: ProxyHarness,
) -> None:
    await harness.start(MAX_BODY_SIZE=SMALL)
    raw = upload(b"Expect: 100-continue", b"Content-Length: 11000")
    await refused(harness, raw, 413, "request_too_large")


@pytest_twisted.ensureDeferred
async def test_refused_body_is_not_parsed_as_a_request(
    harness: ProxyHarness,
) -> None:
    await harness.start(MAX_BODY_SIZE=SMALL)
    smuggled = head() + TOO_LARGE
    length = b"Content-Length: %d" % len(smuggled)
    await refused(harness, upload(length) + smuggled, 413, "request_too_large")
    upgrade = upload(length, b"Connection: Upgrade", b"Upgrade: h2c")
    await refused(harness, upgrade + smuggled, 413, "request_too_large")


@pytest.mark.parametrize("path", [b"/v1/files", b"/v1/chat/completions"])
@pytest_twisted.ensureDeferred
async def test_chunked_body_over_the_limit_is_refused(harness: ProxyHarness, path: bytes) -> None:
    await harness.start(MAX_BODY_SIZE=SMALL)
    client = await harness.connect()
    client.send(head(CHUNKED, line=b"POST " + path + b" HTTP/1.1"))
    client.send(b"2af8\r\n" + TOO_LARGE + b"\r\n")
    assert_is_refusal(await client.answer(), 413, "request_too_large")
    await client.wait_closed()
    await harness.upstream.wait_closed()
    assert not any(seen.complete for seen in harness.upstream.requests)


@pytest_twisted.ensureDeferred
async def test_body_at_the_limit_is_served(harness: ProxyHarness) -> None:
    await harness.start(MAX_BODY_SIZE="0.005")
    assert harness.daemon is not None
    limit = harness.daemon.listeners.factory.max_body_bytes
    harness.upstream.script("/v1/files", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    body = b"x" * limit
    for raw in (
        upload(b"Content-Length: %d" % limit, body=body),
        upload(CHUNKED, body=b"%x\r\n%b\r\n0\r\n\r\n" % (limit, body)),
    ):
        assert (await harness.ask(raw)).status == 200
    assert [seen.body_length for seen in harness.upstream.requests] == [limit, limit]


# Invalid bodies.


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX A: b\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX-A: b\r\n c\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX-A: b\x00\r\n\r\n",
    ],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["with the head", "after the head"])
@pytest_twisted.ensureDeferred
async def test_malformed_chunked_body_is_refused_and_not_completed_upstream(
    harness: ProxyHarness, body: bytes, at_once: bool
) -> None:
    await harness.start()
    client = await harness.connect()
    raw = upload(CHUNKED, b"Authorization: Bearer sk-good")
    if at_once:
        client.send(raw + body)
    else:
        client.send(raw)
        await harness.upstream.wait_for(lambda seen: True)
        client.send(body)
    assert_is_refusal(await client.answer(), 400, "bad_request")
    await client.wait_closed()
    assert client.received == b""
    await harness.upstream.wait_closed()
    assert not any(seen.complete for seen in harness.upstream.requests)
    assert harness.upstream.malformed == []


# Targets and methods.


@pytest_twisted.ensureDeferred
async def test_absolute_form_is_forwarded_in_origin_form(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    answer = await harness.ask(request("http://Proxy.test/v1/models?a=%2f"))
    assert answer.status == 200
    assert harness.upstream.requests[0].target == b"/v1/models?a=%2f"
    host = b"127.0.0.1:%d" % harness.upstream_port
    assert harness.upstream.requests[0].all(b"host") == [host]


@pytest.mark.parametrize("target", [b"/v1/models", b"http://proxy.test/v1/models"])
@pytest_twisted.ensureDeferred
async def test_http_1_0_request_without_host_is_served_and_sent_with_host_of_upstream(
    harness: ProxyHarness, target: bytes
) -> None:
    await harness.start()
    answer = await harness.ask(b"GET %b HTTP/1.0\r\nAuthorization: %b\r\n\r\n" % (target, KEY))
    assert (answer.status, answer.get("Connection")) == (200, b"close")
    (sent,) = harness.upstream.requests
    assert (sent.target, sent.all(b"host")) == (
        b"/v1/models", [b"127.0.0.1:%d" % harness.upstream_port]
    )  # fmt: skip


@pytest.mark.parametrize(
    "target",
    ["/v1", "//v1/models", "/v1%2fmodels", "/v1%2Fmodels", "/%761/models", "/V1/models", "/v1x/a"],
)
@pytest_twisted.ensureDeferred
async def test_path_that_resembles_the_api_is_404(harness: ProxyHarness, target: str) -> None:
    await harness.start()
    answer = await harness.ask(request(target))
    assert answer.status == 404
    assert json.loads(answer.body)["error"]["code"] == "not_found"
    assert answer.get("Content-Type") == b"application/json"
    assert harness.upstream.connections_made == 0


@pytest.mark.parametrize("method", ["PROPFIND", "TRACE", "MKCOL", "PURGE", "CONNECT"])
@pytest_twisted.ensureDeferred
async def test_method_that_is_not_relayed_is_405_with_allow(
    harness: ProxyHarness, method: str
) -> None:
    await harness.start()
    answer = await harness.ask(request(method=method))
    assert answer.status == 405
    document = json.loads(answer.body)["error"]
    assert (document["type"], document["code"]) == ("proxy_error", "method_not_allowed")
    allowed = (answer.get("Allow") or b"").split(b", ")
    assert set(allowed) == {
        b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS",
    }  # fmt: skip
    assert harness.upstream.connections_made == 0


# Order.


@pytest.mark.parametrize(
    "case", ["no Host", "a folded line", "HTTP/2.0", "a TLS ClientHello", "CONNECT without Host"]
)
@pytest_twisted.ensureDeferred
async def test_refusal_follows_the_responses_to_earlier_requests(
    harness: ProxyHarness, case: str
) -> None:
    await harness.start()
    pause = Pause()
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
    harness.upstream.script("/v1/a", [pause, ok + b"one"])
    harness.upstream.script("/v1/b", ok + b"two")
    client = await harness.connect()
    client.send(request("/v1/a") + request("/v1/b") + MALFORMED[case] + request("/v1/c"))
    await harness.upstream.wait_for(lambda seen: seen.paused)
    assert client.received == b""
    pause.release()
    assert (await client.answer()).body == b"one"
    assert (await client.answer()).body == b"two"
    assert_is_refusal(await client.answer(), 400, "bad_request")
    await client.wait_closed()
    assert client.received == b""
    assert [seen.target for seen in harness.upstream.requests] == [b"/v1/a", b"/v1/b"]


@pytest_twisted.ensureDeferred
async def test_head_sent_byte_by_byte_gets_the_same_response(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    whole = await harness.ask(request())
    client = await harness.connect()
    raw = request()
    for i in range(len(raw)):
        client.transport.socket.send(raw[i : i + 1])
    answer = await client.answer()
    assert (answer.status, answer.body) == (whole.status, whole.body)
