"""What the client does in the demo, and what must come of it.

The order matters: the rate limit is reached last, because everything after it would be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai

from examples.demo.client import GOOD_KEY, Client, Outcome
from examples.demo.scene import HOST, PASSWORD, RATE_LIMIT, Scene
from examples.demo.table import Table
from tests.support.requests import Request

UPLOAD = 8 * 1024 * 1024
MESSAGES: Any = [{"role": "user", "content": "What is a relay?"}]

ANY = "anything"
"""The ``X-Cache`` of answers that have to do with no cache."""

Check = tuple[bool, str]
"""Whether something holds, and what to say if it does not."""


class Stagehand:
    """Performs one request after the other, and writes the rows."""

    def __init__(self, scene: Scene, table: Table) -> None:
        self._scene = scene
        self._table = table
        self.seen: list[Request] = []

    def show(
        self,
        step: str,
        do: Callable[[], Outcome],
        *,
        status: int = 200,
        cache: str | None = None,
        upstream: int = 0,
        also: Callable[[Outcome], list[Check]] = lambda outcome: [],
    ) -> Outcome:
        """*do* it, and expect *status*, ``X-Cache``, so many requests upstream, and *also*.

        What reached upstream by it is in :attr:`seen` from then on.
        """
        before = len(self._scene.requests())
        outcome = do()
        self.seen = self._scene.requests()[before:]
        given = outcome.headers.get("x-cache")
        checks: list[Check] = [
            (outcome.status == status, f"status {outcome.status}, not {status}: {outcome.value}"),
            (cache in (given, ANY), f"X-Cache {given}, not {cache}"),
            (len(self.seen) == upstream, f"{len(self.seen)} requests upstream, not {upstream}"),
            *(check for request in self.seen for check in self._relayed(request)),
        ]
        if outcome.status == status:
            checks += also(outcome)
        tunnels = {self._scene.tunnel_of(request) for request in self.seen}
        complaints = [complaint for holds, complaint in checks if not holds]
        self._table.row(step, outcome, len(self.seen), tunnels, complaints)
        return outcome

    def _relayed(self, request: Request) -> list[Check]:
        """What holds for every request that reaches upstream."""
        return [
            (self._scene.tunnel_of(request) is not None, "it came past the tunnel"),
            (request.all(b"host") == [HOST.encode()], f"Host is {request.all(b'host')}"),
            (not request.all(b"proxy-authorization"), "upstream was told the proxy's password"),
        ]


def perform(scene: Scene, client: Client, table: Table) -> None:
    """All of it."""
    hand = Stagehand(scene, table)
    hand.show("health", lambda: client.visit("GET", "/health"), also=_healthy)
    _models(hand, client)
    _chat(hand, client)
    _stream(hand, client)
    _embeddings(hand, client)
    _files(hand, client)
    hand.show(
        "a wrong key",
        lambda: client.ask(client.stranger.models.with_raw_response.list),
        status=401, cache="MISS", upstream=1,
        also=lambda it: [
            (isinstance(it.value, openai.AuthenticationError), "not an AuthenticationError")
        ],
    )  # fmt: skip
    hand.show("clear the cache", lambda: client.visit("DELETE", "/cache"))
    _rate_limit(hand, client)
    hand.show("statistics", lambda: client.visit("GET", "/stats"), also=_statistics)
    table.note("CONNECT", *_egress(scene))


def _healthy(it: Outcome) -> list[Check]:
    return [
        (it.value.get("status") == "healthy", f"it says {it.value}"),
        (it.value.get("service") == "openai-proxy", f"it says {it.value}"),
    ]


def _models(hand: Stagehand, client: Client) -> None:
    def do() -> Outcome:
        return client.ask(client.api.models.with_raw_response.list)

    miss = hand.show("models", do, cache="MISS", upstream=1, also=lambda it: [
        (it.headers.get("x-request-id", "").startswith("req_"), "upstream's headers are lost"),
        (it.headers.get("x-proxy") == "goproxyai", "no X-Proxy"),
        (hand.seen[0].header(b"authorization") == b"Bearer " + GOOD_KEY.encode(), "another key"),
    ])  # fmt: skip
    hand.show("models again", do, cache="HIT", also=lambda it: _same(miss, it))


def _chat(hand: Stagehand, client: Client) -> None:
    def do() -> Outcome:
        create = client.api.chat.completions.with_raw_response.create
        return client.ask(lambda: create(model="gpt-4o-mini", messages=MESSAGES))

    miss = hand.show("chat", do, cache="MISS", upstream=1, also=lambda it: [
        (bool(it.value.choices[0].message.content), "no content"),
    ])  # fmt: skip
    hand.show("chat again", do, cache="HIT", also=lambda it: _same(miss, it))


def _stream(hand: Stagehand, client: Client) -> None:
    def do() -> Outcome:
        create = client.api.chat.completions.with_raw_response.create
        return client.ask(lambda: create(model="gpt-4o-mini", messages=MESSAGES, stream=True))

    miss = hand.show("streamed chat", do, cache="MISS", upstream=1, also=lambda it: [
        (bool(it.value), "no content"),
        (it.first < it.total - 0.2, "the first event came when all were there"),
    ])  # fmt: skip
    hand.show("streamed chat again", do, cache="HIT", also=lambda it: [
        *_same(miss, it),
        (it.total < miss.total / 2, "a replay takes as long as the original"),
    ])  # fmt: skip


def _embeddings(hand: Stagehand, client: Client) -> None:
    def do() -> Outcome:
        create = client.api.embeddings.with_raw_response.create
        return client.ask(lambda: create(model="text-embedding-3-small", input=["one", "two"]))

    miss = hand.show("embeddings", do, cache="MISS", upstream=1, also=lambda it: [
        ([len(each.embedding) for each in it.value.data] == [16, 16], "wrong vectors"),
    ])  # fmt: skip
    hand.show("embeddings again", do, cache="HIT", also=lambda it: _same(miss, it))


def _files(hand: Stagehand, client: Client) -> None:
    files = client.api.files.with_raw_response
    content = b'{"n": 1}' * (UPLOAD // 8)

    def upload() -> Outcome:
        return client.ask(lambda: files.create(file=("demo.jsonl", content), purpose="batch"))

    done = hand.show("upload of 8 MB", upload, cache="MISS", upstream=1, also=lambda it: [
        (hand.seen[0].body_length > UPLOAD, "the upload arrived cut short"),
        (it.value.bytes == hand.seen[0].body_length, "another size"),
        (it.value.filename == "demo.jsonl", "another name"),
    ])  # fmt: skip
    if done.status != 200:
        return
    name = done.value.id

    def look() -> Outcome:
        return client.ask(lambda: files.retrieve(name))

    miss = hand.show("the file", look, cache="MISS", upstream=1)
    hand.show("the file again", look, cache="HIT", also=lambda it: _same(miss, it))
    hand.show(
        "delete the file", lambda: client.ask(lambda: files.delete(name)), cache="MISS", upstream=1,
        also=lambda it: [(it.value.deleted, "not deleted")],
    )  # fmt: skip
    hand.show("the file is gone", look, status=404, cache="MISS", upstream=1)


def _rate_limit(hand: Stagehand, client: Client) -> None:
    """Ask until it is refused, which the bucket's depth and refill make a matter of seconds."""

    def do() -> Outcome:
        return client.ask(client.api.models.with_raw_response.list)

    hand.show("models, cache cleared", do, cache="MISS", upstream=1)

    def until_refused() -> Outcome:
        for _ in range(RATE_LIMIT * 3):
            outcome = do()
            if outcome.status != 200:
                break
        return outcome

    hand.show("models until refused", until_refused, status=429, cache=ANY, also=lambda it: [
        (isinstance(it.value, openai.RateLimitError), "not a RateLimitError"),
        (int(it.headers.get("retry-after", 0)) >= 1, "no Retry-After"),
        (int(it.headers.get("retry-after-ms", 0)) >= 1, "no retry-after-ms"),
        (it.value.response.json().get("code") == "RATE_LIMIT_EXCEEDED", "another body"),
    ])  # fmt: skip


