"""The endpoints that are not relayed, who may use them, and how the daemon stops."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import error
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from goproxyai.http11.connection_states import InputState
from goproxyai.proxy.recorder import PIECE_BYTES
from tests.support.answers import chunk, head, response
from tests.support.harness import Answer, Stand, Wire, eventually, post, request
from tests.support.steps import Pause, Reset

ASKED = b'{"model":"gpt-4o-mini","messages":[]}'
STRANGER = [("X-Forwarded-For", "203.0.113.9")]
"""The loopback peer is a trusted proxy; behind it stands somebody from elsewhere."""

RELAYED = b"GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS"


def error_of(answer: Answer) -> dict[str, Any]:
    """The error in *answer*, whose shape is checked."""
    assert answer.all("Content-Type") == [b"application/json"]
    assert answer.all("X-Proxy") == [b"goproxyai"]
    document = json.loads(answer.body)
    assert list(document) == ["error"]
    error = document["error"]
    assert set(error) == {"message", "type", "code"}
    assert error["type"] == "proxy_error"
    assert len(error["message"].split()) > 3
    return error


def document_of(answer: Answer) -> Any:
    """The JSON in *answer*, a success of the proxy's own."""
    assert answer.status == 200
    assert answer.all("Content-Type") == [b"application/json"]
    assert answer.all("X-Proxy") == [b"goproxyai"]
    assert answer.all("Content-Length") == [b"%d" % len(answer.body)]
    assert answer.all("Cache-Control") == [b"no-store"]
    assert answer.all("Server") == []
    return json.loads(answer.body)


async def stats(stand: Stand) -> Any:
    return document_of(await stand.ask(request("/stats")))


# What they say.


@pytest_twisted.ensureDeferred
async def test_health_says_that_the_process_answers(stand: Stand) -> None:
    await stand.start()
    before = int(time.time())
    document = document_of(await stand.ask(request("/health")))
    stamp = document.pop("timestamp")
    assert document == {"status": "healthy", "service": "openai-proxy"}
    assert isinstance(stamp, str)
    assert before <= int(stamp) <= time.time()


