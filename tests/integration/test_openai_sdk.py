"""The official OpenAI client against the daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.support.harness import ProxyHarness
from tests.support.prompt import PROMPT_SECONDS

ClientFactory = Callable[..., openai.OpenAI]

MESSAGES: Any = [{"role": "user", "content": "What is a relay?"}]
CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": MESSAGES}


@pytest.fixture
def make_client() -> Iterator[ClientFactory]:
    """Return a function that makes OpenAI clients, which are closed after the test.

    A client makes no retries by default.
    """
    clients: list[openai.OpenAI] = []

    def make(harness: ProxyHarness, key: str = "sk-good", retries: int = 0) -> openai.OpenAI:
        client = openai.OpenAI(
            api_key=key,
            base_url=f"http://127.0.0.1:{harness.port}/v1",
            http_client=openai.DefaultHttpxClient(trust_env=False, timeout=20),
            max_retries=retries,
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


def x_cache(raw: Any) -> str:
    """Return ``X-Cache`` of a response of ``with_raw_response``."""
    return str(raw.headers["x-cache"])


@pytest_twisted.ensureDeferred
async def test_model_list_is_cached(harness: ProxyHarness, make_client: ClientFactory) -> None:
    await harness.start()
    client = make_client(harness)
    first = await deferToThread(client.models.with_raw_response.list)
    second = await deferToThread(client.models.with_raw_response.list)
    assert (x_cache(first), x_cache(second)) == ("MISS", "HIT")
    assert [model.id for model in first.parse().data] == [model.id for model in second.parse().data]
    model = await deferToThread(client.models.retrieve, "gpt-4o")
    assert model.owned_by == "openai"
    assert [request.line for request in harness.upstream.requests] == [
        "GET /v1/models",
        "GET /v1/models/gpt-4o",
    ]


@pytest_twisted.ensureDeferred
async def test_completion_is_cached_unchanged(
    harness: ProxyHarness, make_client: ClientFactory
) -> None:
    await harness.start()
    harness.upstream.api.gzip = True
    create = make_client(harness).chat.completions.with_raw_response.create
    first = await deferToThread(lambda: create(**CHAT))
    second = await deferToThread(lambda: create(**CHAT))
    assert (x_cache(first), x_cache(second)) == ("MISS", "HIT")
    assert first.headers["content-encoding"] == second.headers["content-encoding"] == "gzip"
    assert first.headers["x-request-id"] == second.headers["x-request-id"]
    assert first.parse().choices[0].message.content
    assert first.parse().model_dump() == second.parse().model_dump()
    other = await deferToThread(lambda: create(**CHAT, temperature=1))
    assert x_cache(other) == "MISS"
    assert len(harness.upstream.requests) == 2


def read_stream(client: openai.OpenAI) -> tuple[str, str, list[dict[str, Any]]]:
    """Request a streamed completion; returns ``X-Cache``, ``Content-Type`` and all events."""
    create = client.chat.completions.with_raw_response.create
    raw = create(**CHAT, stream=True, stream_options={"include_usage": True})
    return x_cache(raw), raw.headers["content-type"], [event.model_dump() for event in raw.parse()]


@pytest_twisted.ensureDeferred
async def test_stream_is_cached_with_all_events(
    harness: ProxyHarness, make_client: ClientFactory
) -> None:
    await harness.start()
    harness.upstream.api.interval = 0.001
    client = make_client(harness)
    first = await deferToThread(read_stream, client)
    second = await deferToThread(read_stream, client)
    assert (first[0], second[0]) == ("MISS", "HIT")
    assert first[1:] == second[1:]
    events = first[2]
    text = "".join(
        each["choices"][0]["delta"]["content"] or "" for each in events if each["choices"]
    )
    assert len(text.split()) == harness.upstream.api.frames
    assert events[-1]["usage"]["total_tokens"] > 0
    assert len(harness.upstream.requests) == 1


@pytest_twisted.ensureDeferred
async def test_closing_stream_early_ends_upstream_request(
    harness: ProxyHarness, make_client: ClientFactory
) -> None:
    await harness.start()
    harness.upstream.api.interval = 1.0
    client = make_client(harness)

    def read_first_event() -> str:
        with client.chat.completions.create(**CHAT, stream=True) as stream:
            return next(iter(stream)).id

    assert (await deferToThread(read_first_event)).startswith("chatcmpl-")
    await harness.upstream.wait_for(lambda received: received.lost, timeout=PROMPT_SECONDS)


@pytest_twisted.ensureDeferred
async def test_embeddings_are_cached_by_input(
    harness: ProxyHarness, make_client: ClientFactory
) -> None:
    await harness.start()
    create = make_client(harness).embeddings.with_raw_response.create

    def embed(*words: str) -> Any:
        return create(model="text-embedding-3-small", input=list(words))

    first = await deferToThread(embed, "one", "two")
    second = await deferToThread(embed, "one", "two")
    other = await deferToThread(embed, "one")
    assert [x_cache(raw) for raw in (first, second, other)] == ["MISS", "HIT", "MISS"]
    vectors = [each.embedding for each in first.parse().data]
    assert vectors == [each.embedding for each in second.parse().data]
    assert [len(vector) for vector in vectors] == [16, 16]


@pytest_twisted.ensureDeferred
async def test_file_is_uploaded_listed_and_deleted(
    harness: ProxyHarness, make_client: ClientFactory
) -> None:
    await harness.start()
    files = make_client(harness).files
    content = b'{"n": 1}\n' * 100_000
    assert (await deferToThread(files.list)).data == []
    created = await deferToThread(
        lambda: files.create(file=("lines.jsonl", content), purpose="batch")
    )
    assert created.filename == "lines.jsonl"
    assert created.bytes == harness.upstream.requests[1].body_length > len(content)
    assert [each.id for each in (await deferToThread(files.list)).data] == [created.id]
    assert (await deferToThread(files.retrieve, created.id)).id == created.id
    assert (await deferToThread(files.delete, created.id)).deleted
    assert (await deferToThread(files.list)).data == []
    with pytest.raises(openai.NotFoundError):
        await deferToThread(files.retrieve, created.id)


@pytest_twisted.ensureDeferred
async def test_wrong_key_gets_no_response_of_valid_key(
    harness: ProxyHarness, make_client: ClientFactory
) -> None:
    await harness.start()
    await deferToThread(make_client(harness).models.list)
    wrong = make_client(harness, "sk-wrong")
    for expected in ("MISS", "HIT"):
        with pytest.raises(openai.AuthenticationError) as caught:
            await deferToThread(wrong.models.list)
        assert caught.value.code == "invalid_api_key"
        assert caught.value.response.headers["x-cache"] == expected


@pytest_twisted.ensureDeferred
async def test_limited_request_raises_rate_limit_error(
    harness: ProxyHarness, make_client: ClientFactory
) -> None:
    await harness.start(RATE_LIMIT="1")
    client = make_client(harness)
    await deferToThread(client.models.list)
    with pytest.raises(openai.RateLimitError) as caught:
        await deferToThread(client.models.list)
    response = caught.value.response
    assert response.json()["code"] == "RATE_LIMIT_EXCEEDED"
    assert 0 < int(response.headers["retry-after-ms"]) <= 60_000


@pytest_twisted.ensureDeferred
async def test_client_retries_after_stated_wait(
    harness: ProxyHarness, make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.start(RATE_LIMIT="240")  # a token every 250 ms
    assert harness.daemon is not None
    admission = harness.daemon.admission
    take_token = admission.take_token

    def take_all_tokens(client: str) -> float:
        """Empty the bucket when the first request arrives: it fills while the client starts."""
        monkeypatch.setattr(admission, "take_token", take_token)
        while (wait := take_token(client)) == 0:
            pass
        return wait

    monkeypatch.setattr(admission, "take_token", take_all_tokens)
    client = make_client(harness, retries=2)
    raw = await deferToThread(client.models.with_raw_response.list)
    assert raw.retries_taken == 1
    assert [event["status"] for event in await harness.logged(2)] == [429, 200]
