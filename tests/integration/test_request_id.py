"""Request IDs: accepted from clients, generated otherwise, in every answer and event."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.support.answers import response
from tests.support.harness import ProxyHarness, post, request


@pytest.mark.parametrize("upstream_names", [False, True], ids=["proxy", "proxy and upstream"])
@pytest_twisted.ensureDeferred
async def test_request_id_is_in_the_answer_and_the_log(
    harness: ProxyHarness, upstream_names: bool
) -> None:
    await harness.start()
    fields = [(b"X-Request-ID", b"req_upstream")] if upstream_names else []
    harness.upstream.script("/v1/models", response(b"{}", headers=fields))
    field = "X-Proxy-Request-Id" if upstream_names else "X-Request-Id"
    miss = await harness.ask(request(headers=[("X-Request-Id", "mine-1")]))
    hit = await harness.ask(request(headers=[("X-Request-Id", "mine-2")]))
    generated = await harness.ask(request())
    assert (miss.get(field), hit.get(field)) == (b"mine-1", b"mine-2")
    assert generated.get(field) not in (None, b"mine-1", b"mine-2")
    for answer in (miss, hit, generated):
        assert answer.all("X-Request-Id") == (
            [b"req_upstream"] if upstream_names else answer.all(field)
        )
        assert len(answer.all(field)) == 1
    names = [one["request_id"] for one in await harness.logged(3)]
    assert names == ["mine-1", "mine-2", (generated.get(field) or b"").decode()]
    assert dict(harness.upstream.requests[0].headers)[b"X-Request-Id"] == b"mine-1"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "x" * 129,
        "a b",
        "a\tb",
        "\xe9",
        "sk-proj-0123456789abcdefghij",
        "Bearer,sk-secret0000000",
        'a"b',
        "a\\b",
    ],
)
@pytest_twisted.ensureDeferred
async def test_invalid_request_id_is_replaced(harness: ProxyHarness, given: str) -> None:
    await harness.start()
    answer = await harness.ask(request("/nowhere", headers=[("X-Request-Id", given)]))
    request_id = (answer.get("X-Request-Id") or b"").decode()
    assert request_id
    assert request_id != given
    assert (await harness.logged())[0]["request_id"] == request_id


@pytest_twisted.ensureDeferred
async def test_repeated_request_id_is_replaced(harness: ProxyHarness) -> None:
    await harness.start()
    asked = request(headers=[("X-Request-Id", "one"), ("X-Request-Id", "two")])
    answer = await harness.ask(asked)
    assert (await harness.logged())[0]["request_id"] not in ("one", "two", "one, two")
    assert answer.status == 200


@pytest_twisted.ensureDeferred
async def test_request_ids_are_unique(harness: ProxyHarness) -> None:
    await harness.start()
    request_ids = []
    wire = await harness.connect()
    for _ in range(600):
        wire.send(request("/v1/models"))
        answer = await wire.answer()
        request_ids.append(answer.get("X-Proxy-Request-Id") or answer.get("X-Request-Id"))
    assert len(set(request_ids)) == 600


@pytest_twisted.ensureDeferred
async def test_hop_by_hop_request_id_of_upstream_is_dropped(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    upstream_fields = [
        (b"Connection", b"x-request-id"),
        (b"x-request-id", b"a"),
        (b"X-Proxy-Request-Id", b"b"),
    ]
    harness.upstream.script(lambda _: True, response(b"{}", headers=upstream_fields))
    for asked in (
        request(),
        request(),
        post("/v1/chat/completions", b'{"messages":[],"seed":1}'),
        post("/v1/files", b"{}"),
    ):
        answer = await harness.ask(asked)
        assert len(answer.all("X-Request-Id")) == 1
        assert answer.all("X-Request-Id") != [b"a"]
        assert answer.all("X-Proxy-Request-Id") == []


@pytest_twisted.ensureDeferred
async def test_refusal_of_a_large_body_has_the_request_id(harness: ProxyHarness) -> None:
    await harness.start()
    asked = request("/health", headers=[("X-Request-Id", "mine")], body=b"x" * 70_000)
    answer = await harness.ask(asked)
    assert (answer.status, answer.get("X-Request-Id")) == (413, b"mine")


@pytest.mark.parametrize("target", ["/health", "/stats", "/nowhere", "/v1%2fx"])
@pytest_twisted.ensureDeferred
async def test_own_pages_and_errors_have_the_request_id(harness: ProxyHarness, target: str) -> None:
    await harness.start()
    answer = await harness.ask(request(target, headers=[("X-Request-Id", "mine")]))
    assert answer.all("X-Request-Id") == [b"mine"]
