"""Bytes leave as they come, both ways; whoever stops, stops the other side.

What is paused is seen in the transports: the daemon's own buffers stay below 256 KiB a stream, and
the side that is too fast is not read from.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from goproxyai.http11.client_connection import ClientConnection
from goproxyai.http11.server_connection import ServerConnection
from goproxyai.reactor.socket_write import unsent_bytes
from tests.support.answers import chunk, event, response
from tests.support.harness import KEY, ProxyHarness, RawClient, eventually, post, request
from tests.support.requests import Request
from tests.support.steps import Answer as Script
from tests.support.steps import AnswerBeforeBody, Close, Pause, Stream

OK = b"HTTP/1.1 200 OK\r\n"
SSE = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
MIB = 1024 * 1024
BUFFERED = 256 * 1024
"""Bytes of one stream that may wait in the daemon, each way."""

KERNEL = 24 * MIB
"""More than the kernel's buffers of two connections take, far less than what is sent."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.fixture(autouse=True)
def nothing_unhandled(failures: list[Any]) -> Iterator[None]:
    """Collect what was forgotten, so that an error that nobody handled is logged now."""
    yield
    gc.collect()


class Swallowing(RawClient):
    """A client that hashes the body of the answer instead of keeping it."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.head = b""
        self.count = 0
        self._digest = hashlib.sha256()

    def dataReceived(self, data: bytes) -> None:
        if not self.head:
            self.received += data
            self.head, found, data = self.received.partition(b"\r\n\r\n")
            if not found:
                self.head = b""
                return
        self.count += len(data)
        self._digest.update(data)
        self._changes.changed()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def client_side(harness: ProxyHarness) -> ServerConnection:
    """The daemon's one connection to a client."""
    assert harness.daemon is not None
    (connection,) = harness.daemon.listeners.factory.connections
    return connection


def upstream_side(harness: ProxyHarness) -> ClientConnection:
    """The daemon's one connection to upstream."""
    (connection,) = harness.pool
    return connection


async def settled(harness: ProxyHarness, count: Callable[[], int]) -> int:
    """What *count* gives, once that has stayed the same for some turns of the reactor."""
    last, same = count(), 0
    while same < 20:
        await deferLater(harness.reactor, 0.01)
        now = count()
        same = same + 1 if now == last else 0
        last = now
    return last


# As they come.


@pytest_twisted.ensureDeferred
async def test_each_event_arrives_before_upstream_sends_the_next(harness: ProxyHarness) -> None:
    await harness.start()
    gates = [Pause() for _ in range(5)]
    script: list[Any] = [SSE]
    for number, gate in enumerate(gates):
        script += [chunk(event({"n": number})), gate]
    harness.upstream.script("/v1/chat/completions", [*script, chunk(b"")])
    wire = await harness.connect()
    wire.send(post("/v1/chat/completions", b'{"stream":true}'))
    for number, gate in enumerate(gates):
        await wire.until(lambda number=number: event({"n": number}) in wire.received)
        assert event({"n": number + 1}) not in wire.received
        gate.release()
    answer = await wire.answer()
    assert answer.body == b"".join(event({"n": number}) for number in range(5))


