"""Failures of the upstream, before and after the response head.

A failure before the response head is an error of the proxy. After it the client's connection is
reset, so that an incomplete body is not mistaken for a complete one. Neither is stored.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone

from goproxyai.reactor import deadlines as ticking
from tests.support.answers import chunk, response
from tests.support.authority import Authority, Identity, self_signed
from tests.support.harness import Answer, ProxyHarness, RawClient, eventually, request
from tests.support.prompt import PROMPT_SECONDS
from tests.support.requests import Request
from tests.support.steps import Answer as Script
from tests.support.steps import AnswerBeforeBody, Close, Dribble, Pause, Reset, Stream

pytestmark = pytest.mark.usefixtures("collect_garbage")

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check deadlines more often, so that none is late by a quarter of a second."""
    monkeypatch.setattr(ticking, "TICK_SECONDS", 0.02)


def assert_problem(answer: Answer, status: int, code: str) -> None:
    """Check the shape of an error of the proxy."""
    assert (answer.status, answer.cut) == (status, False)
    document = json.loads(answer.body)
    assert document == {
        "error": {
            "message": document["error"]["message"],
            "type": "proxy_error",
            "code": code,
        }
    }
    assert len(document["error"]["message"]) > 20
    assert answer.all("Content-Type") == [b"application/json"]
    assert answer.all("X-Cache") == [b"MISS"]
    assert answer.all("X-Proxy") == [b"goproxyai"]


async def assert_logged(
    harness: ProxyHarness, code: str, ended: str = "ok", status: int = 502
) -> None:
    """Check that the log has one event, with *code*."""
    events = await harness.logged()
    harness.events = harness.events[:0]
    assert [(each["code"], each["ended"], each["status"]) for each in events] == [
        (code, ended, status)
    ]
    events.clear()


async def assert_reset(client: RawClient) -> None:
    """Check that the connection was reset."""
    await client.wait_closed()
    assert client.reason is not None
    assert not isinstance(client.reason.value, ConnectionDone)


over_tls = pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])


async def start(harness: ProxyHarness, tls: bool, **settings: str) -> None:
    """Start the daemon, whose upstream may have TLS."""
    upstream = f"https://127.0.0.1:{await harness.listen_with_tls()}" if tls else None
    await harness.start(upstream, **settings)


# Before the response head.

UNREACHABLE: dict[str, Script] = {
    "closed": [Close()],
    "reset": [Reset()],
    "closed_inside_the_status_line": [b"HTTP/1.1 20", Close()],
    "closed_inside_the_head": [OK + b"Content-Length: 2\r\n", Close()],
    "reset_inside_the_head": [OK + b"Content-Length: 2\r\n", Reset()],
    "closed_after_an_interim_response": [b"HTTP/1.1 103 Early Hints\r\n\r\n", Close()],
}

VIOLATIONS: dict[str, Script] = {
    "another_protocol": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "html_without_a_head": b"<html><body>hello</body></html>",
    "version_nine": b"HTTP/9.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status_out_of_range": b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    "status_of_two_digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "endless_field": [OK + b"X-Endless: ", Stream(b"a" * 65536, 80)],
    "endless_lines": [OK, Stream(b"X-Line: a\r\n" * 4096, 120)],
    "endless_reason": [b"HTTP/1.1 200 ", Stream(b"a" * 65536, 80)],
    "201_fields": OK + b"X-A: a\r\n" * 201 + b"Content-Length: 0\r\n\r\n",
    "header_over_64_kib": OK + b"X-A: %b\r\nContent-Length: 0\r\n\r\n" % (b"a" * 65536),
    "coding_gzip": OK + b"Transfer-Encoding: gzip\r\n\r\nxx",
    "coding_gzip_chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding_and_length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "length_and_coding": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two_lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "invalid_length": OK + b"Content-Length: five\r\n\r\nabcde",
    "negative_length": OK + b"Content-Length: -5\r\n\r\nabcde",
    "overflowing_length": OK + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "space_before_a_colon": OK + b"X-A : a\r\nContent-Length: 0\r\n\r\n",
    "line_without_a_colon": OK + b"hello\r\nContent-Length: 0\r\n\r\n",
    "nul_in_a_value": OK + b"X-A: a\0b\r\nContent-Length: 0\r\n\r\n",
    "switching_protocols": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81"
    ),
}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        *(pytest.param(row, "upstream_unreachable", id=name) for name, row in UNREACHABLE.items()),
        *(
            pytest.param(row, "upstream_protocol_error", id=name)
            for name, row in VIOLATIONS.items()
        ),
    ],
)
@over_tls
@pytest_twisted.ensureDeferred
async def test_failure_before_the_response_head_is_502_and_keeps_the_client(
    harness: ProxyHarness, answer: Script, code: str, tls: bool
) -> None:
    await start(harness, tls)
    harness.upstream.script("/v1/models", answer, times=1)
    client = await harness.connect()
    client.send(request())
    assert_problem(await client.answer(), 502, code)
    await assert_logged(harness, code)
    client.send(request())
    again = await client.answer()
    assert (again.status, again.get("X-Cache")) == (200, b"MISS")
    assert [each.connection for each in harness.upstream.requests] == [1, 2]


