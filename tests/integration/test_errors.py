"""Each error code over a real socket: status, code and JSON shape."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted

from goproxyai.errors import STATUS
from goproxyai.upstream.breaker import MIN_REQUESTS
from tests.support.answers import response
from tests.support.harness import Answer, ProxyHarness, SkewedReactor, eventually, post, request
from tests.support.raw_client import LOOPED_VIA
from tests.support.steps import Pause, Reset
from tests.support.websocket import HANDSHAKE

CHAT = "/v1/chat/completions"
KIB = 1024
Row = Callable[[ProxyHarness], Awaitable[Answer]]


async def bad_request(harness: ProxyHarness) -> Answer:
    await harness.start()
    return await harness.ask(b"GET /v1/models HTTP/1.1\r\n\r\n")


async def request_too_large(harness: ProxyHarness) -> Answer:
    await harness.start(MAX_BODY_SIZE="0.001")
    return await harness.ask(post(CHAT, b"x" * 2 * KIB))


async def headers_too_large(harness: ProxyHarness) -> Answer:
    await harness.start()
    return await harness.ask(request(headers=[("X-A", "a" * 65 * KIB)]))


async def target_too_long(harness: ProxyHarness) -> Answer:
    await harness.start()
    return await harness.ask(request("/v1/" + "a" * 17 * KIB))


async def admin_forbidden(harness: ProxyHarness) -> Answer:
    await harness.start(ADMIN_ALLOW="")
    return await harness.ask(request("/stats"))


async def not_found(harness: ProxyHarness) -> Answer:
    await harness.start()
    return await harness.ask(request("/v2/models"))


async def method_not_allowed(harness: ProxyHarness) -> Answer:
    await harness.start()
    answer = await harness.ask(request("/cache", "POST"))
    assert answer.get("Allow") == b"DELETE"
    return answer


async def internal_error(harness: ProxyHarness) -> Answer:
    await harness.start()
    assert harness.daemon is not None

    def defect(*_: Any) -> Any:
        raise ZeroDivisionError

    harness.daemon.context.lookup.find = defect  # type: ignore[method-assign]
    return await harness.ask(request())


async def upstream_unreachable(harness: ProxyHarness) -> Answer:
    await harness.start()
    harness.upstream.script(lambda _: True, [Reset()])
    return await harness.ask(request())


async def egress_proxy_refused(harness: ProxyHarness) -> Answer:
    await harness.listen_with_tls()
    _proxy, port = await harness.egress(credentials=("user", "word"))
    url = f"http://user:wrong@127.0.0.1:{port}"
    return await (await harness.start(upstream="https://api.openai.test", PROXY_URL=url)).ask(
        request()
    )


async def upstream_tls_failed(harness: ProxyHarness) -> Answer:
    port = await harness.listen_with_tls(harness.authority.expired())
    await harness.start(upstream=f"https://127.0.0.1:{port}")
    return await harness.ask(request())


async def upstream_protocol_error(harness: ProxyHarness) -> Answer:
    await harness.start()
    harness.upstream.script(lambda _: True, b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    return await harness.ask(request())


async def circuit_open(harness: ProxyHarness) -> Answer:
    await harness.start()
    harness.upstream.script(lambda _: True, [Reset()])
    for number in range(MIN_REQUESTS):
        await harness.ask(post(CHAT, b"%d" % number))
    return await harness.ask(request())


async def draining(harness: ProxyHarness) -> Answer:
    await harness.start()
    gate = Pause()
    harness.upstream.script(lambda _: True, [gate, response(b"{}")])
    wire = await harness.connect()
    wire.send(request() + request("/v1/other"))
    await harness.upstream.wait_for(lambda one: one.paused)
    assert harness.daemon is not None
    daemon = harness.daemon
    stopping = daemon.stopService()
    await eventually(harness.reactor, lambda: daemon.admin.stats.draining)
    gate.release()
    assert (await wire.answer()).status == 200
    answer = await wire.answer()
    await stopping
    harness.daemon = None
    assert answer.get("Connection") == b"close"
    return answer


async def overloaded(harness: ProxyHarness) -> Answer:
    await harness.start(MAX_CONNECTIONS="1")
    harness.upstream.script(lambda _: True, [Pause()])
    wire = await harness.connect()
    wire.send(request())
    await harness.upstream.wait_for(lambda one: one.paused)
    return await harness.ask(request())


async def upstream_timeout(harness: ProxyHarness) -> Answer:
    harness.reactor = SkewedReactor(harness.reactor)
    await harness.start(REQUEST_TIMEOUT="30s")
    harness.upstream.script(lambda _: True, [Pause()])
    wire = await harness.connect()
    wire.send(request())
    await harness.upstream.wait_for(lambda one: one.paused)
    harness.advance(31.0)
    return await wire.answer()


async def only_if_cached(harness: ProxyHarness) -> Answer:
    await harness.start()
    return await harness.ask(request(headers=[("Cache-Control", "only-if-cached")]))


async def loop_detected(harness: ProxyHarness) -> Answer:
    await harness.start()
    return await harness.ask(request(headers=[("Via", LOOPED_VIA)]))


async def upgrade_refused(harness: ProxyHarness) -> Answer:
    await harness.start(UPGRADES="off")
    return await harness.ask(HANDSHAKE)


ROWS: list[Row] = [
    bad_request, request_too_large, headers_too_large, target_too_long, admin_forbidden, not_found,
    method_not_allowed, internal_error, upstream_unreachable, egress_proxy_refused,
    upstream_tls_failed, upstream_protocol_error, circuit_open, draining, overloaded,
    upstream_timeout, only_if_cached, loop_detected, upgrade_refused,
]  # fmt: skip


def name(row: Row) -> str:
    return row.__name__  # type: ignore[attr-defined,no-any-return]  # it is a function


def test_each_code_has_a_case() -> None:
    assert {name(row) for row in ROWS} == set(STATUS)


@pytest.mark.parametrize("row", ROWS, ids=name)
@pytest_twisted.ensureDeferred
async def test_error_response_has_status_code_and_shape(
    harness: ProxyHarness, failures: list[Any], row: Row
) -> None:
    answer = await row(harness)
    code = name(row)
    assert answer.status == STATUS[code]
    document = json.loads(answer.body)
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "code"}
    assert (document["error"]["type"], document["error"]["code"]) == ("proxy_error", code)
    assert len(document["error"]["message"]) > 20
    assert answer.get("Content-Type") == b"application/json"
    assert answer.get("X-Proxy") == b"goproxyai"
    assert (answer.get("Retry-After") is not None) is (code in ("circuit_open", "overloaded"))
    if code == "internal_error":
        failures.clear()


@pytest_twisted.ensureDeferred
async def test_rate_limit_response_has_its_own_shape(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    await harness.ask(request())
    answer = await harness.ask(request())
    assert answer.status == 429
    assert json.loads(answer.body) == {
        "error": "Rate limit exceeded. Please try again later.",
        "code": "RATE_LIMIT_EXCEEDED",
    }
    assert int(answer.get("Retry-After") or b"") >= 1