@pytest_twisted.ensureDeferred
async def test_the_head_arrives_before_the_body(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script("/v1/a", [OK + b"Content-Length: 4\r\n\r\n", gate, b"body"])
    wire = await harness.connect()
    wire.send(request("/v1/a"))
    await wire.until(lambda: b"\r\n\r\n" in wire.received)
    gate.release()
    assert (await wire.answer()).body == b"body"


@pytest_twisted.ensureDeferred
async def test_a_stream_is_stored_and_replayed_byte_for_byte(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.api.interval = 0.001
    asked = post("/v1/chat/completions", b'{"model":"m","stream":true,"messages":[]}')
    first, second = [await harness.ask(asked) for _ in range(2)]
    assert [each.get("X-Cache") for each in (first, second)] == [b"MISS", b"HIT"]
    assert first.body == second.body
    assert second.all("Content-Type") == [b"text/event-stream; charset=utf-8"]
    assert second.all("Transfer-Encoding") == [b"chunked"]


@pytest_twisted.ensureDeferred
async def test_trailers_are_dropped_and_do_not_become_headers_of_a_hit(
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


# A client that leaves.

PHASES: dict[str, tuple[bytes, Script]] = {
    "while_it_uploads": (
        request("/v1/files", "POST", [("Content-Length", "1000")]) + b"some",
        b"",
    ),
    "while_it_uploads_in_chunks": (
        request("/v1/files", "POST", [("Transfer-Encoding", "chunked")]) + chunk(b"some"),
        b"",
    ),
    "before_the_head": (request("/v1/a"), [Pause()]),
    "before_the_head_of_a_post": (post("/v1/chat/completions", b"{}"), [Pause()]),
    "inside_the_head": (request("/v1/a"), [OK + b"Content-", Pause()]),
    "behind_the_head": (request("/v1/a"), [OK + b"Content-Length: 9\r\n\r\n", Pause()]),
    "inside_a_body": (request("/v1/a"), [OK + b"Content-Length: 9\r\n\r\npart", Pause()]),
    "inside_a_close_delimited_body": (request("/v1/a"), [OK + b"\r\npart", Pause()]),
    "inside_a_stream": (
        post("/v1/chat/completions", b'{"stream":true}'),
        [SSE + chunk(event(1)), Pause()],
    ),
}


@pytest.mark.parametrize("orderly", [False, True], ids=["by_reset", "orderly"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(("asked", "answer"), PHASES.values(), ids=PHASES)
@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_ends_the_upstream_request(
    harness: ProxyHarness, asked: bytes, answer: Script, tls: bool, orderly: bool
) -> None:
    upstream = f"https://127.0.0.1:{await harness.listen_with_tls()}" if tls else None
    await harness.start(upstream)
    if answer:
        harness.upstream.script(lambda _: True, answer)
    wire = await harness.connect()
    wire.send(asked)
    await harness.upstream.wait_for(lambda one: one.paused or one.body_length == 4)
    if isinstance(answer, list) and isinstance(answer[0], bytes) and b"\r\n\r\n" in answer[0]:
        await wire.until(lambda: b"\r\n\r\n" in wire.received)
    assert wire.transport is not None
    (wire.transport.loseConnection if orderly else wire.abort)()
    await harness.upstream.wait_for(lambda one: one.lost, timeout=1.0)
    await eventually(harness.reactor, lambda: len(harness.pool) == 0, 1.0)
    assert [each["ended"] for each in await harness.logged()] == ["client_gone"]


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_while_a_tunnel_is_asked_for_ends_that(
    harness: ProxyHarness,
) -> None:
    proxy, port = await harness.egress()
    proxy.script("api.openai.test:443", [Pause()])
    await harness.start("https://api.openai.test", PROXY_URL=f"http://127.0.0.1:{port}")
    wire = await harness.connect()
    wire.send(request())
    await proxy.wait_for(lambda one: one.paused)
    wire.abort()
    await proxy.wait_for(lambda one: one.lost, timeout=1.0)
    (logged,) = await harness.logged()
    assert (logged["ended"], logged["status"]) == ("client_gone", 499)


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_during_a_handshake_ends_that(harness: ProxyHarness) -> None:
    port = await harness.listen_with_tls()
    harness.upstream.pause_reading()
    await harness.start(f"https://127.0.0.1:{port}")
    wire = await harness.connect()
    wire.send(request())
    await eventually(harness.reactor, lambda: len(harness.pool) == 1)
    wire.abort()
    await eventually(harness.reactor, lambda: len(harness.pool) == 0, 1.0)
    assert [each["ended"] for each in await harness.logged()] == ["client_gone"]
    harness.upstream.resume_reading()
    await harness.upstream.wait_closed()


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_inside_a_body_that_is_read_for_its_key_is_logged(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    wire = await harness.connect()
    wire.send(request("/v1/embeddings", "POST", [("Content-Length", "1000")]) + b"{")
    await eventually(harness.reactor, lambda: not client_side(harness).idle)
    wire.abort()
    await eventually(harness.reactor, lambda: not harness.daemon.listeners.factory.connections, 1.0)
    assert [each["ended"] for each in await harness.logged()] == ["client_gone"]
    assert harness.upstream.connections_made == 0


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_while_it_is_paused_ends_the_upstream_request(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.pause_reading()
    wire = await harness.connect()
    wire.send(request("/v1/files", "POST", body=bytes(32 * MIB)))
    await eventually(
        harness.reactor, lambda: len(harness.pool) == 1 and client_side(harness).reading_paused
    )
    wire.abort()
    await eventually(harness.reactor, lambda: len(harness.pool) == 0, 1.0)
    assert [each["ended"] for each in await harness.logged()] == ["client_gone"]
    harness.upstream.resume_reading()
    await harness.upstream.wait_closed()


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_while_it_does_not_read_ends_the_upstream_request(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script(
        "/v1/a", [OK + b"Content-Length: %d\r\n\r\n" % (64 * MIB), Stream(bytes(MIB), 64)]
    )
    wire = await harness.connect()
    wire.send(request("/v1/a"))
    wire.pause_reading()
    await eventually(
        harness.reactor, lambda: len(harness.pool) == 1 and upstream_side(harness).reading_paused
    )
    wire.abort()
    await harness.upstream.wait_for(lambda one: one.lost, timeout=1.0)
    assert [each["ended"] for each in await harness.logged()] == ["client_gone"]


# Backpressure.


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_slow_reader_pauses_upstream_and_gets_every_byte(
    harness: ProxyHarness, tls: bool
) -> None:
    upstream = f"https://127.0.0.1:{await harness.listen_with_tls()}" if tls else None
    await harness.start(upstream)
    piece, times = hashlib.shake_128(b"piece").digest(64 * 1024), 1024
    sent: list[int] = []
    size = len(piece) * times
    harness.upstream.script(
        "/v1/a", [OK + b"Content-Length: %d\r\n\r\n" % size, Stream(piece, times, sent.append)]
    )
    wire = await harness.connect(Swallowing(harness.reactor))
    assert isinstance(wire, Swallowing)
    wire.send(request("/v1/a"))
    wire.pause_reading()
    await eventually(
        harness.reactor, lambda: len(harness.pool) == 1 and upstream_side(harness).reading_paused
    )
    stuck = await settled(harness, lambda: len(sent)) * len(piece)
    assert stuck < KERNEL
    assert unsent_bytes(client_side(harness).transport) <= BUFFERED
    wire.resume_reading()
    await wire.until(lambda: wire.count == size)
    assert wire.sha256 == hashlib.sha256(piece * times).hexdigest()
    assert sent[-1] == times


@pytest.mark.parametrize("chunked", [False, True], ids=["content_length", "chunked"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_slow_upstream_pauses_the_upload_and_gets_every_byte(
    harness: ProxyHarness, tls: bool, chunked: bool
) -> None:
    upstream = f"https://127.0.0.1:{await harness.listen_with_tls()}" if tls else None
    await harness.start(upstream)
    harness.upstream.script("/v1/files", response(b"thanks"))
    body = hashlib.shake_128(b"upload").digest(MIB) * 32
    wire = await harness.connect()
    if chunked:
        pieces = [chunk(body[start : start + MIB]) for start in range(0, len(body), MIB)]
        framed = b"".join([*pieces, chunk(b"")])
        wire.send(request("/v1/files", "POST", [("Transfer-Encoding", "chunked")]))
    else:
        framed = body
        wire.send(request("/v1/files", "POST", [("Content-Length", str(len(body)))]))
    seen = await harness.upstream.wait_for(lambda one: True)
    harness.upstream.pause_reading()
    wire.send(framed)
    await eventually(harness.reactor, lambda: client_side(harness).reading_paused)
    assert len(framed) - await settled(harness, lambda: unsent_bytes(wire.transport)) < KERNEL
    assert unsent_bytes(upstream_side(harness).transport) <= BUFFERED
    harness.upstream.resume_reading()
    assert (await wire.answer()).body == b"thanks"
    assert (seen.body_length, seen.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert bool(seen.all(b"transfer-encoding")) == chunked
    assert seen.all(b"content-length") == ([] if chunked else [str(len(body)).encode()])


# Uploads.


@pytest.mark.parametrize("target", ["/v1/files", "/v1/embeddings"])
@pytest_twisted.ensureDeferred
async def test_a_small_chunked_body_arrives_whole(harness: ProxyHarness, target: str) -> None:
    await harness.start()
    body = b'{"input":"abc"}'
    wire = await harness.connect()
    wire.send(request(target, "POST", [("Transfer-Encoding", "chunked")]) + chunk(body[:3]))
    wire.send(chunk(body[3:]) + b"0\r\nX-Trailer: dropped\r\n\r\n")
    assert (await wire.answer()).status == 200
    (seen,) = harness.upstream.requests
    assert seen.body == body
    assert seen.trailers == []
    assert seen.header(b"x-trailer") is None
    assert [seen.header(b"content-length"), seen.header(b"transfer-encoding")].count(None) == 1


@pytest_twisted.ensureDeferred
async def test_the_first_bytes_of_an_upload_arrive_before_the_last_are_sent(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    wire = await harness.connect()
    wire.send(request("/v1/files", "POST", [("Content-Length", "8")]) + b"half")
    await harness.upstream.wait_for(lambda one: one.body_length == 4)
    wire.send(b"more")
    assert (await wire.answer()).status == 200
    assert harness.upstream.requests[0].body == b"halfmore"


@pytest.mark.parametrize("chunked", [False, True], ids=["content_length", "chunked"])
@pytest_twisted.ensureDeferred
async def test_a_cacheable_post_over_10_mb_streams_past_the_cache(
    harness: ProxyHarness, chunked: bool
) -> None:
    await harness.start()
    body = b'{"input":"%b"}' % (b"a" * (11 * MIB))
    harness.upstream.script("/v1/embeddings", response(b"{}"))
    headers = [("Content-Type", "application/json")]
    if chunked:
        head = request("/v1/embeddings", "POST", [*headers, ("Transfer-Encoding", "chunked")])
        asked = head + chunk(body) + chunk(b"")
    else:
        asked = post("/v1/embeddings", body)
    for _ in range(2):
        answer = await harness.ask(asked)
        assert (answer.status, answer.get("X-Cache")) == (200, b"MISS")
        assert answer.all("Cache-Status") == [b"goproxyai; fwd=bypass; detail=size"]
    assert [one.sha256 for one in harness.upstream.requests] == [
        hashlib.sha256(body).hexdigest()
    ] * 2


@pytest_twisted.ensureDeferred
async def test_a_cacheable_post_below_10_mb_is_read_whole_and_cached(harness: ProxyHarness) -> None:
    await harness.start()
    body = b'{"input":"%b"}' % (b"a" * (9 * MIB))
    first, second = [await harness.ask(post("/v1/embeddings", body)) for _ in range(2)]
    assert [each.get("X-Cache") for each in (first, second)] == [b"MISS", b"HIT"]
    assert len(harness.upstream.requests) == 1


@pytest.mark.parametrize("chunked", [False, True], ids=["content_length", "chunked"])
@pytest_twisted.ensureDeferred
async def test_an_answer_before_the_body_reaches_the_client_and_the_rest_is_no_request(
    harness: ProxyHarness, chunked: bool
) -> None:
    await harness.start()
    harness.upstream.script("/v1/files", [AnswerBeforeBody(), response(b'{"e":1}', 413)])
    wire = await harness.connect()
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "1000000")
    wire.send(request("/v1/files", "POST", [framing]) + (chunk(b"some") if chunked else b"some"))
    answer = await wire.answer()
    assert (answer.status, answer.body) == (413, b'{"e":1}')
    assert answer.all("Connection") == [b"close"]
    wire.send(request() * 10)
    await wire.wait_closed()
    assert wire.received == b""
    assert [one.line for one in harness.upstream.requests] == ["POST /v1/files"]
    await harness.upstream.wait_closed()
    assert [each["status"] for each in await harness.logged()] == [413]


@pytest_twisted.ensureDeferred
async def test_an_answer_before_the_body_survives_that_upstream_hangs_up_behind_it(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script("/v1/files", [AnswerBeforeBody(), response(b'{"e":1}', 413), Close()])
    wire = await harness.connect()
    wire.send(request("/v1/files", "POST", body=bytes(8 * MIB)))
    answer = await wire.answer()
    assert (answer.status, answer.body) == (413, b'{"e":1}')
    await wire.wait_closed()


@pytest_twisted.ensureDeferred
async def test_a_stream_may_begin_before_the_upload_has_ended(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script(
        "/v1/files", [AnswerBeforeBody(), SSE + chunk(b"one"), gate, chunk(b"two") + chunk(b"")]
    )
    wire = await harness.connect()
    wire.send(request("/v1/files", "POST", [("Content-Length", "8")]) + b"half")
    await wire.until(lambda: b"one" in wire.received)
    wire.send(b"more")
    await harness.upstream.wait_for(lambda one: one.complete)
    gate.release()
    answer = await wire.answer()
    assert (answer.body, answer.cut) == (b"onetwo", False)
    assert harness.upstream.requests[0].body == b"halfmore"


# Expect: 100-continue (RFC 9110 §10.1.1).


@pytest.mark.parametrize("target", ["/v1/files", "/v1/embeddings"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_waits_for_100_is_told_to_go_on_by_us(
    harness: ProxyHarness, target: str
) -> None:
    await harness.start(RATE_LIMIT="60")
    body = b'{"input":"a"}'
    wire = await harness.connect()
    expect = [("Expect", "100-continue"), ("Content-Length", str(len(body)))]
    wire.send(request(target, "POST", expect))
    await wire.until(lambda: wire.received == CONTINUE)
    wire.send(body)
    assert (await wire.answer()).status == 200
    (seen,) = harness.upstream.requests
    assert (seen.header(b"expect"), seen.body) == (None, body)


@pytest_twisted.ensureDeferred
async def test_a_refused_request_is_not_told_to_go_on(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    await harness.ask(request())
    wire = await harness.connect()
    expect = [("Expect", "100-continue"), ("Content-Length", "100")]
    wire.send(request("/v1/files", "POST", expect))
    await wire.wait_closed()
    assert wire.received.startswith(b"HTTP/1.1 429 ")
    assert b"100 Continue" not in wire.received
    assert (await wire.answer()).all("Connection") == [b"close"]
    assert len(harness.upstream.requests) == 1


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_cannot_be_reached_gets_no_body_asked_for(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    await harness.upstream.stop_listening()
    wire = await harness.connect()
    expect = [("Expect", "100-continue"), ("Content-Length", "100")]
    wire.send(request("/v1/files", "POST", expect))
    answer = await wire.answer()
    assert answer.status == 502
    await wire.wait_closed()


@pytest_twisted.ensureDeferred
async def test_a_body_that_comes_unasked_needs_no_100(harness: ProxyHarness) -> None:
    await harness.start()
    wire = await harness.connect()
    wire.send(request("/v1/files", "POST", [("Expect", "100-continue")], body=b"here it is"))
    assert (await wire.answer()).status == 200
    assert harness.upstream.requests[0].body == b"here it is"


# Interim answers, old clients, answers without a body.


@pytest_twisted.ensureDeferred
async def test_early_hints_are_passed_on(harness: ProxyHarness) -> None:
    await harness.start()
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n"
    gate = Pause()
    harness.upstream.script("/v1/a", [CONTINUE + hint, gate, response(b"body")])
    wire = await harness.connect()
    wire.send(request("/v1/a"))
    await wire.until(lambda: b"\r\n\r\n" in wire.received)
    assert wire.received == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    gate.release()
    assert (await wire.answer()).body == b"body"


@pytest_twisted.ensureDeferred
async def test_a_client_of_http_1_0_gets_no_interim_answer_and_no_chunks(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    harness.upstream.script("/v1/a", hint + head + chunk(b"all of ") + chunk(b"it") + chunk(b""))
    wire = await harness.connect()
    wire.send(b"GET /v1/a HTTP/1.0\r\nHost: a\r\nAuthorization: %b\r\n\r\n" % KEY)
    await wire.wait_closed()
    assert wire.received.startswith(b"HTTP/1.1 200 OK\r\n")
    answer = await wire.answer()
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
async def test_an_answer_without_a_body_stays_one_and_the_connection_lives(
    harness: ProxyHarness, method: str, raw: bytes, length: list[bytes]
) -> None:
    await harness.start()
    harness.upstream.script("/v1/a", raw)
    wire = await harness.connect()
    wire.send(request("/v1/a", method))
    await wire.until(lambda: wire.received.endswith(b"\r\n\r\n"))
    assert raw.partition(b"\r\n")[0] == wire.received.partition(b"\r\n")[0]
    answer = await wire.answer(method.encode())
    assert (answer.body, answer.all("Transfer-Encoding"), wire.received) == (b"", [], b"")
    if raw.startswith(OK):
        assert answer.all("Content-Length") in (length, [])
    wire.send(request())
    assert json.loads((await wire.answer()).body)["object"] == "list"


# Header fields.


@pytest_twisted.ensureDeferred
async def test_what_is_hop_by_hop_stays_on_its_hop_both_ways(harness: ProxyHarness) -> None:
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
        ("Via", "1.0 corner"),
    ]
    answer = await harness.ask(request("/v1/files", "POST", sent, b"body"))
    (seen,) = harness.upstream.requests
    assert seen.headers == [
        (b"Host", b"127.0.0.1:%d" % harness.upstream_port),
        (b"Authorization", KEY),
        (b"X-Kept", b"1"),
        (b"X-Forwarded-For", b"192.0.2.7"),
        (b"Via", b"1.0 corner"),
        (b"Content-Length", b"4"),
        (b"Via", b"1.1 goproxyai"),
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


@pytest.mark.parametrize("via", ["1.1 goproxyai", "1.0 edge, HTTP/1.1 GoProxyAI (it is us)"])
@pytest_twisted.ensureDeferred
async def test_a_request_that_passed_through_us_before_is_a_508(
    harness: ProxyHarness, via: str
) -> None:
    await harness.start()
    answer = await harness.ask(request(headers=[("Via", via)]))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (508, "loop_detected")
    assert (answer.get("X-Cache"), answer.get("X-Proxy")) == (b"MISS", b"goproxyai")
    assert [each["code"] for each in await harness.logged()] == ["loop_detected"]
    assert harness.upstream.connections_made == 0


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_is_its_own_upstream_says_so(harness: ProxyHarness) -> None:
    proxy, port = await harness.egress()
    await harness.start("http://api.openai.test", PROXY_URL=f"http://127.0.0.1:{port}")
    proxy.names["api.openai.test:80"] = ("127.0.0.1", harness.port)
    answer = await harness.ask(request())
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (508, "loop_detected")
    harness.pool.close()
    await proxy.wait_closed()


@pytest_twisted.ensureDeferred
async def test_two_clients_never_see_each_others_cookies(harness: ProxyHarness) -> None:
    await harness.start()

    def cookie(one: Request) -> bytes:
        return response(b"{}", headers=[(b"Set-Cookie", b"session=%d; Path=/" % one.number)])

    harness.upstream.script(lambda _: True, cookie)
    first = await harness.ask(request("/v1/models"))
    again = await harness.ask(request("/v1/models"))
    other = await harness.ask(request("/v1/models", key=b"Bearer sk-good-2"))
    assert first.all("Set-Cookie") == [b"session=1; Path=/"]
    assert (again.get("X-Cache"), again.all("Set-Cookie")) == (b"HIT", [])
    assert (other.get("X-Cache"), other.all("Set-Cookie")) == (b"MISS", [b"session=2; Path=/"])
    for path in ("/v1/files", "/v1/files"):
        await harness.ask(request(path, "POST", body=b"x"))
    assert [one.all(b"cookie") for one in harness.upstream.requests] == [[]] * 4


@pytest_twisted.ensureDeferred
async def test_upstreams_x_cache_is_replaced_and_its_rate_limits_are_kept(
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


# Pipelining.


@pytest_twisted.ensureDeferred
async def test_pipelined_requests_are_answered_in_order_though_the_second_is_a_hit(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    hit = await harness.ask(request())
    gate = Pause()
    harness.upstream.script("/v1/slow", [gate, response(b"slow")])
    wire = await harness.connect()
    wire.send(request("/v1/slow") + request() + request("/v1/files", "POST", body=b"x" * 10))
    await harness.upstream.wait_for(lambda one: one.paused)
    assert len(harness.upstream.requests) == 2
    assert wire.received == b""
    gate.release()
    answers = [await wire.answer() for _ in range(3)]
    assert [each.get("X-Cache") for each in answers] == [b"MISS", b"HIT", b"MISS"]
    assert [answers[0].body, answers[1].body] == [b"slow", hit.body]
    assert json.loads(answers[2].body)["bytes"] == 10


@pytest_twisted.ensureDeferred
async def test_many_pipelined_requests_are_all_answered(harness: ProxyHarness) -> None:
    await harness.start(CACHE_TTL="0")
    harness.upstream.script(
        lambda _: True, lambda one: response(one.target, headers=[(b"X-N", one.target[-3:])])
    )
    wire = await harness.connect()
    targets = [f"/v1/{number:03}" for number in range(100)]
    wire.send(b"".join(map(request, targets)))
    answers = [await wire.answer() for _ in targets]
    assert [each.body.decode() for each in answers] == targets
    assert harness.upstream.connections_made == 1


@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_cut_takes_the_pipelined_ones_with_it(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script("/v1/cut", [OK + b"Content-Length: 9\r\n\r\npart", Close()])
    wire = await harness.connect()
    wire.send(request("/v1/cut") + request())
    await wire.wait_closed()
    assert b'"object": "list"' not in wire.received
    await harness.upstream.wait_closed()
