"""Token usage: the ``usage`` object in OpenAI's JSON responses and event streams.

1. Usage is read from 2xx responses to POSTs to :data:`GENERATING_PATHS`. A GET that returns a
   stored completion is not billed again.
2. The search starts at the end: the object stands at the end of the document, or in the last event
   of a stream. A ``"usage"`` inside of a string has escaped quotes and does not match. A value that
   is no object or has no counts is skipped.
3. The names are those of Chat Completions (``prompt_tokens``, ``completion_tokens``) or Responses
   (``input_tokens``, ``output_tokens``). Cached tokens are part of the prompt tokens, reasoning
   tokens part of the completion tokens.
4. Nothing is guessed: a response that is cut, has no usage or cannot be read has no usage.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple, Protocol

from goproxyai.messages.redaction import mask_credentials

TAIL_BYTES: Final = 16 * 1024
"""Bytes at the end of a response that are searched for its usage."""

MAX_MODEL_CHARACTERS: Final = 100

GENERATING_PATHS: Final = frozenset(
    (
        b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses",
        b"/v1/images/generations", b"/v1/images/edits", b"/v1/images/variations",
        b"/v1/audio/transcriptions", b"/v1/audio/translations", b"/v1/audio/speech",
    )
)  # fmt: skip
"""Paths whose POSTs upstream bills by usage."""

_MAX_OBJECT_BYTES = 4 * 1024
_MAX_COUNT = 10**12
_MAX_CANDIDATES = 8
_MAX_MODELS = 256

_USAGE = b'"usage"'
_MODEL = b'"model"'
# OpenAI's own layout, indented or not. The match takes a third of a JSON parser's time, and every
# miss pays for it.
_COMMON_LAYOUT = re.compile(
    rb'"usage": ?+\{\s*+"prompt_tokens": ?+(\d{1,12}+),\s*+'
    rb'(?:"completion_tokens": ?+(\d{1,12}+),\s*+)?"total_tokens": ?+\d{1,12}+(?:\s*+\}|'
    rb',\s*+"prompt_tokens_details": ?+\{\s*+"cached_tokens": ?+(\d{1,12}+)[^{}]*+\}(?:\s*+\}|'
    rb',\s*+"completion_tokens_details": ?+\{\s*+"reasoning_tokens": ?+(\d{1,12}+)[,\s}]))'
)
_MODEL_NAME = re.compile(rb'"model"\s{0,4}:\s{0,4}"([\x21\x23-\x5b\x5d-\x7e]{1,100})"')
_BEFORE_OBJECT = re.compile(r"\s{0,8}:\s{0,8}(?=\{)")
_match_common_layout = _COMMON_LAYOUT.match
_models: dict[bytes, str] = {}  # by the text from the colon to the end of the name
_decode = json.JSONDecoder().raw_decode


class UsageSource(Protocol):
    """Has the usage of a response: a :class:`Usage`, :class:`UnreadResponse` or cache entry."""

    def usage(self) -> Usage | None:
        """Return the usage, ``None`` if the response has none."""


class Usage(NamedTuple):
    """The tokens of one response.

    :ivar model: as the response names it, else empty.
    :ivar prompt: tokens of the request.
    :ivar completion: tokens of the response.
    :ivar cached: the part of the prompt tokens that upstream had cached.
    :ivar reasoning: the hidden part of the completion tokens.
    """

    model: str
    prompt: int
    completion: int
    cached: int
    reasoning: int

    def usage(self) -> Usage:
        """Return itself: a usage is a :class:`UsageSource`."""
        return self


class UnreadResponse:
    """The body of a complete, uncoded response whose usage is not read yet.

    Reading waits for the next batch of the access log. The body is released once it is read.
    """

    __slots__ = ("_body", "_usage")

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._usage: Usage | None = None

    def usage(self) -> Usage | None:
        """Return the usage that the body reports, ``None`` if it reports none."""
        body = self._body
        if body is not None:
            self._body = None
            self._usage = read_usage(body)
        return self._usage


def generates(method: bytes, path: bytes) -> bool:
    """Whether upstream bills the request by the usage in its response."""
    return method == b"POST" and path in GENERATING_PATHS


def read_usage(body: bytes) -> Usage | None:
    """Return the usage of a complete response without content coding, ``None`` if it has none."""
    tokens = find_tokens(body)
    # `Usage(...)` takes three times as long.
    return None if tokens is None else tuple.__new__(Usage, (find_model(body), *tokens))


def requested_model(body: bytes) -> str:
    """Return the model that a JSON request asks for, empty if neither end of the body names it.

    :param body: complete; :data:`TAIL_BYTES` at each end are searched.
    """
    model = find_model(body[:TAIL_BYTES])
    if not model and len(body) > TAIL_BYTES:
        model = find_model(body[-TAIL_BYTES:])
    return model


def find_model(text: bytes) -> str:
    """Return the value of the first ``"model"`` in *text*, empty if there is none.

    Logs, traces and metrics name the model, so that credentials in it are masked.
    """
    at = text.find(_MODEL)
    if at < 0:
        return ""
    # A name that was seen before needs no regular expression: 0.7 us less on each miss.
    end = text.find(b'"', at + len(_MODEL) + 3)  # after `:"` or `: "`, and at least one character
    known = _models.get(text[at + len(_MODEL) : end])
    if known is not None:
        return known
    match = _MODEL_NAME.search(text, at)
    if match is None:
        return ""
    name = mask_credentials(match[1].decode("ascii"))
    if match.start() == at and match.end() == end + 1:
        if len(_models) >= _MAX_MODELS:
            _models.clear()
        _models[text[at + len(_MODEL) : end]] = name
    return name


def find_tokens(text: bytes) -> tuple[int, int, int, int] | None:
    """Return prompt, completion, cached and reasoning tokens of the last usage in *text*."""
    at = text.rfind(_USAGE)
    if at < 0:
        return None
    match = _match_common_layout(text, at)
    if match is None:
        return _search_tokens(text, at)
    prompt, completion, cached, reasoning = match.groups(b"0")
    return int(prompt), int(completion), int(cached), int(reasoning)


def _search_tokens(text: bytes, at: int) -> tuple[int, int, int, int] | None:
    """Return the tokens of a usage in any layout: the last valid one up to *at*."""
    for _ in range(_MAX_CANDIDATES):
        tokens = _parse_tokens(text[at + len(_USAGE) : at + _MAX_OBJECT_BYTES])
        if tokens is not None:
            return tokens
        at = text.rfind(_USAGE, 0, at)
        if at < 0:
            break
    return None


def _parse_tokens(text: bytes) -> tuple[int, int, int, int] | None:
    """Return the tokens of a usage in any layout; *text* starts after the name ``"usage"``."""
    plain = text.decode("utf-8", "replace")
    start = _BEFORE_OBJECT.match(plain)
    if start is None:
        return None
    try:
        usage, _ = _decode(plain, start.end())
    except (ValueError, RecursionError):
        return None
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    completion = _count(usage, "completion_tokens", "output_tokens")
    if prompt is None and completion is None:
        return None
    cached = _detail(usage, ("prompt_tokens_details", "input_tokens_details"), "cached_tokens")
    reasoning = _detail(
        usage, ("completion_tokens_details", "output_tokens_details"), "reasoning_tokens"
    )
    return prompt or 0, completion or 0, cached, reasoning


def _count(document: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = document.get(name)
        if type(value) is int and 0 <= value < _MAX_COUNT:
            return value
    return None


def _detail(usage: dict[str, Any], names: tuple[str, ...], name: str) -> int:
    for each in names:
        details = usage.get(each)
        if isinstance(details, dict):
            return _count(details, name) or 0
    return 0