def _statistics(it: Outcome) -> list[Check]:
    cache = it.value.get("cache", {})
    return [
        (cache.get("item_count") == 1, f"{cache.get('item_count')} items, not 1"),
        (it.value.get("rate_limit") == RATE_LIMIT, f"rate_limit {it.value.get('rate_limit')}"),
        (it.value.get("openai_url") == f"https://{HOST}", f"openai_url {it.value}"),
        (PASSWORD not in str(it.value), "it shows the proxy's password"),
    ]


def _egress(scene: Scene) -> tuple[bool, str]:
    """Whether the egress proxy saw CONNECT alone, and what it counted."""
    asked = {request.line for request in scene.proxy.requests}
    right = asked == {f"CONNECT {HOST}:443"} and not scene.upstream.malformed
    return right, f"tunnels: {len(scene.proxy.tunnels)}, else nothing" if right else str(asked)


def _same(miss: Outcome, hit: Outcome) -> list[Check]:
    """A hit is the answer that was stored, and says when."""
    parts = ("x-request-id", "content-type", "date", "openai-processing-ms")
    return [
        (_plain(hit.value) == _plain(miss.value), "another answer than before"),
        *((hit.headers.get(part) == miss.headers.get(part), f"another {part}") for part in parts),
        ("x-cache-timestamp" in hit.headers, "no X-Cache-Timestamp"),
    ]


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value
