"""Which requests the made-up clients send; the same in each demo, because the seed is fixed."""

from __future__ import annotations

import json
from random import Random
from typing import Any, Final

import attrs

from goproxyai.demo.answers import CHAT_MODELS, EMBEDDING_MODEL, WRONG_KEY

TEAM_KEY: Final = "sk-made-up-team"

CLIENTS: Final = (
    "192.0.2.10", "192.0.2.11", "192.0.2.12", "198.51.100.20", "198.51.100.21", "203.0.113.5",
)  # fmt: skip
"""The addresses of the steady clients, of networks for documentation (RFC 5737)."""

BATCH_CLIENT: Final = "203.0.113.99"
"""The address of the client that exceeds the rate limit."""

QUESTIONS: Final = (
    "What is a relay?",
    "What is a cache?",
    "What is a token bucket?",
    "What is backpressure?",
    "What is a circuit breaker?",
    "What is single flight?",
)

DECK: Final = (
    *("question",) * 45,
    *("unique question",) * 20,
    *("stream",) * 20,
    *("unique stream",) * 10,
    *("embedding",) * 15,
    *("models",) * 10,
    "wrong key",
    *("bypass",) * 5,
    *("disconnect",) * 5,
)
"""The kinds of requests, as often as they are sent in turn. Less than 1 % fail, so that the verdict
of the dashboard is good between the outages."""


@attrs.frozen
class Call:
    """A request.

    :ivar client: the address in ``X-Forwarded-For``.
    :ivar disconnects: whether the client leaves before the end of the response.
    """

    kind: str
    client: str
    method: str
    path: str
    key: str
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    disconnects: bool = False


class Scenario:
    """Deals the calls; every kind is among the first ``len(DECK)`` of them."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._deck: list[str] = []
        self._serial = 0

    def next_call(self, client: str) -> Call:
        """Return the next call of *client*."""
        if not self._deck:
            self._deck = list(DECK)
            self._random.shuffle(self._deck)
            # Never two within 30 s, of which the dashboard would warn.
            self._deck.remove("wrong key")
            self._deck.insert(len(self._deck) // 2, "wrong key")
        self._serial += 1
        return self._call(self._deck.pop(), client)

    def _call(self, kind: str, client: str) -> Call:
        question = self._random.choice(QUESTIONS)
        model = CHAT_MODELS[len(question) % len(CHAT_MODELS)]
        unique = f"{question} ({self._serial})"
        match kind:
            case "models":
                return Call(kind, client, "GET", "/v1/models", TEAM_KEY)
            case "embedding":
                body = _json(model=EMBEDDING_MODEL, input=question)
                return Call(kind, client, "POST", "/v1/embeddings", TEAM_KEY, body)
            case "wrong key":
                return _chat(kind, client, _ask(model, unique), key=f"{WRONG_KEY}-{self._serial}")
            case "bypass":
                return _chat(kind, client, _ask(model, question), (("X-Team", "made-up"),))
            case "disconnect":
                return attrs.evolve(
                    _chat(kind, client, _ask(model, unique, True)), disconnects=True
                )
            case "stream" | "unique stream":
                return _chat(
                    kind, client, _ask(model, question if kind == "stream" else unique, True)
                )
        return _chat(kind, client, _ask(model, question if kind == "question" else unique))


def batch_call(number: int) -> Call:
    """Return a call of the client that exceeds its limit."""
    body = _json(model=EMBEDDING_MODEL, input=f"Document {number % 50}")
    return Call("batch", BATCH_CLIENT, "POST", "/v1/embeddings", TEAM_KEY, body)


def _chat(
    kind: str,
    client: str,
    body: bytes,
    headers: tuple[tuple[str, str], ...] = (),
    key: str = TEAM_KEY,
) -> Call:
    return Call(kind, client, "POST", "/v1/chat/completions", key, body, headers)


def _ask(model: str, question: str, stream: bool = False) -> bytes:
    messages = [{"role": "user", "content": question}]
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return _json(model=model, temperature=0, messages=messages, **more)


def _json(**document: Any) -> bytes:
    return json.dumps(document).encode("ascii")
