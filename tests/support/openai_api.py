"""Answers in the format of the OpenAI API.

Equal requests get equal bodies; every answer has a new ``x-request-id``.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import struct
from typing import Any

from tests.support.answers import event, response, sse
from tests.support.requests import Field, Request
from tests.support.steps import Answer

JSON = Any

MODELS = ("gpt-4o-mini", "gpt-4o", "text-embedding-3-small")
CREATED = 1_700_000_000
"""The creation time of every object, in Unix seconds."""


class ApiError(Exception):
    """An error answer in OpenAI's format."""

    def __init__(
        self, status: int, message: str, code: str | None, kind: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.status = status
        self.payload = {
            "error": {"message": message, "type": kind, "param": None, "code": code},
        }


class OpenAI:
    """The API's state and options.

    :ivar frames: content events of a streamed completion.
    :ivar interval: seconds between two events.
    :ivar gzip: whether JSON is compressed if the request accepts gzip.
    :ivar files: the uploaded files' objects, by ID.
    """

    def __init__(self, frames: int = 8, interval: float = 0.04) -> None:
        self.frames = frames
        self.interval = interval
        self.gzip = False
        self.files: dict[str, JSON] = {}

    def answer(self, request: Request) -> Answer:
        """The answer to *request*, whose body is complete."""
        try:
            self._authenticate(request)
            payload = self._route(request)
        except ApiError as error:
            return self._reply(request, error.payload, error.status)
        if isinstance(payload, list):
            return sse(payload, self.interval, _api_fields(request))
        return self._reply(request, payload)

    def _reply(self, request: Request, payload: JSON, status: int = 200) -> bytes:
        body = json.dumps(payload, indent=2).encode()
        fields = _api_fields(request)
        if self.gzip and b"gzip" in b",".join(request.all(b"accept-encoding")):
            body = gzip.compress(body, mtime=0)
            fields.append((b"Content-Encoding", b"gzip"))
        answer = response(body, status, fields)
        return answer[: -len(body)] if request.method == b"HEAD" else answer

    def _authenticate(self, request: Request) -> None:
        given = request.header(b"authorization") or b""
        if not given.startswith(b"Bearer sk-good"):
            raise ApiError(401, "Incorrect API key provided.", "invalid_api_key")

    def _route(self, request: Request) -> JSON:
        """An object to send as JSON, or a list of events."""
        method = "GET" if request.method == b"HEAD" else request.method.decode("latin-1")
        match method, request.path.split("/")[1:]:
            case "GET", ["v1", "models"]:
                return {"object": "list", "data": [_model(name) for name in MODELS]}
            case "GET", ["v1", "models", name] if name in MODELS:
                return _model(name)
            case "POST", ["v1", "chat", "completions"]:
                return self._chat(_body(request))
            case "POST", ["v1", "completions"]:
                return self._completion(_body(request))
            case "POST", ["v1", "embeddings"]:
                return _embeddings(_body(request))
            case "POST", ["v1", "files"]:
                return self._upload(request)
            case "GET", ["v1", "files"]:
                return {"object": "list", "data": list(self.files.values()), "has_more": False}
            case "GET", ["v1", "files", name] if name in self.files:
                return self.files[name]
            case "DELETE", ["v1", "files", name] if name in self.files:
                del self.files[name]
                return {"id": name, "object": "file", "deleted": True}
        raise ApiError(404, f"Invalid URL ({request.line})", None)

    def _words(self, seed: JSON) -> list[str]:
        """One word for each frame; equal for equal seeds."""
        return [f"{_digest([seed, number])[:6]} " for number in range(self.frames)]

    def _chat(self, document: JSON) -> JSON:
        words = self._words(document.get("messages"))
        frame = {
            "id": f"chatcmpl-{_digest(document)[:24]}",
            "created": CREATED,
            "model": document.get("model"),
        }
        if not document.get("stream"):
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return {
                **frame, "object": "chat.completion", "choices": [choice], "usage": _usage(words)
            }  # fmt: skip
        frame["object"] = "chat.completion.chunk"
        deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in words), {}]
        choices: list[JSON] = [
            [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}]
            for delta in deltas
        ]
        return _events(frame, choices, document, words)

    def _completion(self, document: JSON) -> JSON:
        words = self._words(document.get("prompt"))
        frame = {
            "id": f"cmpl-{_digest(document)[:24]}",
            "object": "text_completion",
            "created": CREATED,
            "model": document.get("model"),
        }
        if not document.get("stream"):
            choice = {"index": 0, "text": "".join(words), "logprobs": None, "finish_reason": "stop"}
            return {**frame, "choices": [choice], "usage": _usage(words)}
        choices: list[JSON] = [
            [{"index": 0, "text": word, "logprobs": None, "finish_reason": None}] for word in words
        ]
        choices[-1][0]["finish_reason"] = "stop"
        return _events(frame, choices, document, words)

    def _upload(self, request: Request) -> JSON:
        name = f"file-{request.sha256[:24]}"
        found = re.search(rb'filename="([^"]*)"', request.body)
        self.files[name] = {
            "id": name,
            "object": "file",
            "bytes": request.body_length,
            "created_at": CREATED,
            "filename": found[1].decode() if found else "unknown",
            "purpose": "batch",
            "status": "processed",
        }
        return self.files[name]


def _api_fields(request: Request) -> list[Field]:
    """The header fields that OpenAI adds to every answer."""
    return [
        (b"x-request-id", b"req_%06d" % request.number),
        (b"openai-processing-ms", b"7"),
        (b"x-ratelimit-limit-requests", b"10000"),
        (b"x-ratelimit-remaining-requests", b"%d" % max(0, 10000 - request.number)),
    ]


def _body(request: Request) -> JSON:
    try:
        document = request.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ApiError(400, "We could not parse the JSON body of your request.", None)
    return document


def _digest(value: JSON) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _model(name: str) -> JSON:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "openai"}


def _usage(words: list[str]) -> JSON:
    return {"prompt_tokens": 1, "completion_tokens": len(words), "total_tokens": 1 + len(words)}


def _events(frame: JSON, choices: list[JSON], document: JSON, words: list[str]) -> list[bytes]:
    """The events of a stream, with the usage at its end if ``stream_options`` request it."""
    payloads = [{**frame, "choices": choice} for choice in choices]
    if (document.get("stream_options") or {}).get("include_usage"):
        payloads.append({**frame, "choices": [], "usage": _usage(words)})
    return [*map(event, payloads), b"data: [DONE]\n\n"]


def _embeddings(document: JSON) -> JSON:
    inputs = document.get("input")
    if not isinstance(inputs, list) or (inputs and isinstance(inputs[0], int)):
        inputs = [inputs]
    dimensions = int(document.get("dimensions") or 16)
    data = []
    for number, each in enumerate(inputs):
        vector = _vector(each, dimensions)
        packed = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        encoded = packed if document.get("encoding_format") == "base64" else vector
        data.append({"object": "embedding", "index": number, "embedding": encoded})
    usage = {"prompt_tokens": len(inputs), "total_tokens": len(inputs)}
    return {"object": "list", "data": data, "model": document.get("model"), "usage": usage}


def _vector(seed: JSON, dimensions: int) -> list[float]:
    """Numbers between -1 and 1 that a 32-bit float represents exactly."""
    stream = hashlib.shake_128(_digest(seed).encode()).digest(dimensions)
    return [(byte - 128) / 128 for byte in stream]
