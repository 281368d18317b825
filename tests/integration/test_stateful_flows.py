"""The official client sees the same states with the cache as without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.integration.cached_requests import any_request
from tests.support.harness import ProxyHarness
from tests.support.stateful_api import STATUSES, StatefulAPI

JSON = Any
CHAT: JSON = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


class Session:
    """A client's view of the API: what each request returned, in order.

    The state only changes by a write of the client and by :meth:`pass_time`.
    """

    def __init__(self, client: openai.OpenAI, api: StatefulAPI) -> None:
        self._client = client
        self._api = api
        self.seen: list[JSON] = []

    def look(self, *paths: str) -> None:
        """GET each path twice, so that the second may be a hit."""
        for path in (*paths, *paths):
            try:
                kind: type[Any] = str if path.endswith("/content") else object
                found: JSON = self._client.get(path, cast_to=kind)
            except openai.NotFoundError:
                found = "not found"
            self.seen.append((path, found))

    def post(self, path: str, **document: JSON) -> str:
        """POST a document; return the ID in the response."""
        made: JSON = self._client.post(path, body=document, cast_to=object)
        self.seen.append((path, made))
        return str(made["id"])

    def delete(self, path: str) -> None:
        self._client.delete(path, cast_to=object)

    def pass_time(self) -> None:
        self._api.advance()

    def watch(self, collection: str, *paths: str) -> None:
        """Look at *paths* from the first to the last status of an operation, and once more."""
        for _ in (*STATUSES[collection], "the end"):
            self.look(*paths)
            self.pass_time()


def run_of_a_thread(session: Session) -> None:
    thread = "/threads/" + session.post("/threads")
    session.post(f"{thread}/messages", role="user", content="hi")
    session.look(thread, f"{thread}/messages", f"{thread}/runs")
    run = f"{thread}/runs/" + session.post(f"{thread}/runs")
    paths = (thread, run, f"{run}/steps", f"{thread}/messages", f"{thread}/runs")
    session.watch("runs", *paths)
    session.post(run, metadata={"a": "b"})
    session.look(*paths)
    session.post(f"{run}/cancel")
    session.watch("runs", *paths)
    session.delete(thread)
    session.look(*paths)


def batch(session: Session) -> None:
    source = "/files/" + session.post("/files", purpose="batch")
    session.look("/files", source, f"{source}/content", "/batches")
    one = "/batches/" + session.post("/batches", input_file_id=source)
    paths = ("/batches", one, f"{one}/files", "/files", source, f"{source}/content")
    session.watch("batches", *paths)
    other = "/batches/" + session.post("/batches")
    session.look(*paths, other)
    session.post(f"{other}/cancel")
    session.watch("batches", *paths, other)
    session.delete(source)
    session.look(*paths)


def vector_store(session: Session) -> None:
    store = "/vector_stores/" + session.post("/vector_stores", name="a")
    session.watch("vector_stores", "/vector_stores", store, f"{store}/files")
    group = f"{store}/file_batches/" + session.post(f"{store}/file_batches")
    paths = ("/vector_stores", store, group, f"{group}/files", f"{store}/files")
    session.watch("file_batches", *paths)
    session.post(store, name="b")
    session.look(*paths)
    session.delete(store)
    session.look(*paths)


def fine_tuning_job(session: Session) -> None:
    session.look("/models", "/fine_tuning/jobs")
    job = "/fine_tuning/jobs/" + session.post("/fine_tuning/jobs", model="gpt")
    paths = ("/fine_tuning/jobs", job, f"{job}/events", f"{job}/checkpoints")
    session.watch("jobs", *paths)
    tuned = "/models/" + session.post("/models", owner="me")
    session.look("/models", tuned)
    session.delete(tuned)
    session.look("/models", tuned, *paths)
    other = "/fine_tuning/jobs/" + session.post("/fine_tuning/jobs")
    session.post(f"{other}/cancel")
    session.watch("jobs", *paths, other)


def conversation_and_responses(session: Session) -> None:
    name = session.post("/conversations", items=[{"role": "user"}])
    chat = f"/conversations/{name}"
    paths = (chat, f"{chat}/items")
    session.look(*paths)
    for more in ({}, {"store": True}, {"background": True}):
        answer = "/responses/" + session.post("/responses", conversation=name, **more)
        session.watch("responses", *paths, answer, f"{answer}/input_items")
    session.post(chat, metadata={"a": "b"})
    session.post(f"{chat}/items", role="user")
    session.look(*paths)
    session.delete(answer)
    session.look(*paths, answer)


def stored_completion(session: Session) -> None:
    session.look("/chat/completions")
    session.post("/chat/completions", **CHAT)
    for _ in range(2):  # equal requests create two objects
        name = session.post("/chat/completions", **CHAT, store=True)
        session.look("/chat/completions", f"/chat/completions/{name}")
    session.post(f"/chat/completions/{name}", metadata={"a": "b"})
    session.look("/chat/completions", f"/chat/completions/{name}")
    session.delete(f"/chat/completions/{name}")
    session.look("/chat/completions", f"/chat/completions/{name}")


async def states_seen(
    harness: ProxyHarness, flow: Callable[[Session], None], ttl: str
) -> list[JSON]:
    """Run *flow* against a new API; return what the client saw."""
    await harness.start(CACHE_TTL=ttl, RATE_LIMIT="0")
    api = StatefulAPI()
    harness.upstream.script(any_request, api.answer)
    client = openai.OpenAI(
        api_key="sk-good",
        base_url=f"http://127.0.0.1:{harness.port}/v1",
        http_client=openai.DefaultHttpxClient(trust_env=False, timeout=20),
        max_retries=0,
    )
    session = Session(client, api)
    try:
        await deferToThread(flow, session)
    finally:
        client.close()
    return session.seen


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "flow",
    [
        run_of_a_thread,
        batch,
        vector_store,
        fine_tuning_job,
        conversation_and_responses,
        stored_completion,
    ],
)
@pytest_twisted.ensureDeferred
async def test_client_sees_the_same_states_with_and_without_cache(
    harness: ProxyHarness, flow: Callable[[Session], None]
) -> None:
    cached = await states_seen(harness, flow, "1h")
    assert harness.daemon is not None
    assert harness.daemon.context.counters.hits > 0
    await harness.daemon.stopService()
    requests = len(harness.upstream.requests)
    assert cached == await states_seen(harness, flow, "0")
    assert len(harness.upstream.requests) - requests > requests
