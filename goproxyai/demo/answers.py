"""The answers of the made-up API, in the format of OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import attrs

WRONG_KEY: Final = "sk-wrong"
"""Beginning of the keys that the API does not accept. It accepts all others, and none."""

CHAT_MODELS: Final = ("gpt-6.2-sol", "gpt-6-luna", "made-up-mini")
EMBEDDING_MODEL: Final = "text-embedding-made-up"

PRICES: Final = json.dumps(
    {
        "gpt-6.2-sol": {"prompt": 2.0, "cached": 0.1, "completion": 10.0},
        "gpt-6-luna": {"prompt": 0.1, "cached": 0.01, "completion": 0.5},
        EMBEDDING_MODEL: {"prompt": 0.02, "completion": 0.0},
    }
).encode("ascii")
"""Token prices for the dashboard; one model has none."""

_CREATED: Final = 1_790_000_000
_TEXT: Final = (
    "A relay passes each request on and returns the response. A cache keeps a response for a "
    "while, so that an equal request is answered without the upstream. A token bucket limits the "
    "rate."
)
_WORDS: Final = tuple(_TEXT.split())


@attrs.frozen
class Answer:
    """A response.

    :ivar pieces: of the body; more than one for an event stream.
    """

    status: int
    content_type: str
    pieces: tuple[bytes, ...]
    headers: tuple[tuple[str, str], ...] = ()


def answer(method: str, path: str, headers: Mapping[str, str], body: bytes, serial: int) -> Answer:
    """Return the answer to a request.

    :param headers: by lower-cased name.
    :param serial: number of the request; answers to equal requests may differ by it.
    """
    if headers.get("authorization", "").startswith(f"Bearer {WRONG_KEY}"):
        return error(401, "Incorrect API key provided.", "invalid_api_key")
    if (method, path) == ("GET", "/v1/models"):
        models = [_model(name) for name in (*CHAT_MODELS, EMBEDDING_MODEL)]
        return _json(200, {"object": "list", "data": models})
    if method == "POST":
        try:
            request = json.loads(body)
            model = str(request["model"])
        except (ValueError, KeyError, TypeError):
            return error(400, "The body must be a JSON object with a model.", "invalid_json")
        if path == "/v1/chat/completions":
            return _stream(model, serial) if request.get("stream") else _completion(model, serial)
        if path == "/v1/embeddings":
            return _embedding(model)
    return error(404, f"The made-up API has no {method} {path}.", "not_found")


def rate_limited() -> Answer:
    """Return upstream's own 429."""
    limited = error(429, "Rate limit reached for requests.", "rate_limit_exceeded")
    return attrs.evolve(limited, headers=(("retry-after", "2"),))


def unavailable() -> Answer:
    """Return a 503 of upstream."""
    return error(503, "The engine is overloaded; try again later.", "engine_overloaded")


def error(status: int, message: str, code: str) -> Answer:
    """Return an error in OpenAI's format."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return _json(status, {"error": {"message": message, "type": kind, "param": None, "code": code}})


def _json(status: int, document: Any) -> Answer:
    return Answer(status, "application/json", (json.dumps(document).encode("ascii"),))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "made-up"}


def _text(serial: int) -> list[str]:
    """Return the words of a completion, 10 to 30 of them."""
    return [_WORDS[(serial + place) % len(_WORDS)] for place in range(10 + serial % 21)]


def _usage(words: int) -> dict[str, Any]:
    return {
        "prompt_tokens": 40,
        "completion_tokens": words,
        "total_tokens": 40 + words,
        "prompt_tokens_details": {"cached_tokens": 16},
    }


def _completion(model: str, serial: int) -> Answer:
    words = _text(serial)
    message = {"role": "assistant", "content": " ".join(words)}
    return _json(
        200,
        {
            "id": f"chatcmpl-{serial}",
            "object": "chat.completion",
            "created": _CREATED,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(len(words)),
        },
    )


def _stream(model: str, serial: int) -> Answer:
    words = _text(serial)

    def chunk(choices: list[Any], **more: Any) -> bytes:
        document = {
            "id": f"chatcmpl-{serial}",
            "object": "chat.completion.chunk",
            "created": _CREATED,
            "model": model,
            "choices": choices,
            **more,
        }
        return b"data: %b\n\n" % json.dumps(document).encode("ascii")

    def choice(delta: dict[str, str], reason: str | None = None) -> list[Any]:
        return [{"index": 0, "delta": delta, "finish_reason": reason}]

    pieces = [chunk(choice({"role": "assistant", "content": ""}))]
    pieces += [chunk(choice({"content": f"{word} "})) for word in words]
    pieces += [chunk(choice({}, "stop")), chunk([], usage=_usage(len(words))), b"data: [DONE]\n\n"]
    return Answer(200, "text/event-stream", tuple(pieces))


def _embedding(model: str) -> Answer:
    data = [{"object": "embedding", "index": 0, "embedding": [0.1, -0.2, 0.3]}]
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    return _json(200, {"object": "list", "model": model, "data": data, "usage": usage})