@pytest_twisted.ensureDeferred
async def test_unresolvable_name_is_502(harness: ProxyHarness) -> None:
    harness.names()
    await harness.start("http://nowhere.invalid")
    assert_problem(await harness.ask(request()), 502, "upstream_unreachable")
    await assert_logged(harness, "upstream_unreachable")


@pytest_twisted.ensureDeferred
async def test_resolved_name_is_connected_to_and_sent_in_host(
    harness: ProxyHarness,
) -> None:
    harness.names(api_openai_test="127.0.0.1")
    port = await harness.listen_with_tls()
    await harness.start(f"https://api.openai.test:{port}")
    assert (await harness.ask(request())).status == 200
    assert harness.upstream.requests[0].all(b"host") == [b"api.openai.test:%d" % port]


@pytest_twisted.ensureDeferred
async def test_refused_connection_is_502(harness: ProxyHarness) -> None:
    await harness.start()
    await harness.upstream.stop_listening()
    assert_problem(await harness.ask(request()), 502, "upstream_unreachable")
    await assert_logged(harness, "upstream_unreachable")


@over_tls
@pytest_twisted.ensureDeferred
async def test_reset_during_an_upload_is_502(harness: ProxyHarness, tls: bool) -> None:
    await start(harness, tls)
    harness.upstream.script("/v1/files", [AnswerBeforeBody(), Reset()])
    client = await harness.connect()
    client.send(request("/v1/files", "POST", [("Content-Length", "1000")]) + b"x")
    assert_problem(await client.answer(), 502, "upstream_unreachable")
    await assert_logged(harness, "upstream_unreachable")


SILENCES: dict[str, Script] = {
    "no_byte": [Pause()],
    "partial_head": [OK + b"Content-", Pause()],
    "slow_head": [Dribble(OK + b"X-A: %b" % (b"a" * 200), 0.02)],
    "endless_interim_responses": [Dribble(b"HTTP/1.1 102 Processing\r\n\r\n" * 200, 0.02, 27)],
}


@pytest.mark.parametrize("answer", SILENCES.values(), ids=SILENCES)
@pytest_twisted.ensureDeferred
async def test_late_response_head_is_504(harness: ProxyHarness, answer: Script) -> None:
    await harness.start(REQUEST_TIMEOUT="300ms")
    harness.upstream.script("/v1/models", answer)
    assert_problem(await harness.ask(request()), 504, "upstream_timeout")
    await assert_logged(harness, "upstream_timeout", status=504)
    await harness.upstream.wait_for(lambda seen: seen.lost, timeout=PROMPT_SECONDS)


@pytest_twisted.ensureDeferred
async def test_unread_upload_is_504(harness: ProxyHarness) -> None:
    await harness.start(IDLE_TIMEOUT="300ms")
    harness.upstream.pause_reading()
    client = await harness.connect()
    client.send(request("/v1/files", "POST", body=bytes(16 * 1024 * 1024)))
    answer = await client.answer()
    assert_problem(answer, 504, "upstream_timeout")
    assert b"raise IDLE_TIMEOUT." in answer.body
    await assert_logged(harness, "upstream_timeout", status=504)
    harness.upstream.resume_reading()
    await harness.upstream.wait_closed()


