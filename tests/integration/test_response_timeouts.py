"""How long upstream may take to begin its response, by method and settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted

from goproxyai.proxy import upstream_request
from goproxyai.reactor.deadlines import TICK_SECONDS, Deadline
from tests.integration.admin_requests import error_of
from tests.integration.failing_upstreams import closed_port
from tests.support.answers import response
from tests.support.harness import Answer, ProxyHarness, post, request
from tests.support.serving import loopback
from tests.support.steps import Pause

ANSWER_SECONDS = 35.0


async def answer_after(harness: ProxyHarness, seconds: float, sent: bytes) -> Answer:
    """Return the response to *sent*, for which upstream takes *seconds* of the daemon's clock."""
    pause = Pause()
    for path in ("/v1/chat/completions", "/v1/files", "/v1/models"):
        harness.upstream.script(path, [pause, response(b"{}")])
    client = await harness.connect()
    client.send(sent)
    await harness.upstream.wait_for(lambda one: one.paused and one.complete)
    harness.advance(seconds)
    harness.check_deadlines()
    pause.release()
    return await client.answer()


COMPLETION = post("/v1/chat/completions", b"{}")
UPLOAD = request("/v1/files", "POST", body=b"abc")


@pytest.mark.parametrize("sent", [COMPLETION, UPLOAD], ids=["completion", "upload"])
@pytest_twisted.ensureDeferred
async def test_post_may_be_answered_after_35_seconds(
    skewed_harness: ProxyHarness, sent: bytes
) -> None:
    await skewed_harness.start()
    answer = await answer_after(skewed_harness, ANSWER_SECONDS, sent)
    assert (answer.status, json.loads(answer.body)) == (200, {})


@pytest_twisted.ensureDeferred
async def test_post_times_out_after_10_minutes(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start()
    answer = await answer_after(skewed_harness, 600.0 + TICK_SECONDS, COMPLETION)
    assert (answer.status, error_of(answer)["code"]) == (504, "upstream_timeout")
    assert "GENERATION_TIMEOUT" in error_of(answer)["message"]
    assert "CONNECT_TIMEOUT" not in error_of(answer)["message"]


@pytest_twisted.ensureDeferred
async def test_get_times_out_after_30_seconds(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start()
    answer = await answer_after(skewed_harness, 30.0 + TICK_SECONDS, request("/v1/models"))
    assert (answer.status, error_of(answer)["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize("sent", [COMPLETION, request("/v1/models")], ids=["POST", "GET"])
@pytest.mark.parametrize(("timeout", "status"), [("20s", 504), ("60s", 200)])
@pytest_twisted.ensureDeferred
async def test_request_timeout_holds_for_every_method_where_only_it_is_set(
    skewed_harness: ProxyHarness, sent: bytes, timeout: str, status: int
) -> None:
    await skewed_harness.start(REQUEST_TIMEOUT=timeout)
    assert (await answer_after(skewed_harness, ANSWER_SECONDS, sent)).status == status


@pytest.mark.parametrize(("sent", "seconds"), [(COMPLETION, 600.0), (request(), 30.0)])
@pytest_twisted.ensureDeferred
async def test_all_attempts_of_a_request_have_the_time_of_its_method(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, sent: bytes, seconds: float
) -> None:
    deadlines: list[float] = []

    class RecordingDeadline(Deadline):
        def __init__(self, clock: Any, seconds: float, expired: Callable[[], object]) -> None:
            deadlines.append(seconds)
            super().__init__(clock, seconds, expired)

    monkeypatch.setattr(upstream_request, "Deadline", RecordingDeadline)
    harness.upstream_port = await harness.upstream.listen(loopback(harness.reactor))
    closed, port = await closed_port(harness), harness.upstream_port
    await harness.start(f"http://127.0.0.1:{closed} http://127.0.0.1:{port}")
    assert (await harness.ask(sent)).status == 200
    assert deadlines == [pytest.approx(seconds, abs=5.0)]
