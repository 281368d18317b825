"""Requests through a proxy whose upstream numbers its responses, for the tests of the cache."""

from __future__ import annotations

from tests.support.answers import event, response
from tests.support.harness import Answer, ProxyHarness
from tests.support.requests import Request

JSON = [("Content-Type", "application/json")]
CHAT = "/v1/chat/completions"
QUESTION = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
CACHEABLE_POSTS = (CHAT, "/v1/completions", "/v1/embeddings")
SSE_TYPE = (b"Content-Type", b"text/event-stream")
CHUNKED = (b"Transfer-Encoding", b"chunked")
EVENTS = [event({"n": n}) for n in range(5)] + [b"data: [DONE]\n\n"]

MINE = b"Bearer mine"
THEIRS = b"Bearer theirs"


def numbered_response(request: Request) -> bytes:
    """Return a different body for each request: an equal body comes from the cache."""
    body = b'{"n":%d}' % request.number
    if request.target.startswith(b"/v1/embeddings"):
        body = b'{"n":%d,"data":[0]}' % request.number  # without data, the answer has failed
    answer = response(body)
    return answer[: -len(body)] if request.method == b"HEAD" else answer


def any_request(_: Request) -> bool:
    return True


async def start_numbered(harness: ProxyHarness, **texts: str) -> ProxyHarness:
    """Start the proxy in front of an upstream that numbers its responses."""
    await harness.start(**texts)
    harness.upstream.script(any_request, numbered_response)
    return harness


async def ask_twice(
    harness: ProxyHarness, first: bytes, second: bytes | None = None
) -> list[Answer]:
    """Return the responses to *first* and then to *second*, or to *first* again."""
    answers = []
    for data in (first, first if second is None else second):
        answers.append(await harness.ask(data, data.partition(b" ")[0]))
    return answers


def x_cache(*answers: Answer) -> list[bytes | None]:
    return [answer.get("X-Cache") for answer in answers]


def store_of(harness: ProxyHarness):
    assert harness.daemon is not None
    store = harness.daemon.context.store
    assert store is not None
    return store


def advance(harness: ProxyHarness, seconds: float) -> None:
    """Set the clock ahead, including the clock of connection deadlines, which ticks rarely."""
    harness.reactor.skew += seconds
    assert harness.daemon is not None
    harness.daemon.listeners.factory.ticker.now = harness.reactor.seconds()
