"""Heads and bodiless messages are relayed, hop-by-hop fields are not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_twisted

from tests.support.answers import chunk, response
from tests.support.harness import KEY, ProxyHarness, request
from tests.support.raw_client import LOOPED_VIA
from tests.support.requests import Request
from tests.support.steps import Pause

pytestmark = pytest.mark.usefixtures("collect_garbage")

OK = b"HTTP/1.1 200 OK\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def own_via(harness: ProxyHarness) -> bytes:
    """What the daemon adds to the ``Via`` of requests."""
    assert harness.daemon is not None
    return b"1.1 goproxyai (%b)" % harness.daemon.context.options.current.instance


@pytest_twisted.async_yield_fixture
async def second_harness(harness: ProxyHarness) -> AsyncIterator[ProxyHarness]:
    """Another daemon with an upstream of its own, stopped after :func:`harness`."""
    second = ProxyHarness(harness.reactor, harness.authority)
    yield second
    await second.stop()


@pytest_twisted.ensureDeferred
async def test_trailers_are_dropped(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script(
        "/v1/models",
        OK + b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n" + chunk(b"body")
        + b"0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\nX-Cache: HIT\r\n\r\n",
    )  # fmt: skip
    first, second = [await harness.ask(request()) for _ in range(2)]
    for answer in (first, second):
        assert (answer.body, answer.cut) == (b"body", False)
        assert [answer.all(name) for name in ("X-Sum", "Set-Cookie", "Trailer")] == [[], [], []]
    assert second.all("X-Cache") == [b"HIT"]
    assert second.all("Content-Length") == [b"4"]


@pytest_twisted.ensureDeferred
async def test_early_hints_are_relayed(harness: ProxyHarness) -> None:
    await harness.start()
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n"
    gate = Pause()
    harness.upstream.script("/v1/a", [CONTINUE + hint, gate, response(b"body")])
    client = await harness.connect()
    client.send(request("/v1/a"))
    await client.until(lambda: b"\r\n\r\n" in client.received)
    assert client.received == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    gate.release()
    assert (await client.answer()).body == b"body"


@pytest_twisted.ensureDeferred
async def test_http_1_0_client_gets_no_interim_response_and_no_chunks(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    harness.upstream.script("/v1/a", hint + head + chunk(b"all of ") + chunk(b"it") + chunk(b""))
    client = await harness.connect()
    client.send(b"GET /v1/a HTTP/1.0\r\nHost: a\r\nAuthorization: %b\r\n\r\n" % KEY)
    await client.wait_closed()
    assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
    answer = await client.answer()
    assert (answer.body, answer.cut) == (b"all of it", False)
    assert answer.all("Transfer-Encoding") == []
    assert answer.all("Connection") == [b"close"]


@pytest.mark.parametrize(
    ("method", "raw", "length"),
    [
        ("HEAD", OK + b"Content-Length: 42\r\n\r\n", [b"42"]),
        ("HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n", []),
        ("HEAD", OK + b"\r\n", []),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", []),
        ("DELETE", b"HTTP/1.1 204 No Content\r\n\r\n", []),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", []),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 42\r\n\r\n", [b"42"]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_response_without_body_keeps_the_connection(
    harness: ProxyHarness, method: str, raw: bytes, length: list[bytes]
) -> None:
    await harness.start()
    harness.upstream.script("/v1/a", raw)
    client = await harness.connect()
    client.send(request("/v1/a", method))
    await client.until(lambda: client.received.endswith(b"\r\n\r\n"))
    assert raw.partition(b"\r\n")[0] == client.received.partition(b"\r\n")[0]
    answer = await client.answer(method.encode())
    assert (answer.body, answer.all("Transfer-Encoding"), client.received) == (b"", [], b"")
    if raw.startswith(OK):
        assert answer.all("Content-Length") in (length, [])
    client.send(request())
    assert json.loads((await client.answer()).body)["object"] == "list"


@pytest_twisted.ensureDeferred
async def test_hop_by_hop_fields_are_dropped_both_ways(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script(
        "/v1/files",
        OK + b"Connection: keep-alive, X-Foo\r\nX-Foo: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Proxy-Authenticate: Basic\r\nProxy-Thing: 1\r\nTE: trailers\r\nTrailer: X-Sum\r\n"
        b"Upgrade: h2c\r\nX-Kept: 1\r\nVia: 1.1 edge\r\nContent-Length: 2\r\n\r\nok",
    )
    sent = [
        ("Connection", "keep-alive, X-Foo, Upgrade"),
        ("X-Foo", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic bWluZQ=="),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers"),
        ("Trailer", "X-Sum"),
        ("Upgrade", "h2c"),
        ("X-Kept", "1"),
        ("X-Forwarded-For", "192.0.2.7"),
        ("Forwarded", "for=192.0.2.7"),
        ("True-Client-IP", "192.0.2.7"),
        ("Via", "1.0 corner"),
    ]
    answer = await harness.ask(request("/v1/files", "POST", sent, b"body"))
    (seen,) = harness.upstream.requests
    assert seen.headers == [
        (b"Host", b"127.0.0.1:%d" % harness.upstream_port),
        (b"Authorization", KEY),
        (b"X-Kept", b"1"),
        (b"Via", b"1.0 corner"),
        (b"Content-Length", b"4"),
        (b"Via", own_via(harness)),
    ]
    assert seen.body == b"body"
    theirs = [pair for pair in answer.headers if pair[0] in (b"X-Kept", b"Via", b"Content-Length")]
    assert theirs == [
        (b"X-Kept", b"1"),
        (b"Via", b"1.1 edge"),
        (b"Content-Length", b"2"),
        (b"Via", b"1.1 goproxyai"),
    ]
    gone = ("Connection", "X-Foo", "Keep-Alive", "Proxy-Authenticate", "Proxy-Thing", "TE",
            "Trailer", "Upgrade")  # fmt: skip
    assert [name for name in gone if answer.all(name)] == []


@pytest_twisted.ensureDeferred
async def test_repeated_request_is_sent_without_the_network_of_the_client(
    harness: ProxyHarness,
) -> None:
    await harness.start(CACHE_TTL="0")
    client = await harness.connect()
    for number in range(3):
        network = [("X-Forwarded-For", f"192.0.2.{number}"), ("X-Real-IP", f"192.0.2.{number}")]
        client.send(request(headers=[*network, ("X-Request-Id", f"id-{number}")]))
        await client.answer()
        seen = harness.upstream.requests[number]
        assert seen.header(b"x-request-id") == b"id-%d" % number
        assert b"192.0.2." not in b"".join(value for _, value in seen.headers)


@pytest_twisted.ensureDeferred
async def test_two_instances_in_a_row_are_no_loop(
    harness: ProxyHarness, second_harness: ProxyHarness
) -> None:
    await second_harness.start()
    await harness.start(f"http://127.0.0.1:{second_harness.port}")
    assert (await harness.ask(request())).status == 200
    (seen,) = second_harness.upstream.requests
    assert seen.all(b"via") == [own_via(harness), own_via(second_harness)]
    assert own_via(harness) != own_via(second_harness)


@pytest_twisted.ensureDeferred
async def test_loop_through_two_instances_is_508(
    harness: ProxyHarness, second_harness: ProxyHarness
) -> None:
    proxy, port = await harness.egress()
    await harness.start("http://api.openai.test", PROXY_URL=f"http://127.0.0.1:{port}")
    await second_harness.start(f"http://127.0.0.1:{harness.port}")
    proxy.names["api.openai.test:80"] = ("127.0.0.1", second_harness.port)
    answer = await harness.ask(request())
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (508, "loop_detected")
    assert [each["status"] for each in await harness.logged(2)] == [508, 508]
    assert [each["status"] for each in await second_harness.logged()] == [508]
    harness.pool.close()
    second_harness.pool.close()
    await proxy.wait_closed()


@pytest.mark.parametrize("via", ["1.1 goproxyai", "1.0 edge, HTTP/1.1 GoProxyAI (another)"])
@pytest_twisted.ensureDeferred
async def test_request_that_passed_another_instance_is_forwarded(
    harness: ProxyHarness, via: str
) -> None:
    await harness.start()
    assert (await harness.ask(request(headers=[("Via", via)]))).status == 200


@pytest.mark.parametrize("path", ["own instance", "many instances"])
@pytest_twisted.ensureDeferred
async def test_request_that_passed_the_proxy_before_is_508(
    harness: ProxyHarness, path: str
) -> None:
    await harness.start()
    via = own_via(harness).decode() if path == "own instance" else LOOPED_VIA
    answer = await harness.ask(request(headers=[("Via", via)]))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (508, "loop_detected")
    assert (answer.get("X-Cache"), answer.get("X-Proxy")) == (b"MISS", b"goproxyai")
    assert [each["code"] for each in await harness.logged()] == ["loop_detected"]
    assert harness.upstream.connections_made == 0


@pytest_twisted.ensureDeferred
async def test_proxy_as_its_own_upstream_is_508(harness: ProxyHarness) -> None:
    proxy, port = await harness.egress()
    await harness.start("http://api.openai.test", PROXY_URL=f"http://127.0.0.1:{port}")
    proxy.names["api.openai.test:80"] = ("127.0.0.1", harness.port)
    answer = await harness.ask(request())
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (508, "loop_detected")
    harness.pool.close()
    await proxy.wait_closed()


@pytest_twisted.ensureDeferred
async def test_cookies_are_not_shared_by_clients(harness: ProxyHarness) -> None:
    await harness.start()

    def cookie(seen: Request) -> bytes:
        return response(b"{}", headers=[(b"Set-Cookie", b"session=%d; Path=/" % seen.number)])

    harness.upstream.script(lambda _: True, cookie)
    first = await harness.ask(request("/v1/models"))
    again = await harness.ask(request("/v1/models"))
    other = await harness.ask(request("/v1/models", key=b"Bearer sk-good-2"))
    assert first.all("Set-Cookie") == [b"session=1; Path=/"]
    assert (again.get("X-Cache"), again.all("Set-Cookie")) == (b"HIT", [])
    assert (other.get("X-Cache"), other.all("Set-Cookie")) == (b"MISS", [b"session=2; Path=/"])
    for path in ("/v1/files", "/v1/files"):
        await harness.ask(request(path, "POST", body=b"x"))
    assert [seen.all(b"cookie") for seen in harness.upstream.requests] == [[]] * 4


@pytest_twisted.ensureDeferred
async def test_x_cache_of_the_upstream_is_replaced_and_rate_limits_are_kept(
    harness: ProxyHarness,
) -> None:
    await harness.start(RATE_LIMIT="60")
    harness.upstream.script("/v1/models", response(b"{}", headers=[
        (b"X-Cache", b"Hit from elsewhere"), (b"X-Proxy", b"elsewhere"),
        (b"X-Cache-Timestamp", b"yesterday"),
        (b"x-ratelimit-limit-requests", b"10000"), (b"x-ratelimit-remaining-requests", b"9999"),
    ]))  # fmt: skip
    for expected in (b"MISS", b"HIT"):
        answer = await harness.ask(request())
        assert answer.all("X-Cache") == [expected]
        assert answer.all("X-Proxy") == [b"goproxyai"]
        assert b"yesterday" not in answer.all("X-Cache-Timestamp")
        assert answer.all("x-ratelimit-limit-requests") == [b"10000"]
        assert answer.all("x-ratelimit-remaining-requests") == [b"9999"]