@pytest.mark.parametrize("target", ["/health", "/health?x=1", "/health/live", "/health/ready"])
@pytest_twisted.ensureDeferred
async def test_health_is_answered_to_anyone(stand: Stand, target: str) -> None:
    await stand.start(ADMIN_ALLOW="")
    assert document_of(await stand.ask(request(target, headers=STRANGER)))["status"]
    bare = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target.encode()
    assert (await stand.ask(bare)).status == 200
    old = await stand.ask(bare.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (old.status, old.get("Connection")) == (200, b"close")


@pytest_twisted.ensureDeferred
async def test_head_of_health_is_health_without_its_body(stand: Stand) -> None:
    await stand.start()
    wire = await stand.connect()
    wire.send(request("/health", "HEAD") + request("/health"))
    without = await wire.answer(b"HEAD")
    whole = await wire.answer()
    assert (without.status, without.body) == (200, b"")
    assert without.get("Content-Length") == whole.get("Content-Length")
    assert json.loads(whole.body)["status"] == "healthy"


@pytest.mark.parametrize(
    "body",
    [
        request("/health", "POST", body=b"x" * 1000),
        request("/health", "POST", [("Transfer-Encoding", "chunked")]) + chunk(b"x") + chunk(b""),
        request(
            "/health", "POST", [("Content-Type", "application/x-www-form-urlencoded")], b"a=1&b=2"
        ),
    ],
    ids=["length", "chunked", "form"],
)
@pytest_twisted.ensureDeferred
async def test_a_body_to_health_is_refused_and_does_not_become_a_request(
    stand: Stand, body: bytes
) -> None:
    await stand.start()
    wire = await stand.connect()
    wire.send(body + request("/health"))
    refused = await wire.answer()
    assert (refused.status, error_of(refused)["code"]) == (405, "method_not_allowed")
    assert (await wire.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_a_large_body_to_a_system_endpoint_is_refused(stand: Stand) -> None:
    await stand.start()
    answer = await stand.ask(request("/health", "POST", body=b"x" * 70_000))
    assert (answer.status, error_of(answer)["code"]) == (413, "request_too_large")


@pytest_twisted.ensureDeferred
async def test_stats_say_what_it_is_set_to(stand: Stand) -> None:
    await stand.start(
        RATE_LIMIT="120",
        CACHE_TTL="90s",
        MAX_CACHE_SIZE="3",
        PROXY_URL="http://user:hunter2@proxy.test:3128",
    )
    document = await stats(stand)
    assert document["cache"]["ttl"] == "1m30s"
    assert document["cache"]["item_count"] == 0
    assert document["cache"]["max_bytes"] == 3 * 1024 * 1024
    assert document["rate_limit"] == 120
    assert document["openai_url"] == f"http://127.0.0.1:{stand.upstream_port}"
    assert document["proxy_url"] == "http://***:***@proxy.test:3128"
    assert document["ready"] is True
    assert document["uptime_seconds"] >= 0


@pytest_twisted.ensureDeferred
async def test_stats_of_the_defaults_are_those_of_the_original(stand: Stand) -> None:
    await stand.start(RATE_LIMIT="60")
    document = await stats(stand)
    assert document["cache"]["ttl"] == "5m0s"
    assert (document["rate_limit"], document["proxy_url"]) == (60, "")


@pytest_twisted.ensureDeferred
async def test_stats_count_what_happened(stand: Stand) -> None:
    await stand.start(RATE_LIMIT="6")
    stand.upstream.script("/v1/broken", [Reset()])
    upload = request("/v1/files", "POST", body=b"x" * 5000)
    asked = [post("/v1/chat/completions", ASKED)] * 2  # a miss and a hit
    asked += [request("/v1/nothing"), upload, request("/v1/broken"), request("/v1/models", "HEAD")]
    asked += [request()] * 2  # over the rate
    asked += [request("/nowhere"), request("/health"), b"GET /v1/x HTTP/1.1\r\n\r\n"]
    answers = [await stand.ask(data, data.partition(b" ")[0]) for data in asked]
    expected = [200, 200, 404, 200, 502, 200, 429, 429, 404, 200, 400]
    assert [answer.status for answer in answers] == expected
    document = await stats(stand)
    cache, requests = document["cache"], document["requests"]
    assert (cache["item_count"], cache["stores"], cache["evictions"]) == (1, 1, 0)
    assert (cache["hits"], cache["misses"], cache["bypasses"]) == (1, 3, 2)
    assert cache["bytes"] > len(answers[0].body)
    assert requests["total"] == len(asked) + 1
    assert requests["in_flight"] == 1  # this one
    assert requests["by_status"] == {"2xx": 5, "3xx": 0, "4xx": 5, "5xx": 1}
    assert requests["limited"] == 2
    assert (requests["client_gone"], requests["cut_by_upstream"]) == (0, 0)
    assert requests["bytes_in"] == 2 * len(ASKED) + 5000
    assert requests["bytes_out"] == sum(len(answer.body) for answer in answers)
    assert requests["time"]["max_ms"] >= requests["time"]["p50_ms"] > 0
    assert document["errors"] == {"bad_request": 1, "not_found": 1, "upstream_unreachable": 1}
    assert document["clients"] == 1


@pytest_twisted.ensureDeferred
async def test_stats_say_what_is_being_collected_for_the_cache(stand: Stand) -> None:
    await stand.start()
    pause = Pause()
    part = head(200, [(b"Transfer-Encoding", b"chunked")]) + chunk(b"x" * 5000)
    stand.upstream.script("/v1/models", [part, pause, chunk(b"")])
    wire = await stand.connect()
    wire.send(request())
    await wire.until(lambda: b"xxx" in wire.came)
    assert (await stats(stand))["cache"]["reserved"] == 5000 + PIECE_BYTES
    pause.release()
    await wire.answer()
    assert (await stats(stand))["cache"]["reserved"] == 0


@pytest.mark.parametrize(
    "data",
    [
        request("/v1/models"),
        request("/v1/nothing"),
        request("/v1/broken"),
        request("/v1/x", "TRACE"),
        request("/v1/x", headers=[("Via", "1.1 goproxyai")]),
        request("/v1/x", headers=[("Cache-Control", "only-if-cached")]),
        request("/v1/./x"),
        request("/v1/x", "POST", [("Content-Length", "99999999999")]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_every_answer_under_v1_names_the_proxy_and_the_cache(
    stand: Stand, data: bytes
) -> None:
    await stand.start()
    stand.upstream.script("/v1/broken", [Reset()])
    answer = await stand.ask(data)
    assert answer.all("X-Cache") == [b"MISS"]
    assert answer.all("X-Proxy") == [b"goproxyai"]
    assert answer.all("Via") == [b"1.1 goproxyai"]
    assert len(answer.all("Cache-Status")) == 1


# What lives nowhere.


@pytest.mark.parametrize(
    "target",
    [
        "/", "/v1", "/v2/models", "/health/", "/healthz", "/Health", "/stats/", "/cache/x",
        "//v1/models", "/v1%2fmodels", "/%761/models", "/V1/models", "//health", "/index.html",
        "/?/v1/models", "/health%00", "/a%0d%0aX-Evil:1",
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_another_path_is_not_found(stand: Stand, target: str) -> None:
    await stand.start()
    wire = await stand.connect()
    wire.send(request(target) + request("/health"))
    answer = await wire.answer()
    assert (answer.status, error_of(answer)["code"]) == (404, "not_found")
    assert (await wire.answer()).status == 200
    assert answer.get("Location") is None
    assert not list(stand.upstream.requests)


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("POST", "/health", b"GET, HEAD"),
        ("DELETE", "/health/live", b"GET, HEAD"),
        ("PUT", "/health/ready", b"GET, HEAD"),
        ("PATCH", "/stats", b"GET, HEAD"),
        ("GET", "/cache", b"DELETE"),
        ("POST", "/cache", b"DELETE"),
        ("TRACE", "/v1/models", RELAYED),
        ("PROPFIND", "/v1/models", RELAYED),
    ],
)
@pytest_twisted.ensureDeferred
async def test_another_method_is_told_which_are_allowed(
    stand: Stand, method: str, target: str, allowed: bytes
) -> None:
    await stand.start()
    answer = await stand.ask(request(target, method))
    assert (answer.status, error_of(answer)["code"]) == (405, "method_not_allowed")
    assert answer.all("Allow") == [allowed]
    assert not list(stand.upstream.requests)


@pytest_twisted.ensureDeferred
async def test_a_head_request_for_nothing_gets_no_body(stand: Stand) -> None:
    await stand.start()
    wire = await stand.connect()
    wire.send(request("/nowhere", "HEAD") + request("/health"))
    assert (await wire.answer(b"HEAD")).status == 404
    assert (await wire.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_a_defect_in_a_system_endpoint_is_answered_without_details(
    stand: Stand, failures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await stand.start()
    assert stand.daemon is not None
    monkeypatch.setattr(stand.daemon.system.stats.counters, "summary", lambda: 1 // 0)
    answer = await stand.ask(request("/stats"))
    assert (answer.status, error_of(answer)["code"]) == (500, "internal_error")
    assert b"zero" not in answer.body
    assert failures.pop()["log_failure"].check(ZeroDivisionError)


# Operators.

OPERATORS_ONLY = [("GET", "/stats"), ("HEAD", "/stats"), ("DELETE", "/cache")]
TOKEN = ("Authorization", "Bearer t0ken/=+")


def ask_for(method: str, target: str, *headers: tuple[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: a", *(f"{n}: {v}" for n, v in headers)]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(("method", "target"), OPERATORS_ONLY)
@pytest.mark.parametrize(
    ("texts", "headers", "status"),
    [
        ({}, [], 200),
        ({}, [("X-Forwarded-For", "10.1.2.3")], 200),
        ({}, [("X-Forwarded-For", "::ffff:192.168.0.9")], 200),
        ({}, [("X-Forwarded-For", "fd00::1")], 200),
        ({}, STRANGER, 403),
        ({}, [("X-Forwarded-For", "10.1.2.3, 203.0.113.9")], 403),
        ({}, [("X-Forwarded-For", "2001:db8::1")], 403),
        ({}, [*STRANGER, TOKEN], 403),
        ({}, [*STRANGER, ("Authorization", "Bearer ")], 403),
        ({}, [*STRANGER, ("Authorization", "Bearer None")], 403),
        ({"TRUSTED_PROXIES": ""}, STRANGER, 200),
        ({"ADMIN_ALLOW": ""}, [], 403),
        ({"ADMIN_ALLOW": "", "ADMIN_TOKEN": "t0ken/=+"}, [TOKEN], 200),
        ({"ADMIN_ALLOW": "203.0.113.0/24"}, STRANGER, 200),
        ({"ADMIN_ALLOW": "203.0.113.0/24"}, [], 403),
        ({"ADMIN_TOKEN": "t0ken/=+"}, STRANGER, 403),
        ({"ADMIN_TOKEN": "t0ken/=+"}, [*STRANGER, TOKEN], 200),
        ({"ADMIN_TOKEN": "t0ken/=+"}, [*STRANGER, ("Authorization", "bearer t0ken/=+")], 200),
        ({"ADMIN_TOKEN": "t0ken/=+"}, [*STRANGER, ("Authorization", "Bearer t0ken/=")], 403),
        ({"ADMIN_TOKEN": "t0ken/=+"}, [*STRANGER, ("Authorization", "Bearer t0ken/=++")], 403),
        ({"ADMIN_TOKEN": "t0ken/=+"}, [*STRANGER, ("Authorization", "Basic t0ken/=+")], 403),
        ({"ADMIN_TOKEN": "t0ken/=+"}, [*STRANGER, ("Authorization", "t0ken/=+")], 403),
        ({"ADMIN_TOKEN": "t0ken/=+"}, [*STRANGER, TOKEN, ("Authorization", "Bearer x")], 403),
    ],
)
@pytest_twisted.ensureDeferred
async def test_operators_are_known_by_address_or_token(
    stand: Stand,
    texts: dict[str, str],
    headers: list[tuple[str, str]],
    status: int,
    method: str,
    target: str,
) -> None:
    await stand.start(**texts)
    await stand.ask(request())
    answer = await stand.ask(ask_for(method, target, *headers), method.encode())
    assert answer.status == status
    if status == 403 and method != "HEAD":
        assert error_of(answer)["code"] == "admin_forbidden"
        assert b"t0ken" not in answer.body
    assert stand.daemon is not None
    kept = stand.daemon.system.relay.store
    assert kept is not None
    assert len(kept) == (0 if (method, status) == ("DELETE", 200) else 1)


# Stopping.


async def settled(stand: Stand, count: int) -> list[Wire]:
    """*count* connections that the daemon knows of."""
    wires = [await stand.connect() for _ in range(count)]
    for wire in wires:
        wire.send(request("/health"))
        assert (await wire.answer()).status == 200
    return wires


@pytest_twisted.ensureDeferred
async def test_what_is_in_flight_finishes_and_nothing_new_begins(stand: Stand) -> None:
    await stand.start()
    pause = Pause()
    stream = [head(200, [(b"Transfer-Encoding", b"chunked")]), chunk(b"one"), pause]
    stand.upstream.script("/v1/stream", [*stream, chunk(b"two"), chunk(b"")])
    streaming, idle, *asking = await settled(stand, 7)
    port = stand.port
    streaming.send(request("/v1/stream"))
    await streaming.until(lambda: b"one" in streaming.came)
    asked = [
        (wire, target, status)
        for wire, (target, status) in zip(
            asking,
            (
                ("/health", 200),
                ("/health/live", 200),
                ("/health/ready", 503),
                ("/v1/models", 503),
                ("/stats", 503),
            ),
            strict=True,
        )
    ]
    for wire, target, _ in asked:
        wire.send(request(target)[:-2])
    assert stand.daemon is not None
    connections = stand.daemon.door.factory.connections
    await eventually(
        stand.reactor,
        lambda: sum(c.input_state is InputState.HEAD for c in connections) == len(asked),
    )
    stopping = stand.daemon.stopService()
    await idle.until_closed()

    for wire, target, status in asked:
        wire.send(b"\r\n")
        answer = await wire.answer()
        assert (answer.status, answer.get("Connection")) == (status, b"close"), target
        if status == 503:
            assert error_of(answer)["code"] == "draining"
        await wire.until_closed()
    with pytest.raises(error.ConnectionRefusedError):
        await _connect_to(stand, port)
    assert not stopping.called
    assert not streaming.closed

    pause.release()
    answer = await streaming.answer()
    assert (answer.status, answer.body, answer.cut) == (200, b"onetwo", False)
    await stopping
    await streaming.until_closed()
    assert [one.target for one in stand.upstream.requests] == [b"/v1/stream"]


@pytest_twisted.ensureDeferred
async def test_what_was_sent_before_the_end_is_served(stand: Stand) -> None:
    await stand.start()
    used, fresh, silent = *await settled(stand, 1), await stand.connect(), await stand.connect()
    assert stand.daemon is not None
    connections = stand.daemon.door.factory.connections
    await eventually(stand.reactor, lambda: len(connections) == 3)
    used.transport.socket.send(request("/v1/models"))  # in the daemon's kernel, when it stops
    stopping = stand.daemon.stopService()
    assert (await used.answer()).status == 200
    await eventually(stand.reactor, lambda: not stand.daemon.system.stats.ready)
    fresh.send(request("/v1/models/gpt-4o"))
    answer = await fresh.answer()
    assert (answer.status, answer.get("Connection")) == (200, b"close")
    await stopping
    for wire in (used, fresh, silent):
        await wire.until_closed()


@pytest_twisted.ensureDeferred
async def test_the_last_answer_of_a_connection_says_so(stand: Stand) -> None:
    await stand.start()
    pause = Pause()
    stand.upstream.script("/v1/slow", [pause, response(b"{}")])
    (wire,) = await settled(stand, 1)
    wire.send(request("/v1/slow"))
    await stand.upstream.wait_for(lambda one: one.paused)
    assert stand.daemon is not None
    stopping = stand.daemon.stopService()
    await eventually(stand.reactor, lambda: not stand.daemon.system.stats.ready)
    pause.release()
    answer = await wire.answer()
    assert (answer.status, answer.get("Connection")) == (200, b"close")
    await wire.until_closed()
    await stopping


async def _connect_to(stand: Stand, port: int) -> None:
    endpoint = TCP4ClientEndpoint(stand.reactor, "127.0.0.1", port)
    wire = await connectProtocol(endpoint, Wire(stand.reactor))
    wire.abort()
    await wire.until_closed()


@pytest.mark.parametrize("timeout", ["0", "100ms"])
@pytest_twisted.ensureDeferred
async def test_a_stream_that_does_not_end_in_time_is_broken_off(stand: Stand, timeout: str) -> None:
    await stand.start(DRAIN_TIMEOUT=timeout)
    stream = [head(200, [(b"Transfer-Encoding", b"chunked")]), chunk(b"one"), Pause()]
    stand.upstream.script("/v1/stream", stream)
    wire = await stand.connect()
    wire.send(request("/v1/stream"))
    await wire.until(lambda: b"one" in wire.came)
    assert stand.daemon is not None
    began = time.monotonic()
    await stand.daemon.stopService()
    assert time.monotonic() - began < 3
    answer = await wire.answer()
    assert (answer.body, answer.cut) == (b"one", True)
    await stand.upstream.wait_for(lambda one: one.lost)
    await stand.upstream.wait_closed()
    assert (await stand.logged())[0]["status"] == 200


@pytest_twisted.ensureDeferred
async def test_an_upload_in_flight_finishes_too(stand: Stand) -> None:
    await stand.start()
    (wire,) = await settled(stand, 1)
    wire.send(request("/v1/files", "POST", [("Content-Length", "10")]) + b"01234")
    await stand.upstream.wait_for(lambda one: one.body_length == 5)
    assert stand.daemon is not None
    stopping = stand.daemon.stopService()
    wire.send(b"56789")
    answer = await wire.answer()
    assert (answer.status, json.loads(answer.body)["bytes"]) == (200, 10)
    await stopping
    await wire.until_closed()


@pytest_twisted.ensureDeferred
async def test_stopping_with_nothing_to_do_is_done_at_once(stand: Stand) -> None:
    await stand.start()
    idle, kept = await settled(stand, 2)
    kept.send(request())
    assert (await kept.answer()).status == 200  # an idle connection to upstream now, too
    assert stand.daemon is not None
    began = time.monotonic()
    await stand.daemon.stopService()
    assert time.monotonic() - began < 2
    await idle.until_closed()
    await kept.until_closed()
    await stand.upstream.wait_closed()


@pytest_twisted.ensureDeferred
async def test_a_request_whose_head_is_half_here_does_not_hold_up_the_end(stand: Stand) -> None:
    await stand.start()
    (wire,) = await settled(stand, 1)
    wire.send(request("/v1/models")[:20])
    assert stand.daemon is not None
    connections = stand.daemon.door.factory.connections
    await eventually(
        stand.reactor, lambda: any(c.input_state is InputState.HEAD for c in connections)
    )
    began = time.monotonic()
    await stand.daemon.stopService()
    assert time.monotonic() - began < 3
    await wire.until_closed()


@pytest_twisted.ensureDeferred
async def test_upstream_never_hears_of_what_is_pipelined_behind_the_end(stand: Stand) -> None:
    await stand.start()
    pause = Pause()
    stand.upstream.script("/v1/first", [pause, response(b"{}")])
    (wire,) = await settled(stand, 1)
    wire.send(request("/v1/first") + request("/v1/second"))
    await stand.upstream.wait_for(lambda one: one.paused)
    assert stand.daemon is not None
    stopping = stand.daemon.stopService()
    pause.release()
    assert (await wire.answer()).status == 200
    refused = await wire.answer()
    assert (refused.status, error_of(refused)["code"]) == (503, "draining")
    await stopping
    assert len(stand.upstream.requests) == 1
