"""Writes and clearings drop responses; a snapshot restores them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytest_twisted

from tests.integration.cached_requests import (
    CHAT,
    JSON,
    MINE,
    QUESTION,
    THEIRS,
    ask_twice,
    start_numbered,
    store_of,
    x_cache,
)
from tests.support.answers import head, response
from tests.support.harness import ProxyHarness, post, request
from tests.support.steps import Pause


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH"])
@pytest_twisted.ensureDeferred
async def test_write_drops_all_gets_of_its_credential_but_models(
    harness: ProxyHarness, method: str
) -> None:
    await start_numbered(harness)
    dropped = ["/v1/files/x", "/v1/files?limit=2", "/v1/files/x/content", "/v1/batches/y"]
    kept = ["/v1/models", "/v1/models/gpt-4o"]
    for key in (MINE, THEIRS):
        for target in dropped + kept:
            await harness.ask(request(target, key=key))
    await harness.ask(request(CHAT, "POST", JSON, QUESTION, key=MINE))
    await harness.ask(request("/v1/files/x", method, key=MINE))
    for target in dropped:
        mine, theirs = request(target, key=MINE), request(target, key=THEIRS)
        assert x_cache(*await ask_twice(harness, mine, theirs)) == [b"MISS", b"HIT"], target
    for target in kept:
        assert x_cache(await harness.ask(request(target, key=MINE))) == [b"HIT"], target
    assert x_cache(await harness.ask(request(CHAT, "POST", JSON, QUESTION, key=MINE))) == [b"HIT"]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("DELETE", "/v1/files/x", 404),
        ("DELETE", "/v1/files/x", 500),
        ("POST", "/v1/files", 401),
        ("POST", CHAT, 200),
        ("HEAD", "/v1/files", 200),
    ],
)
@pytest_twisted.ensureDeferred
async def test_failed_write_or_computation_drops_nothing(
    harness: ProxyHarness, method: str, target: str, status: int
) -> None:
    await start_numbered(harness)
    answer = response(b"", status) if method == "HEAD" else response(b"{}", status)
    harness.upstream.script(f"{method} {target}", answer)
    await harness.ask(request("/v1/files"))
    assert (await harness.ask(request(target, method), method.encode())).status == status
    assert x_cache(await harness.ask(request("/v1/files"))) == [b"HIT"]


@pytest.mark.parametrize(
    ("method", "target"), [("DELETE", "/v1/files/x"), ("DELETE", "/cache")], ids=["write", "clear"]
)
@pytest.mark.parametrize("streaming", [False, True], ids=["before the head", "inside the body"])
@pytest_twisted.ensureDeferred
async def test_response_after_write_or_clearing_is_not_stored(
    harness: ProxyHarness, method: str, target: str, streaming: bool
) -> None:
    await start_numbered(harness)
    pause = Pause()
    start = [head(200, [(b"Content-Length", b"2")]), b"{"] if streaming else []
    rest = [b"}"] if streaming else [response(b"{}")]
    harness.upstream.script("GET /v1/files", [*start, pause, *rest], times=1)
    wire = await harness.connect()
    wire.send(request("/v1/files"))
    await harness.upstream.wait_for(lambda one: one.paused)
    if streaming:
        await wire.until(lambda: wire.received.endswith(b"{"))
    assert (await harness.ask(request(target, method))).status == 200
    pause.release()
    assert (await wire.answer()).body == b"{}"
    assert len(store_of(harness)) == store_of(harness).reserved == 0
    assert x_cache(*await ask_twice(harness, request("/v1/files"))) == [b"MISS", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_write_of_another_credential_does_not_prevent_storing(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    pause = Pause()
    harness.upstream.script("GET /v1/files", [pause, response(b"{}")], times=1)
    wire = await harness.connect()
    wire.send(request("/v1/files", key=MINE))
    await harness.upstream.wait_for(lambda one: one.paused)
    await harness.ask(request("/v1/files/x", "DELETE", key=THEIRS))
    pause.release()
    await wire.answer()
    assert x_cache(await harness.ask(request("/v1/files", key=MINE))) == [b"HIT"]


@pytest_twisted.ensureDeferred
async def test_clearing_drops_all_responses_at_once(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    asked = [request("/v1/models"), request("/v1/files"), post(CHAT, QUESTION)]
    for data in asked:
        await harness.ask(data)
    assert len(store_of(harness)) == 3
    cleared = await harness.ask(request("/cache", "DELETE"))
    assert json.loads(cleared.body) == {"message": "Cache cleared successfully"}
    assert (len(store_of(harness)), store_of(harness).bytes) == (0, 0)
    for data in asked:
        assert x_cache(*await ask_twice(harness, data)) == [b"MISS", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_clearing_a_path_drops_it_for_all_credentials(
    harness: ProxyHarness,
) -> None:
    await start_numbered(harness)
    dropped = [request("/v1/models", key=MINE), request("/v1/models?a", key=THEIRS)]
    kept = [request("/v1/models/x"), request("/v1/files"), post(CHAT, QUESTION)]
    for data in dropped + kept:
        await harness.ask(data)
    cleared = await harness.ask(request("/cache?path=/v1/models", "DELETE"))
    assert (cleared.status, len(store_of(harness))) == (200, 3)
    assert json.loads(cleared.body) == {"message": "Cache cleared successfully"}
    for data in kept:
        assert x_cache(await harness.ask(data)) == [b"HIT"]
    for data in dropped:
        assert x_cache(await harness.ask(data)) == [b"MISS"]
    await harness.ask(request("/cache?path=%2Fv1%2Fchat%2Fcompletions", "DELETE"))
    assert x_cache(await harness.ask(post(CHAT, QUESTION))) == [b"MISS"]


@pytest.mark.parametrize("path", ["/v1/files/a%20b", "/v1/files/a+b", "/v1/files/a%2Bb"])
@pytest_twisted.ensureDeferred
async def test_path_to_clear_is_decoded(harness: ProxyHarness, path: str) -> None:
    await start_numbered(harness)
    for encoded in (path, path.replace("%", "%25").replace("/", "%2F")):
        await harness.ask(request(path))
        assert (await harness.ask(request(f"/cache?path={encoded}", "DELETE"))).status == 200
        assert len(store_of(harness)) == 0


@pytest.mark.parametrize(
    "query",
    [
        "path=/v1/models?limit=2",
        "path=/v1/models%3Flimit=2",
        "path=",
        "path=models",
        "paht=/v1/models",
        "path=/v1/a&path=/v1/b",
        "path=/v1/a&x=1",
    ],
)
@pytest_twisted.ensureDeferred
async def test_invalid_path_to_clear_is_refused(harness: ProxyHarness, query: str) -> None:
    await start_numbered(harness)
    await harness.ask(request())
    refused = await harness.ask(request(f"/cache?{query}", "DELETE"))
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (400, "bad_request")
    assert len(store_of(harness)) == 1


@pytest_twisted.ensureDeferred
async def test_snapshot_restores_cache_after_restart(harness: ProxyHarness, tmp_path: Path) -> None:
    kept = {"CACHE_SNAPSHOT": str(tmp_path / "cache"), "CACHE_SNAPSHOT_KEY": "sixteen-or-more!"}
    await start_numbered(harness, **kept)
    asked = [request(), post(CHAT, QUESTION)]
    first = [await harness.ask(data) for data in asked]
    assert harness.daemon is not None
    await harness.daemon.stopService()
    await harness.start(**kept)
    again = [await harness.ask(data) for data in asked]
    assert x_cache(*again) == [b"HIT", b"HIT"]
    assert [answer.body for answer in again] == [answer.body for answer in first]
    await harness.ask(request("/v1/models", "DELETE"), b"DELETE")
    assert x_cache(*[await harness.ask(data) for data in asked]) == [b"MISS", b"HIT"]
