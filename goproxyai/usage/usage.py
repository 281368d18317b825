"""What an answer says that it cost: the ``usage`` object of OpenAI's JSON answers and streams.

1. Read are answers 2xx to POSTs that generate (:data:`GENERATING`): a GET that shows a stored
   completion costs nothing again.
2. It is looked for from the end: there it stands, in the answer's object or in the last event of a
   stream. A ``"usage"`` within a string has escaped quotes, and so is none; a value that is no
   object, or one without counts, is passed over.
3. Its names are those of Chat Completions (``prompt_tokens``, ``completion_tokens``) or of
   Responses (``input_tokens``, ``output_tokens``). Cached tokens are part of the prompt's,
   reasoning tokens of the completion's.
4. Nothing is guessed: what was cut, says nothing, or cannot be read, has no usage.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple, Protocol

TAIL: Final = 16 * 1024
"""Bytes at the end of an answer in which its usage is looked for."""

LONGEST_MODEL: Final = 100
"""Characters in the name of a model."""

GENERATING: Final = frozenset(
    (
        b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses",
        b"/v1/images/generations", b"/v1/images/edits", b"/v1/images/variations",
        b"/v1/audio/transcriptions", b"/v1/audio/translations", b"/v1/audio/speech",
    )
)  # fmt: skip
"""Paths whose POSTs are billed by what their answers say."""

_LARGEST_OBJECT = 4 * 1024
_MOST_COUNTED = 10**12
_MOST_CANDIDATES = 8
_MOST_KNOWN = 256

_USAGE = b'"usage"'
_MODEL = b'"model"'
# As OpenAI writes it, indented or not: three times as fast as a parser, on the way of every miss.
_USUAL = re.compile(
    rb'"usage": ?+\{\s*+"prompt_tokens": ?+(\d{1,12}+),\s*+'
    rb'(?:"completion_tokens": ?+(\d{1,12}+),\s*+)?"total_tokens": ?+\d{1,12}+(?:\s*+\}|'
    rb',\s*+"prompt_tokens_details": ?+\{\s*+"cached_tokens": ?+(\d{1,12}+)[^{}]*+\}(?:\s*+\}|'
    rb',\s*+"completion_tokens_details": ?+\{\s*+"reasoning_tokens": ?+(\d{1,12}+)[,\s}]))'
)
_NAME = re.compile(rb'"model"\s{0,4}:\s{0,4}"([\x21\x23-\x5b\x5d-\x7e]{1,100})"')
_BEFORE_VALUE = re.compile(r"\s{0,8}:\s{0,8}(?=\{)")
_usual = _USUAL.match
_known: dict[bytes, str] = {}  # names of models, each once
_decode = json.JSONDecoder().raw_decode


class UsageSource(Protocol):
    """Tells the usage of an answer: a :class:`Usage`, an :class:`UnreadAnswer`, a cache entry."""

    def usage(self) -> Usage | None:
        """Return the usage, ``None`` if the answer reports none."""


class Usage(NamedTuple):
    """Tokens of one answer.

    :ivar model: as the answer names it; empty where it does not.
    :ivar prompt: of the request, :ivar cached: of these, those that upstream had cached.
    :ivar completion: of the answer, :ivar reasoning: of these, those that nobody sees.
    """

    model: str
    prompt: int
    completion: int
    cached: int
    reasoning: int

    def usage(self) -> Usage:
        """Return itself: a usage is a :class:`UsageSource`."""
        return self


class UnreadAnswer:
    """The body of a complete, uncoded answer whose usage is not read yet.

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
            self._usage = plain_usage(body)
        return self._usage


def generates(method: bytes, path: bytes) -> bool:
    """Whether a request is billed by what its answer says."""
    return method == b"POST" and path in GENERATING


def plain_usage(body: bytes) -> Usage | None:
    """Return the usage of a complete answer without content coding, ``None`` if it reports none."""
    found = tokens_in(body)
    return None if found is None else Usage(model_in(body), *found)


def asked_model(body: bytes) -> str:
    """The model that a request of JSON asks for; empty where its two ends do not say.

    :param body: whole; no more than :data:`TAIL` bytes of each end are looked at.
    """
    return model_in(body[:TAIL]) or (model_in(body[-TAIL:]) if len(body) > TAIL else "")


def model_in(text: bytes) -> str:
    """The name behind the first ``"model"`` in *text*; empty where there is none."""
    at = text.find(_MODEL)
    if at < 0:
        return ""
    start = at + 9 if text.startswith(b':"', at + 7) else at + 10
    if text.startswith(b'"', start - 1) and text.startswith(b":", at + 7):
        end = text.find(b'"', start)
        known = _known.get(text[start:end]) if end > 0 else None
        if known is not None:
            return known
    match = _NAME.search(text, at)
    if match is None:
        return ""
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    return _known.setdefault(match[1], match[1].decode("ascii"))


def tokens_in(text: bytes) -> tuple[int, ...] | None:
    """Prompt, completion, cached and reasoning tokens of the last usage in *text*."""
    end = len(text)
    for _ in range(_MOST_CANDIDATES):
        end = text.rfind(_USAGE, 0, end)
        if end < 0:
            return None
        match = _usual(text, end)
        if match is not None:
            return tuple(map(int, match.groups(b"0")))
        found = _careful(text[end + len(_USAGE) : end + _LARGEST_OBJECT])
        if found is not None:
            return found
    return None


def _careful(text: bytes) -> tuple[int, ...] | None:
    """The same, of whatever stands behind the name."""
    plain = text.decode("utf-8", "replace")
    start = _BEFORE_VALUE.match(plain)
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
        if type(value) is int and 0 <= value < _MOST_COUNTED:
            return value
    return None


def _detail(usage: dict[str, Any], names: tuple[str, ...], name: str) -> int:
    for each in names:
        details = usage.get(each)
        if isinstance(details, dict):
            return _count(details, name) or 0
    return 0