# Connecting.


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose backlog is full, so that the kernel ignores further connections."""
    with ExitStack() as sockets:
        listening = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listening.getsockname()
        for _ in range(3):
            connecting = sockets.enter_context(socket.socket())
            connecting.setblocking(False)
            connecting.connect_ex(address)
        yield int(address[1])


@pytest_twisted.ensureDeferred
async def test_unanswered_tcp_connection_is_504(harness: ProxyHarness) -> None:
    with full_backlog() as port:
        await harness.start(f"http://127.0.0.1:{port}", CONNECT_TIMEOUT="300ms")
        assert_problem(await harness.ask(request()), 504, "upstream_timeout")
    await assert_logged(harness, "upstream_timeout", status=504)


@pytest_twisted.ensureDeferred
async def test_unanswered_connect_request_is_504(harness: ProxyHarness) -> None:
    proxy, port = await harness.egress()
    proxy.script("api.openai.test:443", [Pause()])
    url = f"http://127.0.0.1:{port}"
    await harness.start("https://api.openai.test", PROXY_URL=url, CONNECT_TIMEOUT="300ms")
    assert_problem(await harness.ask(request()), 504, "upstream_timeout")
    await assert_logged(harness, "upstream_timeout", status=504)
    await proxy.wait_for(lambda seen: seen.lost, timeout=PROMPT_SECONDS)


@pytest_twisted.ensureDeferred
async def test_unanswered_tls_handshake_is_504(harness: ProxyHarness) -> None:
    port = await harness.listen_with_tls()
    harness.upstream.pause_reading()
    await harness.start(f"https://127.0.0.1:{port}", CONNECT_TIMEOUT="300ms")
    assert_problem(await harness.ask(request()), 504, "upstream_timeout")
    await assert_logged(harness, "upstream_timeout", status=504)
    harness.upstream.resume_reading()
    await harness.upstream.wait_closed(timeout=PROMPT_SECONDS)


@pytest.mark.parametrize(
    "identity",
    [Authority.wrong_name, Authority.expired, lambda _: self_signed("localhost")],
    ids=["wrong_name", "expired", "self_signed"],
)
@pytest_twisted.ensureDeferred
async def test_invalid_certificate_is_502_and_nothing_is_sent(
    harness: ProxyHarness, authority: Authority, identity: Callable[[Authority], Identity]
) -> None:
    harness.names(localhost="127.0.0.1")
    port = await harness.listen_with_tls(identity(authority))
    await harness.start(f"https://localhost:{port}")
    assert_problem(await harness.ask(request()), 502, "upstream_tls_failed")
    await assert_logged(harness, "upstream_tls_failed")
    assert len(harness.upstream.requests) == 0


@pytest_twisted.ensureDeferred
async def test_https_upstream_without_tls_is_502(harness: ProxyHarness) -> None:
    port = await harness.upstream.listen(harness.loopback())
    await harness.start(f"https://127.0.0.1:{port}")
    assert_problem(await harness.ask(request()), 502, "upstream_tls_failed")
    await assert_logged(harness, "upstream_tls_failed")
    assert len(harness.upstream.requests) == 0


@pytest_twisted.ensureDeferred
async def test_egress_proxy_with_invalid_certificate_is_502(harness: ProxyHarness) -> None:
    harness.names(localhost="127.0.0.1")
    proxy, _ = await harness.egress()
    port = await proxy.listen(harness.loopback(self_signed("localhost")))
    await harness.start("https://api.openai.test", PROXY_URL=f"https://localhost:{port}")
    assert_problem(await harness.ask(request()), 502, "upstream_tls_failed")
    await assert_logged(harness, "upstream_tls_failed")
    assert len(proxy.requests) == 0


# Inside the response body.

SIZED = OK + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
CHUNKED = OK + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"

CUTS: dict[str, tuple[Script, str]] = {
    "length_closed": ([SIZED + b"part", Close()], "upstream_unreachable"),
    "length_closed_after_the_head": ([SIZED, Close()], "upstream_unreachable"),
    "length_reset": ([SIZED + b"part", Reset()], "upstream_unreachable"),
    "chunks_closed_between": ([CHUNKED + chunk(b"part"), Close()], "upstream_unreachable"),
    "chunks_closed_inside": ([CHUNKED + b"9\r\npart", Close()], "upstream_unreachable"),
    "chunks_closed_before_the_last_line": ([CHUNKED + b"4\r\npart\r\n0\r\n", Close()],
                                           "upstream_unreachable"),
    "chunks_reset": ([CHUNKED + chunk(b"part"), Reset()], "upstream_unreachable"),
    "close_delimited_reset": ([OK + b"\r\npart", Reset()], "upstream_unreachable"),
    "bad_chunk": ([CHUNKED + b"zz\r\npart\r\n"], "upstream_protocol_error"),
    "bad_chunk_after_a_good_one": ([CHUNKED + chunk(b"part") + b"-1\r\n"],
                                    "upstream_protocol_error"),
    "chunk_longer_than_it_says": ([CHUNKED + b"2\r\npart\r\n"], "upstream_protocol_error"),
    "endless_chunk_extension": ([CHUNKED + b"4;", Stream(b"a" * 65536, 80)],
                                "upstream_protocol_error"),
    "endless_trailers": ([CHUNKED + chunk(b"part") + b"0\r\n", Stream(b"X-A: a\r\n" * 8192, 80)],
                         "upstream_protocol_error"),
    "silence_after_the_head": ([SIZED, Pause()], "upstream_timeout"),
    "silence_inside": ([CHUNKED + chunk(b"part"), Pause()], "upstream_timeout"),
}  # fmt: skip


@over_tls
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(("answer", "code"), CUTS.values(), ids=CUTS)
@pytest_twisted.ensureDeferred
async def test_broken_body_resets_the_client_and_is_not_stored(
    harness: ProxyHarness, answer: Script, code: str, version: str, tls: bool
) -> None:
    await start(harness, tls, IDLE_TIMEOUT="300ms")
    harness.upstream.script("/v1/models", answer, times=1)
    client = await harness.connect()
    client.send(request().replace(b"HTTP/1.1", b"HTTP/" + version.encode()))
    await assert_reset(client)
    assert not client.received.endswith(b"\r\n0\r\n\r\n")
    await assert_logged(harness, code, "cut", 200)
    again = await harness.ask(request())
    assert (again.status, again.get("X-Cache")) == (200, b"MISS")


@pytest_twisted.ensureDeferred
async def test_slow_body_is_not_a_timeout(harness: ProxyHarness) -> None:
    await harness.start(REQUEST_TIMEOUT="300ms", IDLE_TIMEOUT="300ms")
    body = bytes(range(65, 85))
    harness.upstream.script(
        "/v1/models", [OK + b"Content-Length: %d\r\n\r\n" % len(body), Dribble(body, 0.05)]
    )
    answer = await harness.ask(request())
    assert (answer.body, answer.cut) == (body, False)


@pytest.mark.parametrize("head", [OK, b"HTTP/1.0 200 OK\r\n", OK + b"Connection: close\r\n"])
@pytest_twisted.ensureDeferred
async def test_body_without_length_is_chunked_and_not_stored(
    harness: ProxyHarness, head: bytes
) -> None:
    await harness.start()
    harness.upstream.script("/v1/models", [head + b"\r\nall of ", b"it", Close()])
    client = await harness.connect()
    for _ in range(2):
        client.send(request())
        answer = await client.answer()
        assert (answer.status, answer.body, answer.cut) == (200, b"all of it", False)
        assert answer.all("Transfer-Encoding") == [b"chunked"]
        assert answer.get("X-Cache") == b"MISS"
    assert len(harness.upstream.requests) == 2


# Reuse of connections.


@pytest_twisted.ensureDeferred
async def test_connections_are_reused(harness: ProxyHarness) -> None:
    await harness.start(CACHE_TTL="0")
    for _ in range(3):
        assert (await harness.ask(request())).status == 200
    assert harness.upstream.connections_made == 1


@over_tls
@pytest_twisted.ensureDeferred
async def test_connection_closed_by_the_upstream_is_not_reused(
    harness: ProxyHarness, tls: bool
) -> None:
    await start(harness, tls, CACHE_TTL="0")
    harness.upstream.script("/v1/models", [response(b"first"), Close()], times=1)
    assert (await harness.ask(request())).body == b"first"
    await eventually(harness.reactor, lambda: len(harness.pool) == 0)
    assert (await harness.ask(request())).status == 200
    assert harness.upstream.connections_made == 2


@pytest.mark.parametrize(
    "surplus",
    [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"HTTP/1.1 103 Early\r\n\r\n"],
    ids=["a_byte", "a_response", "an_interim_response"],
)
@pytest.mark.parametrize("later", [False, True], ids=["in_one_read", "later"])
@over_tls
@pytest_twisted.ensureDeferred
async def test_bytes_after_a_response_do_not_reach_the_next_request(
    harness: ProxyHarness, surplus: bytes, later: bool, tls: bool
) -> None:
    await start(harness, tls, CACHE_TTL="0")
    pause = Pause()
    first = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    script: Script = [first, pause, surplus] if later else first + surplus
    harness.upstream.script("/v1/models", script, times=1)
    client = await harness.connect()
    client.send(request())
    assert (await client.answer()).body == b"ok"
    pause.release()
    await eventually(harness.reactor, lambda: len(harness.pool) == 0)
    client.send(request())
    second = await client.answer()
    assert json.loads(second.body)["object"] == "list"
    assert [each.connection for each in harness.upstream.requests] == [1, 2]


@pytest_twisted.ensureDeferred
async def test_body_of_a_head_response_does_not_reach_the_next_request(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script("HEAD /v1/models", OK + b"Content-Length: 4\r\n\r\nevil")
    client = await harness.connect()
    client.send(request(method="HEAD"))
    assert (await client.answer(b"HEAD")).body == b""
    client.send(request())
    assert json.loads((await client.answer()).body)["object"] == "list"


@pytest_twisted.ensureDeferred
async def test_failures_leave_no_connection_open(harness: ProxyHarness) -> None:
    await harness.start()

    def alternate(seen: Request) -> Script:
        return [Close()] if seen.number % 2 else [SIZED + b"part", Reset()]

    harness.upstream.script("/v1/models", alternate)
    for _ in range(10):
        client = await harness.connect()
        client.send(request())
        await client.until(lambda client=client: bool(client.received) or client.closed)
        client.abort()
    await eventually(harness.reactor, lambda: len(harness.pool) == 0)
    await harness.upstream.wait_closed()
