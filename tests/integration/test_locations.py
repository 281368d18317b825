"""`Location` and `Content-Location` of the upstream lead clients through the proxy."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.integration.concurrent_requests import answers_of, send_concurrently, wait_for_pauses
from tests.integration.egress_proxy import start_with_egress_proxy
from tests.support.answers import response
from tests.support.harness import ProxyHarness, request
from tests.support.steps import Pause

ELSEWHERE = b"https://files.test/v1/x"


@pytest.mark.parametrize("base", ["", "/openai"])
@pytest_twisted.ensureDeferred
async def test_redirect_to_the_upstream_leads_through_the_proxy(
    harness: ProxyHarness, base: str
) -> None:
    port = await harness.upstream.listen(harness.loopback())
    await harness.start(f"http://127.0.0.1:{port}{base}")
    place = b"http://127.0.0.1:%d%b/v1/files/1" % (port, base.encode())
    moved = response(b"{}", 307, [(b"Location", place)])
    harness.upstream.script(f"{base}/v1/moved", moved)
    answer = await harness.ask(request("/v1/moved"))
    assert (answer.status, answer.all("Location")) == (307, [b"/v1/files/1"])
    await harness.ask(request((answer.get("Location") or b"").decode()))
    assert harness.upstream.requests[-1].path == f"{base}/v1/files/1"


@pytest_twisted.ensureDeferred
async def test_location_of_another_origin_is_kept(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script("/v1/a", response(b"{}", 302, [(b"Location", ELSEWHERE)]))
    assert (await harness.ask(request("/v1/a"))).all("Location") == [ELSEWHERE]


@pytest_twisted.ensureDeferred
async def test_stored_and_shared_responses_have_the_local_location(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    place = b"http://127.0.0.1:%d/v1/models" % harness.upstream_port
    fields = [(b"Content-Location", place), (b"Link", b"<%b>" % place)]
    harness.upstream.script("/v1/models", [gate, response(b"{}", headers=fields)])
    clients = await send_concurrently(harness, [request()] * 2)
    await wait_for_pauses(harness)
    gate.release()
    for answer in [*await answers_of(clients), await harness.ask(request())]:
        assert answer.all("Content-Location") == [b"/v1/models"]
        assert answer.all("Link") == [b"<%b>" % place]
    assert len(harness.upstream.requests) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_location_behind_an_egress_proxy_leads_through_the_proxy(
    harness: ProxyHarness, scheme: str
) -> None:
    await start_with_egress_proxy(harness, upstream=f"{scheme}://api.openai.test")
    place = b"%b://api.openai.test/v1/x" % scheme.encode()
    harness.upstream.script("/v1/a", response(b"{}", 201, [(b"Location", place)]))
    assert (await harness.ask(request("/v1/a"))).all("Location") == [b"/v1/x"]
