"""The official client of OpenAI, driven through the daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import openai
import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.support.harness import ProxyHarness

T = TypeVar("T")

MESSAGES: Any = [{"role": "user", "content": "What is a relay?"}]
CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": MESSAGES}


@pytest.fixture
def client_of() -> Iterator[Callable[..., openai.OpenAI]]:
    """Makes clients of a stand that retry nothing unless told; closed with the test."""
    made: list[openai.OpenAI] = []

    def make(harness: ProxyHarness, key: str = "sk-good", retries: int = 0) -> openai.OpenAI:
        client = openai.OpenAI(
            api_key=key,
            base_url=f"http://127.0.0.1:{harness.port}/v1",
            http_client=openai.DefaultHttpxClient(trust_env=False, timeout=20),
            max_retries=retries,
        )
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


def cached(raw: Any) -> str:
    """What an answer of ``with_raw_response`` says about the cache."""
    return str(raw.headers["x-cache"])


@pytest_twisted.ensureDeferred
async def test_models_are_listed_and_then_remembered(
    harness: ProxyHarness, client_of: Callable[..., openai.OpenAI]
) -> None:
    await harness.start()
    client = client_of(harness)
    first = await deferToThread(client.models.with_raw_response.list)
    second = await deferToThread(client.models.with_raw_response.list)
    assert (cached(first), cached(second)) == ("MISS", "HIT")
    assert [model.id for model in first.parse().data] == [model.id for model in second.parse().data]
    one = await deferToThread(client.models.retrieve, "gpt-4o")
    assert one.owned_by == "openai"
    assert [request.line for request in harness.upstream.requests] == [
        "GET /v1/models",
        "GET /v1/models/gpt-4o",
    ]


@pytest_twisted.ensureDeferred
async def test_a_completion_is_remembered_whole(
    harness: ProxyHarness, client_of: Callable[..., openai.OpenAI]
) -> None:
    await harness.start()
    harness.upstream.api.gzip = True
    create = client_of(harness).chat.completions.with_raw_response.create
    first = await deferToThread(lambda: create(**CHAT))
    second = await deferToThread(lambda: create(**CHAT))
    assert (cached(first), cached(second)) == ("MISS", "HIT")
    assert first.headers["content-encoding"] == second.headers["content-encoding"] == "gzip"
    assert first.headers["x-request-id"] == second.headers["x-request-id"]
    assert first.parse().choices[0].message.content
    assert first.parse().model_dump() == second.parse().model_dump()
    other = await deferToThread(lambda: create(**CHAT, temperature=1))
    assert cached(other) == "MISS"
    assert len(harness.upstream.requests) == 2


def read(client: openai.OpenAI) -> tuple[str, str, list[dict[str, Any]]]:
    """A streamed completion: what the cache did, the type, and every event."""
    create = client.chat.completions.with_raw_response.create
    raw = create(**CHAT, stream=True, stream_options={"include_usage": True})
    return cached(raw), raw.headers["content-type"], [event.model_dump() for event in raw.parse()]


@pytest_twisted.ensureDeferred
async def test_a_stream_is_remembered_event_for_event(
    harness: ProxyHarness, client_of: Callable[..., openai.OpenAI]
) -> None:
    await harness.start()
    harness.upstream.api.interval = 0.001
    client = client_of(harness)
    first = await deferToThread(read, client)
    second = await deferToThread(read, client)
    assert (first[0], second[0]) == ("MISS", "HIT")
    assert first[1:] == second[1:]
    events = first[2]
    text = "".join(e["choices"][0]["delta"]["content"] or "" for e in events if e["choices"])
    assert len(text.split()) == harness.upstream.api.frames
    assert events[-1]["usage"]["total_tokens"] > 0
    assert len(harness.upstream.requests) == 1


@pytest_twisted.ensureDeferred
async def test_a_stream_that_the_client_closes_early_ends_upstream(
    harness: ProxyHarness, client_of: Callable[..., openai.OpenAI]
) -> None:
    await harness.start()
    harness.upstream.api.interval = 1.0
    client = client_of(harness)

    def glance() -> str:
        with client.chat.completions.create(**CHAT, stream=True) as stream:
            return next(iter(stream)).id

    assert (await deferToThread(glance)).startswith("chatcmpl-")
    await harness.upstream.wait_for(lambda one: one.lost, timeout=1.0)


@pytest_twisted.ensureDeferred
async def test_embeddings_are_remembered_by_their_input(
    harness: ProxyHarness, client_of: Callable[..., openai.OpenAI]
) -> None:
    await harness.start()
    create = client_of(harness).embeddings.with_raw_response.create

    def embed(*words: str) -> Any:
        return create(model="text-embedding-3-small", input=list(words))

    first = await deferToThread(embed, "one", "two")
    second = await deferToThread(embed, "one", "two")
    other = await deferToThread(embed, "one")
    assert [cached(raw) for raw in (first, second, other)] == ["MISS", "HIT", "MISS"]
    vectors = [each.embedding for each in first.parse().data]
    assert vectors == [each.embedding for each in second.parse().data]
    assert [len(vector) for vector in vectors] == [16, 16]


@pytest_twisted.ensureDeferred
async def test_a_file_is_uploaded_listed_and_deleted(
    harness: ProxyHarness, client_of: Callable[..., openai.OpenAI]
) -> None:
    await harness.start()
    files = client_of(harness).files
    content = b'{"n": 1}\n' * 100_000
    assert (await deferToThread(files.list)).data == []
    made = await deferToThread(lambda: files.create(file=("lines.jsonl", content), purpose="batch"))
    assert made.filename == "lines.jsonl"
    assert made.bytes == harness.upstream.requests[1].body_length > len(content)
    assert [each.id for each in (await deferToThread(files.list)).data] == [made.id]
    assert (await deferToThread(files.retrieve, made.id)).id == made.id
    assert (await deferToThread(files.delete, made.id)).deleted
    assert (await deferToThread(files.list)).data == []
    with pytest.raises(openai.NotFoundError):
        await deferToThread(files.retrieve, made.id)


@pytest_twisted.ensureDeferred
async def test_a_wrong_key_gets_nothing_of_a_right_one(
    harness: ProxyHarness, client_of: Callable[..., openai.OpenAI]
) -> None:
    await harness.start()
    await deferToThread(client_of(harness).models.list)
    wrong = client_of(harness, "sk-wrong")
    for expected in ("MISS", "HIT"):
        with pytest.raises(openai.AuthenticationError) as caught:
            await deferToThread(wrong.models.list)
        assert caught.value.code == "invalid_api_key"
        assert caught.value.response.headers["x-cache"] == expected


@pytest_twisted.ensureDeferred
async def test_a_client_over_its_rate_gets_the_error_it_knows(
    harness: ProxyHarness, client_of: Callable[..., openai.OpenAI]
) -> None:
    await harness.start(RATE_LIMIT="1")
    client = client_of(harness)
    await deferToThread(client.models.list)
    with pytest.raises(openai.RateLimitError) as caught:
        await deferToThread(client.models.list)
    response = caught.value.response
    assert response.json()["code"] == "RATE_LIMIT_EXCEEDED"
    assert 0 < int(response.headers["retry-after-ms"]) <= 60_000


@pytest_twisted.ensureDeferred
async def test_a_client_that_retries_comes_back_when_it_was_told_to(
    harness: ProxyHarness, client_of: Callable[..., openai.OpenAI]
) -> None:
    await harness.start(RATE_LIMIT="240")  # a token each quarter of a second
    assert harness.daemon is not None
    admission = harness.daemon.admission
    while admission.take_token("127.0.0.1") == 0:
        pass
    client = client_of(harness, retries=2)
    raw = await deferToThread(client.models.with_raw_response.list)
    assert raw.retries_taken == 1
    assert [event["status"] for event in await harness.logged(2)] == [429, 200]
