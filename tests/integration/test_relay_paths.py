"""Path prefixes that are relayed: ``RELAY_PATHS``."""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from goproxyai.admin.routes import admin_routes
from goproxyai.config.parsers import OWN_SEGMENTS
from tests.integration.admin_requests import error_of
from tests.support.answers import response
from tests.support.harness import ProxyHarness, post, request

DEPLOYMENT = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"


@pytest_twisted.ensureDeferred
async def test_paths_under_each_prefix_are_relayed_byte_for_byte(harness: ProxyHarness) -> None:
    await harness.start(RELAY_PATHS="/v1/ /openai/")
    harness.upstream.script(lambda _: True, response(b"{}"))
    for target in ("/v1/models", DEPLOYMENT, "/openai/"):
        answer = await harness.ask(post(target, b"{}"))
        assert (answer.status, answer.get("X-Cache")) == (200, b"MISS")
    assert [one.target.decode() for one in harness.upstream.requests] == [
        "/v1/models", DEPLOYMENT, "/openai/",
    ]  # fmt: skip


@pytest_twisted.ensureDeferred
async def test_gets_under_each_prefix_are_cached_and_cleared(harness: ProxyHarness) -> None:
    await harness.start(RELAY_PATHS="/v1/ /openai/")
    harness.upstream.script(lambda _: True, response(b"{}"))

    async def label() -> bytes | None:
        return (await harness.ask(request("/openai/models"))).get("X-Cache")

    assert [await label(), await label()] == [b"MISS", b"HIT"]
    cleared = await harness.ask(request("/cache?path=/openai/models", "DELETE"))
    assert cleared.status == 200
    assert await label() == b"MISS"


@pytest_twisted.ensureDeferred
async def test_list_replaces_the_default(harness: ProxyHarness) -> None:
    await harness.start(RELAY_PATHS="/openai/")
    answer = await harness.ask(request("/v1/models"))
    assert (answer.status, answer.get("X-Cache")) == (404, None)
    assert error_of(answer)["message"].endswith("The API is under /openai/.")
    answer = await harness.ask(request("/chat/completions"))
    assert "must end in /v1" not in error_of(answer)["message"]
    index = await harness.ask(request("/"))
    assert "/v1/" not in json.loads(index.body)["endpoints"]
    assert "/openai/" in json.loads(index.body)["endpoints"]
    assert len(harness.upstream.requests) == 0


@pytest.mark.parametrize("target", ["/openaix", "/openai", "//openai/x", "/openai%2fx", "/x/v1/y"])
@pytest_twisted.ensureDeferred
async def test_other_path_is_not_relayed(harness: ProxyHarness, target: str) -> None:
    await harness.start(RELAY_PATHS="/v1/ /openai/")
    answer = await harness.ask(request(target))
    assert (answer.status, error_of(answer)["code"]) == (404, "not_found")
    assert len(harness.upstream.requests) == 0


@pytest_twisted.ensureDeferred
async def test_method_that_is_not_relayed_is_refused_under_each_prefix(
    harness: ProxyHarness,
) -> None:
    await harness.start(RELAY_PATHS="/v1/ /openai/")
    answer = await harness.ask(request("/openai/models", "TRACE"))
    assert (answer.status, answer.get("X-Cache")) == (405, b"MISS")


def test_no_prefix_can_hide_an_endpoint() -> None:
    segments = {path.split(b"/")[1].decode() for path in admin_routes()} - {""}
    assert segments == OWN_SEGMENTS
