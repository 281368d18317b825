"""One event a request, nothing secret in it; and what becomes of events."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel, eventAsText, globalLogPublisher
from twisted.python.failure import Failure

from goproxyai.telemetry.access_log import FLUSH_SECONDS, MAX_WAITING, AccessLog
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.events import Batch, Event
from goproxyai.telemetry.log_output import LogOutput
from goproxyai.telemetry.outcome import CacheOutcome, Ending, RequestOutcome
from tests.support.answers import chunk, head, response
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.proxy import FakeProxy
from tests.support.serving import loopback
from tests.support.steps import Close, Pause, Reset

ASKED = b'{"model":"gpt-4o-mini","messages":[]}'
CHUNKED = (b"Transfer-Encoding", b"chunked")


async def events_of(harness: ProxyHarness, count: int) -> list[dict[str, Any]]:
    """The access log, once it holds *count* events, and never more."""
    assert harness.daemon is not None
    await eventually(harness.reactor, lambda: len(harness.events) >= count)
    harness.access_log.flush()
    assert len(harness.events) == count, harness.events
    return harness.events


def told(event: dict[str, Any], *names: str) -> list[Any]:
    return [event.get(name) for name in names]


# One event a request.


@pytest_twisted.ensureDeferred
async def test_a_miss_is_noted_with_all_its_fields(harness: ProxyHarness) -> None:
    await harness.start()
    before = time.time()
    data = post("/v1/chat/completions?a=secret&b", ASKED, [("X-Forwarded-For", "192.0.2.7")])
    answer = await harness.ask(data)
    after = time.time()
    (event,) = await events_of(harness, 1)
    spent, when = event.pop("ms"), event.pop("time")
    assert event == {
        "method": "POST",
        "path": "/v1/chat/completions?a&b",
        "status": 200,
        "cache": "MISS",
        "client": "192.0.2.7",
        "bytes_in": len(ASKED),
        "bytes_out": len(answer.body),
        "ended": "ok",
        "request_id": answer.get("X-Proxy-Request-Id").decode(),
        "upstream_request_id": "req_000001",
        "tokens": {
            "model": "gpt-4o-mini", "prompt": 1, "completion": 8, "cached": 0, "reasoning": 0,
        },
    }  # fmt: skip
    assert before - 1 <= when <= after + 1
    assert set(spent) == {"total", "upstream", "proxy"}
    assert 0 < spent["upstream"] <= spent["total"] < 10_000
    assert spent["proxy"] == pytest.approx(spent["total"] - spent["upstream"], abs=0.01)


@pytest_twisted.ensureDeferred
async def test_a_hit_is_noted_without_upstream(harness: ProxyHarness) -> None:
    await harness.start()
    answers = [await harness.ask(request()) for _ in range(2)]
    event = (await events_of(harness, 2))[1]
    assert told(event, "status", "cache", "ended") == [200, "HIT", "ok"]
    assert told(event, "bytes_in", "bytes_out") == [0, len(answers[1].body)]
    assert set(event["ms"]) == {"total"}
    assert "upstream_request_id" not in event
    assert "code" not in event


@pytest.mark.parametrize(
    ("data", "cache"),
    [
        (request("/v1/files", "POST", body=b"x"), "path"),
        (request("/v1/files", "DELETE"), "method"),
        (request(headers=[("X-Custom", "1")]), "header"),
        (request(headers=[("Cache-Control", "no-store")]), "no-store"),
        (request(headers=[("Cache-Control", "no-cache")]), "MISS"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_why_the_cache_was_left_aside_is_noted(
    harness: ProxyHarness, data: bytes, cache: str
) -> None:
    await harness.start()
    await harness.ask(data)
    assert (await events_of(harness, 1))[0]["cache"] == cache


@pytest_twisted.ensureDeferred
async def test_a_refusal_by_the_rate_limit_is_noted(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    await harness.ask(request())
    answer = await harness.ask(request())
    event = (await events_of(harness, 2))[1]
    assert told(event, "status", "cache", "client") == [429, "-", "127.0.0.1"]
    assert event["bytes_out"] == len(answer.body)


@pytest.mark.parametrize(
    ("data", "status", "code", "path"),
    [
        (request("/nowhere?key=secret"), 404, "not_found", "/nowhere?key"),
        (request("/v1%2fmodels"), 404, "not_found", "/v1%2fmodels"),
        (request("/health", "POST"), 405, "method_not_allowed", "/health"),
        (request("/v1/x", "TRACE"), 405, "method_not_allowed", "/v1/x"),
        (request("/stats", headers=[("X-Forwarded-For", "203.0.113.9")]), 403, "admin_forbidden",
         "/stats"),
        (request(headers=[("Cache-Control", "only-if-cached")]), 504, "only_if_cached",
         "/v1/models"),
        (request(headers=[("Via", "1.1 goproxyai")]), 508, "loop_detected", "/v1/models"),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400, "bad_request", "/v1/models"),
        (b"GET /v1/../x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request", "/v1/../x"),
        (b"GET /v1/" + b"x" * 17_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long",
         "/v1/" + "x" * 505 + "..."),
        (request(headers=[("X-Long", "y" * 66_000)]), 431, "headers_too_large", "/v1/models"),
        (request("/v1/files", "POST", [("Content-Length", "99999999999")]), 413,
         "request_too_large", "/v1/files"),
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_what_the_proxy_refuses_is_noted_with_its_code(
    harness: ProxyHarness, data: bytes, status: int, code: str, path: str
) -> None:
    await harness.start()
    assert (await harness.ask(data)).status == status
    (event,) = await events_of(harness, 1)
    assert told(event, "status", "code", "cache", "ended") == [status, code, "-", "ok"]
    assert event["path"] == path
    assert event["method"] == data.partition(b" ")[0].decode()


@pytest_twisted.ensureDeferred
async def test_what_is_no_request_is_noted_too(harness: ProxyHarness) -> None:
    await harness.start()
    wire = await harness.connect()
    wire.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert (await wire.answer()).status == 400
    (event,) = await events_of(harness, 1)
    assert told(event, "method", "status", "code") == ["-", 400, "bad_request"]


@pytest_twisted.ensureDeferred
async def test_system_endpoints_are_noted(harness: ProxyHarness) -> None:
    await harness.start()
    answer = await harness.ask(request("/health?x=secret"))
    (event,) = await events_of(harness, 1)
    assert told(event, "method", "path", "status", "cache") == ["GET", "/health?x", 200, "-"]
    assert told(event, "bytes_out", "client") == [len(answer.body), "127.0.0.1"]


@pytest_twisted.ensureDeferred
async def test_an_error_of_upstreams_is_noted_with_its_request_id(harness: ProxyHarness) -> None:
    await harness.start()
    await harness.ask(request("/v1/nothing"))
    (event,) = await events_of(harness, 1)
    assert told(event, "status", "upstream_request_id") == [404, "req_000001"]
    assert "code" not in event


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_fails_is_noted_with_the_cause(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script("/v1/broken", [Reset()])
    assert (await harness.ask(request("/v1/broken"))).status == 502
    (event,) = await events_of(harness, 1)
    assert told(event, "status", "code", "ended") == [502, "upstream_unreachable", "ok"]
    assert event["detail"].startswith("Connection")
    assert "upstream" not in event["ms"]


@pytest_twisted.ensureDeferred
async def test_a_client_that_left_before_the_answer_is_a_499(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script("/v1/slow", [Pause()])
    wire = await harness.connect()
    wire.send(post("/v1/slow", ASKED))
    await harness.upstream.wait_for(lambda one: one.paused)
    wire.abort()
    (event,) = await events_of(harness, 1)
    assert told(event, "status", "ended", "cache") == [499, "client_gone", "path"]
    assert told(event, "bytes_in", "bytes_out") == [len(ASKED), 0]


@pytest_twisted.ensureDeferred
async def test_a_client_that_left_inside_the_answer_keeps_its_status(harness: ProxyHarness) -> None:
    await harness.start()
    stream = [head(200, [CHUNKED, (b"x-request-id", b"req_9")]), chunk(b"12345"), Pause()]
    harness.upstream.script("/v1/slow", stream)
    wire = await harness.connect()
    wire.send(request("/v1/slow"))
    await wire.until(lambda: b"12345" in wire.received)
    wire.abort()
    (event,) = await events_of(harness, 1)
    assert told(event, "status", "ended", "bytes_out") == [200, "client_gone", 5]
    assert event["upstream_request_id"] == "req_9"


@pytest_twisted.ensureDeferred
async def test_a_client_that_left_inside_its_request_is_noted(harness: ProxyHarness) -> None:
    await harness.start()
    wire = await harness.connect()
    wire.send(request("/v1/embeddings", "POST", [("Content-Length", "100")]) + b"{")
    assert harness.daemon is not None
    connections = harness.daemon.listeners.factory.connections
    await eventually(harness.reactor, lambda: any(c._active for c in connections))
    wire.abort()
    (event,) = await events_of(harness, 1)
    assert told(event, "status", "ended", "bytes_in") == [499, "client_gone", 1]
    assert not list(harness.upstream.requests)


@pytest_twisted.ensureDeferred
async def test_an_answer_that_upstream_cut_is_noted(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script("/v1/cut", [head(200, [CHUNKED]), chunk(b"12345"), Close()])
    assert (await harness.ask(request("/v1/cut"))).cut
    (event,) = await events_of(harness, 1)
    assert told(event, "status", "ended", "bytes_out") == [200, "cut", 5]
    assert event["code"] == "upstream_unreachable"


@pytest_twisted.ensureDeferred
async def test_every_request_of_a_pipeline_is_noted_once(harness: ProxyHarness) -> None:
    await harness.start()
    wire = await harness.connect()
    paths = ["/health", "/nowhere", "/v1/models", "/v1/x"]
    wire.send(b"".join(map(request, paths)))
    for _ in paths:
        await wire.answer()
    assert sorted(event["path"] for event in await events_of(harness, 4)) == paths


# Nothing secret.

SECRETS = {
    "key": "sk-good-Zq8mEyEsOnLy",
    "odd key": "Zq8oddkeyofnoform",
    "query": "Zq8queryvalue",
    "body": "Zq8bodytext",
    "answer": "Zq8answertext",
    "cookie": "Zq8cookie",
    "proxy user": "Zq8proxyuser",
    "proxy password": "Zq8proxypassword",
    "token": "Zq8admintoken",
    "wrong token": "Zq8wrongtoken",
}
BASIC = "WnE4cHJveHl1c2VyOlpxOHByb3h5cGFzc3dvcmQ="  # the proxy's credentials in base64
PROXY_USERINFO = f"{SECRETS['proxy user']}:{SECRETS['proxy password']}"


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Everything that is logged, as an operator reads it, from debug level on."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        lines.append(eventAsText(event, includeTimestamp=False))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def secretive(target: str, method: str = "POST", *headers: tuple[str, str]) -> bytes:
    """A request that is full of secrets."""
    query = f"?key={SECRETS['query']}"
    cookie = ("Cookie", f"a={SECRETS['cookie']}")
    body = json.dumps({"prompt": SECRETS["body"]}).encode()
    key = f"Bearer {SECRETS['key']}".encode()
    return request(target + query, method, [cookie, *headers], body, key)


def assert_no_secret(*texts: object) -> None:
    for text in texts:
        for name, secret in {**SECRETS, "basic": BASIC}.items():
            assert secret not in str(text), f"{name} in {text!s:.500}"


@attrs.frozen
class Trouble:
    """How something fails.

    :ivar status: that the client sees; 0 where the connection breaks off.
    """

    status: int
    data: bytes


TROUBLES = [
    Trouble(200, secretive("/v1/fine")),
    Trouble(404, secretive("/v1/nothing")),
    Trouble(502, secretive("/v1/broken")),
    Trouble(502, secretive("/v1/garbage")),
    Trouble(504, secretive("/v1/slow")),
    Trouble(200, secretive("/v1/cut")),
    Trouble(404, secretive("/nowhere")),
    Trouble(405, secretive("/health")),
    Trouble(405, secretive("/v1/x", "TRACE")),
    Trouble(400, secretive("/v1/../x")),
    Trouble(400, secretive("/v1/x", "GET", ("Host", SECRETS["key"]))),
    Trouble(400, secretive("/v1/x", "GET", ("Transfer-Encoding", SECRETS["odd key"]))),
    Trouble(400, secretive("/v1/x", "GET", ("Expect", SECRETS["odd key"]))),
    Trouble(400, secretive("/v1/x").replace(b"Cookie:", b"Cookie :")),
    Trouble(431, secretive("/v1/x", "GET", ("X-Long", SECRETS["odd key"] * 5000))),
    Trouble(504, secretive("/v1/x", "GET", ("Cache-Control", "only-if-cached"))),
    Trouble(508, secretive("/v1/x", "GET", ("Via", f"1.1 goproxyai ({SECRETS['odd key']})"))),
    Trouble(403, request("/stats", "GET", [("X-Forwarded-For", "203.0.113.9")],
                         key=f"Bearer {SECRETS['wrong token']}".encode())),
]  # fmt: skip


@pytest.mark.parametrize("through_proxy", [False, True], ids=["direct", "egress proxy"])
@pytest_twisted.ensureDeferred
async def test_no_secret_is_written_whatever_fails(
    harness: ProxyHarness, said: list[str], through_proxy: bool
) -> None:
    proxy = FakeProxy(harness.reactor)
    texts = {"ADMIN_TOKEN": SECRETS["token"], "REQUEST_TIMEOUT": "200ms"}
    if through_proxy:
        port = await proxy.listen(loopback(harness.reactor))
        texts["PROXY_URL"] = f"http://{PROXY_USERINFO}@127.0.0.1:{port}"
    await harness.start(**texts)
    answer = SECRETS["answer"].encode()
    harness.upstream.script("/v1/fine", response(answer, 200, [(b"Set-Cookie", answer)]))
    harness.upstream.script("/v1/broken", [Reset()])
    harness.upstream.script("/v1/garbage", b"HTTP/1.1 2x0 " + answer + b"\r\n\r\n")
    harness.upstream.script("/v1/slow", [Pause()])
    harness.upstream.script("/v1/cut", [head(200, [CHUNKED]), chunk(answer), Close()])
    bodies = []
    for trouble in TROUBLES:
        got = await harness.ask(trouble.data)
        assert got.status == trouble.status, trouble.data
        if trouble.status >= 400 and got.get("x-request-id") is None:
            bodies.append(got.body)
    seen = await harness.ask(request("/stats", key=f"Bearer {SECRETS['token']}".encode()))
    assert seen.status == 200
    assert_no_secret(await events_of(harness, len(TROUBLES) + 1), bodies, seen.body, said)
    await harness.stop()
    await proxy.close()
    assert_no_secret(said)


@pytest.mark.parametrize(
    ("proxy_url", "upstream"),
    [
        ("http://{}@127.0.0.1:1", None),
        ("http://{}@127.0.0.1:1", "https://api.test"),
        ("http://{}@does-not-resolve.invalid:3128", "https://api.test"),
        ("https://{}@127.0.0.1:1", None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_password_of_a_proxy_that_cannot_be_reached_is_not_written(
    harness: ProxyHarness, said: list[str], proxy_url: str, upstream: str | None
) -> None:
    await harness.start(upstream, PROXY_URL=proxy_url.format(PROXY_USERINFO), REQUEST_TIMEOUT="2s")
    answer = await harness.ask(secretive("/v1/fine"))
    assert answer.status in (502, 504)
    seen = await harness.ask(request("/stats"))
    assert b"***:***@" in seen.body
    assert_no_secret(await events_of(harness, 2), answer, seen, said)


@pytest.mark.parametrize("status", [407, 403, 200])
@pytest_twisted.ensureDeferred
async def test_what_an_egress_proxy_says_about_credentials_is_not_written(
    harness: ProxyHarness, said: list[str], status: int
) -> None:
    proxy = FakeProxy(harness.reactor)
    port = await proxy.listen(loopback(harness.reactor))
    realm = (b"Proxy-Authenticate", b'Basic realm="%b"' % SECRETS["odd key"].encode())
    answer = response(SECRETS["answer"].encode(), status, [realm, (b"X-Echo", BASIC.encode())])
    proxy.script(lambda _: True, answer)
    await harness.start("https://api.test", PROXY_URL=f"http://{PROXY_USERINFO}@127.0.0.1:{port}")
    got = await harness.ask(secretive("/v1/fine"))
    assert got.status == 502
    assert_no_secret(await events_of(harness, 1), got, said)
    await harness.stop()
    await proxy.close()


@pytest_twisted.ensureDeferred
async def test_a_defect_of_ours_is_logged_with_its_place_and_without_secrets(
    harness: ProxyHarness,
    said: list[str],
    failures: list[LogEvent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await harness.start(ADMIN_TOKEN=SECRETS["token"])
    assert harness.daemon is not None
    monkeypatch.setattr(harness.daemon.context.lookup, "bypass_reason", lambda *_: 1 // 0)
    got = await harness.ask(secretive("/v1/embeddings"))
    assert (got.status, json.loads(got.body)["error"]["code"]) == (500, "internal_error")
    assert "ZeroDivisionError" in "".join(said)
    assert_no_secret(said, got, await events_of(harness, 1))
    assert harness.events[0]["code"] == "internal_error"
    failures.clear()


# In batches.


class _Exchange:
    """What an access log looks at, its body included."""

    began, method, target, status, sent, received = 0.0, b"GET", b"/v1/x", 200, 5, 3
    name, trace = b"id-1", None

    @property
    def body(self) -> _Exchange:
        return self


def access_log(clock: Clock, batches: list[list[Event]]) -> AccessLog:
    return AccessLog(clock, Counters(), lambda events, batch: batches.append(events))


def test_events_are_written_in_batches_a_moment_later() -> None:
    clock, batches = Clock(), []
    log = access_log(clock, batches)
    for _ in range(3):
        log.record(_Exchange(), "c", RequestOutcome(CacheOutcome.HIT))
    assert batches == []
    clock.advance(FLUSH_SECONDS)
    assert [len(batch) for batch in batches] == [3]
    assert clock.getDelayedCalls() == []
    log.flush()
    assert len(batches) == 1


def test_a_batch_is_written_before_it_is_too_large() -> None:
    clock, batches = Clock(), []
    log = access_log(clock, batches)
    for _ in range(MAX_WAITING + 1):
        log.record(_Exchange(), "c", RequestOutcome(CacheOutcome.HIT))
    assert [len(batch) for batch in batches] == [MAX_WAITING]
    log.flush()
    assert [len(batch) for batch in batches] == [MAX_WAITING, 1]
    assert clock.getDelayedCalls() == []


def test_a_batch_that_cannot_be_written_is_counted_and_fails_nobody(
    failures: list[LogEvent],
) -> None:
    def full(events: list[Event], batch: Batch) -> None:
        raise OSError(28, "planted")

    counters = Counters()
    log = AccessLog(Clock(), counters, full)
    for _ in range(MAX_WAITING):
        log.record(_Exchange(), "c", RequestOutcome(CacheOutcome.HIT))
    assert counters.finished.count == MAX_WAITING
    assert len(failures) == 1
    failures.clear()


# What is written where.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def output(as_json: bool | None, level: str = "info", stream: Any = None) -> tuple[LogOutput, Any]:
    stream = stream or io.StringIO()
    return LogOutput(lambda: stream, as_json, level).open(), stream


def an_event(**more: Any) -> Event:
    parts = {
        "began": 0.25, "method": b"GET", "path": "/v1/models?limit", "status": 200,
        "client": "192.0.2.1", "bytes_in": 1, "bytes_out": 2, "seconds": 0.00125,
        "request_id": b"id-1", "trace": None, "cache": CacheOutcome.HIT, "bypass_reason": "",
        "code": "", "detail": "", "ending": Ending.COMPLETE, "upstream_seconds": -1.0,
        "upstream_request_id": b"", "first_byte_seconds": -1.0, "usage": None, **more,
    }  # fmt: skip
    return Event(**parts)


WALL = 1_700_000_000.0


def test_requests_are_lines_of_json() -> None:
    out, stream = output(True)
    cut = an_event(
        status=502, code="upstream_unreachable", detail="a\nb", upstream_seconds=0.001,
        upstream_request_id=b"req_1",
    )  # fmt: skip
    out.requests([an_event(), cut], Batch(WALL))
    first, second = map(json.loads, stream.getvalue().splitlines())
    for written, event in ((first, an_event()), (second, cut)):
        assert (written.pop("time"), written.pop("level"), written.pop("event")) == (
            "2023-11-14T22:13:20.250Z", "info", "request",
        )  # fmt: skip
        fields = event.fields(Batch(WALL))
        assert fields.pop("time") == WALL + 0.25
        assert written == fields
    assert (second["status"], second["detail"]) == (502, "a\nb")
    assert second["ms"] == {"total": 1.25, "upstream": 1.0, "proxy": 0.25}


def test_requests_are_readable_lines() -> None:
    out, stream = output(False)
    cut = an_event(ending=Ending.CUT, code="upstream_timeout", upstream_request_id=b"req_1")
    out.requests([an_event(), cut], Batch(WALL))
    first, second = stream.getvalue().splitlines()
    assert first == (
        "2023-11-14T22:13:20.250Z GET /v1/models?limit 200 HIT 1.2ms 192.0.2.1 in=1 out=2"
        " request_id=id-1"
    )
    assert second.endswith(
        "out=2 (cut) code=upstream_timeout request_id=id-1 upstream_request_id=req_1"
    )


@pytest.mark.parametrize(
    ("as_json", "stream", "expected"),
    [
        (None, Terminal(), False),
        (None, io.StringIO(), True),
        (True, Terminal(), True),
        (False, io.StringIO(), False),
    ],
)
def test_json_is_for_what_is_no_terminal_unless_it_is_said(
    as_json: bool | None, stream: Any, expected: bool
) -> None:
    out, _ = output(as_json, "info", stream)
    Logger(namespace="a", observer=out).info("hello")
    assert stream.getvalue().startswith("{") is expected


def test_what_others_log_is_a_line_with_its_level_and_source() -> None:
    for as_json in (True, False):
        out, stream = output(as_json)
        Logger(namespace="some.where", observer=out).warn("it is {what}", what="odd")
        (line,) = stream.getvalue().splitlines()
        if as_json:
            document = json.loads(line)
            assert document.pop("time").endswith("Z")
            assert document == {
                "level": "warn", "event": "log", "source": "some.where", "message": "it is odd",
            }  # fmt: skip
        else:
            assert line.endswith("Z warn [some.where] it is odd")


LEVELS = ["debug", "info", "warn", "error", "critical"]


@pytest.mark.parametrize(("level", "first"), [("debug", 0), ("info", 1), ("warn", 2), ("error", 3)])
def test_less_than_the_level_is_not_written(level: str, first: int) -> None:
    out, stream = output(True, level)
    log = Logger(namespace="a", observer=out)
    for name in LEVELS:
        log.emit(LogLevel.levelWithName(name), "x")
    written = [json.loads(line)["level"] for line in stream.getvalue().splitlines()]
    assert written == LEVELS[first:]
    assert out.wants_requests is (first <= 1)


@pytest.mark.parametrize("message", ["boom", "two\nlines", "Bearer sk-secret1234 in it"])
def test_a_failure_is_one_line_of_json_with_its_traceback(message: str) -> None:
    out, stream = output(True)
    log = Logger(namespace="a", observer=out)
    try:
        raise ValueError(message)
    except ValueError:
        log.failure("while {doing}", doing="this")
    (line,) = stream.getvalue().splitlines()
    document = json.loads(line)
    assert document["level"] == "critical"
    assert document["message"].startswith("while this")
    assert "Traceback" in document["message"]
    assert "ValueError: " in document["message"]
    assert "secret1234" not in document["message"]


def test_a_failure_in_text_shows_its_traceback() -> None:
    out, stream = output(False)
    Logger(namespace="a", observer=out).failure("odd", Failure(ValueError("boom")))
    assert "critical [a] odd" in stream.getvalue()
    assert "ValueError: boom" in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    ["http://user:pa55word@proxy:1", "Bearer pa55word", "Basic pa55word==", "sk-pa55word"],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_what_others_log_is_masked(text: str, as_json: bool) -> None:
    out, stream = output(as_json)
    Logger(namespace="a", observer=out).info("cannot reach {it}", it=text)
    assert "cannot reach" in stream.getvalue()
    assert "pa55word" not in stream.getvalue()


def test_an_event_that_cannot_be_formatted_is_written_all_the_same() -> None:
    out, stream = output(True)
    Logger(namespace="a", observer=out).info("{a.b.c} {", a=1)
    out({})
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["log"] * 2


def test_nothing_is_written_before_the_log_is_open() -> None:
    stream = io.StringIO()
    out = LogOutput(lambda: stream, True, "info")
    Logger(namespace="a", observer=out).info("early")
    assert stream.getvalue() == ""


@given(
    st.dictionaries(st.sampled_from(["client", "detail", "code", "path"]), st.text(min_size=1)),
    st.dictionaries(st.sampled_from(["upstream_request_id"]), st.binary(min_size=1)),
    st.floats(0, 1e6),
    st.integers(0, 1 << 62),
)
def test_the_event_of_a_request_is_json_whatever_it_holds(
    texts: dict[str, str], raw: dict[str, bytes], seconds: float, count: int
) -> None:
    stream = io.StringIO()
    output = LogOutput(lambda: stream, True, "info").open()
    event = an_event(seconds=seconds, upstream_seconds=seconds, bytes_in=count, **texts, **raw)
    output.requests([event], Batch(WALL))
    written, told = json.loads(stream.getvalue()), event.fields(Batch(WALL))
    assert written.pop("ms") == pytest.approx(told.pop("ms"), abs=0.001)
    time_, level, name = (written.pop(key) for key in ("time", "level", "event"))
    assert (time_, level, name) == ("2023-11-14T22:13:20.250Z", "info", "request")
    assert written == {key: value for key, value in told.items() if key != "time"}
