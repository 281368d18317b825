"""Failing upstreams, for the tests of retries, circuit breakers and failover."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import succeed

from goproxyai.proxy.upstreams import Upstream
from goproxyai.upstream.breaker import MIN_REQUESTS, QUIET_SECONDS
from tests.support.answers import response
from tests.support.harness import ProxyHarness, post, request
from tests.support.serving import loopback
from tests.support.steps import Reset
from tests.support.upstream import FakeUpstream

CHAT = "/v1/chat/completions"


def error_code(answer: Any) -> str:
    return str(json.loads(answer.body)["error"]["code"])


def retry_counts(harness: ProxyHarness) -> dict[str, int]:
    assert harness.daemon is not None
    return harness.daemon.context.counters.retries


async def closed_port(harness: ProxyHarness) -> int:
    """Return a port without a listener."""
    port = await loopback(harness.reactor).listen(FakeUpstream(harness.reactor))
    number = int(port.getHost().port)
    await (port.stopListening() or succeed(None))
    return number


def open_circuit(upstream: Upstream, now: float) -> None:
    for number in range(2 * MIN_REQUESTS):
        upstream.breaker.record_failure(now, f"client {number}")
    assert not upstream.breaker.closed


async def start_with_open_circuit(harness: ProxyHarness, **texts: str) -> None:
    """Start a proxy, store a response to ``/v1/stored``, and open the circuit.

    All requests are of one client, so that the failures begin :data:`QUIET_SECONDS` after the
    stored response.
    """
    await harness.start(**texts)
    harness.upstream.script(lambda _: True, response(b"{}"))
    assert (await harness.ask(request("/v1/stored"))).status == 200
    harness.upstream.script(lambda _: True, [Reset()])
    assert harness.daemon is not None
    harness.daemon.context.upstreams.first.breaker.advance(harness.reactor.seconds())
    harness.reactor.skew += QUIET_SECONDS
    wire = await harness.connect()
    for number in range(MIN_REQUESTS + 1):
        wire.send(post(CHAT, b"%d" % number))
        answer = await wire.answer()
    assert (answer.status, error_code(answer)) == (503, "circuit_open")
    assert 1 <= int(answer.get("Retry-After") or b"") <= 5
    assert answer.get("Cache-Status") == b"goproxyai; detail=circuit-open"
