"""What an answer says that it cost: the ``usage`` object of OpenAI's JSON answers and streams.

1. Read are answers 2xx to POSTs that generate (:data:`GENERATING`): a GET that shows a stored
   completion costs nothing again.
2. It is looked for from the end: there it stands, in the answer's object or in the last event of a
   stream. A ``"usage"`` within a string has escaped quotes, and so is none; a value that is no
   object, or one without counts, is passed over.
3. Its names are those of Chat Completions (``prompt_tokens``, ``completion_tokens``) or of
   Responses (``input_tokens``, ``output_tokens``). Cached tokens are part of the prompt's,
   reasoning tokens of the completion's.
4. Nothing is guessed: what was cut, says nothing, or cannot be read, is :data:`UNKNOWN`.
5. A :class:`Reader` holds no more than :data:`TAIL` bytes of an answer, however long that is, and
   what it holds is a copy: no byte waits for it.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from goproxyai.policy.headers import Fields

TAIL: Final = 16 * 1024
"""Bytes at the end of an answer in which its usage is looked for."""

MOST_INFLATED: Final = 64 * 1024 * 1024
"""Bytes of a compressed answer that are read in search of it."""

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
_MOST_PIECES = 256
_MOST_KNOWN = 256
_INFLATED_AT_ONCE = 64 * 1024

_USAGE = b'"usage"'
_MODEL = b'"model"'
_CARRIED = len(_MODEL) + LONGEST_MODEL + 16
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


UNKNOWN: Final = Usage("", -1, -1, -1, -1)
"""The usage of an answer that ought to have one, and gave none that could be read."""


_usage: Callable[[tuple[Any, ...]], Usage] = partial(tuple.__new__, Usage)


def generates(method: bytes, path: bytes) -> bool:
    """Whether a request is billed by what its answer says."""
    return method == b"POST" and path in GENERATING


def usage_of(fields: Fields, body: bytes) -> Usage:
    """The usage of an answer that came whole; :data:`UNKNOWN` where it says none.

    :param fields: of the response. :param body: as received.
    """
    if b"content-encoding" in fields:
        reader = Reader(fields)
        reader.add(body)
        return reader.usage()
    return _plain(body)


def _plain(body: bytes) -> Usage:
    at = body.rfind(_USAGE)
    usual = _usual(body, at) if at >= 0 else None
    if usual is not None:  # as mostly: nothing else is called
        prompt, completion, cached, reasoning = usual.groups(b"0")
        return _usage(
            (
                _model(body), int(prompt), int(completion),
                0 if cached == b"0" else int(cached), 0 if reasoning == b"0" else int(reasoning),
            )
        )  # fmt: skip
    found = _tokens(body)
    return UNKNOWN if found is None else _usage((_model(body), *found))


def asked_model(body: bytes) -> str:
    """The model that a request of JSON asks for; empty where its two ends do not say.

    :param body: whole; no more than :data:`TAIL` bytes of each end are looked at.
    """
    return _model(body[:TAIL]) or (_model(body[-TAIL:]) if len(body) > TAIL else "")


def _model(text: bytes) -> str:
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


def _tokens(text: bytes) -> tuple[int, ...] | None:
    """Prompt, completion, cached and reasoning tokens of the last usage in *text*."""
    end = len(text)
    for _ in range(_MOST_CANDIDATES):
        end = text.rfind(_USAGE, 0, end)
        if end < 0:
            return None
        match = _USUAL.match(text, end)
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


class Bill:
    """The usage of an answer, read when somebody wants to know.

    What it is read from is kept until then. It takes a microsecond or two for each of many at once,
    and double that for one alone.

    :param body: in no coding, and short: so many of them wait as there are events in a batch.
    """

    __slots__ = ("_body", "_usage")

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._usage = UNKNOWN

    def read(self) -> Usage:
        """What it says, :data:`UNKNOWN` where that is nothing."""
        body, self._body = self._body, None
        if body is not None:
            self._usage = _plain(body)
        return self._usage


def read(usage: Usage | Bill | None) -> Usage | None:
    """What is known of it by now."""
    if type(usage) is Bill:
        usage = usage.read()
    return None if usage is UNKNOWN else usage  # type: ignore[return-value]  # a bill is read


class Reader:
    """Reads an answer for its usage as it passes.

    :param fields: of the response.
    """

    __slots__ = ("_carried", "_inflated", "_inflater", "_model", "_pieces", "_size", "_unread")

    def __init__(self, fields: Fields) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._model = ""
        self._carried = b""
        self._inflated = 0
        coding = fields.get(b"content-encoding", b"").strip().lower()
        self._inflater: Any = None
        self._unread = False
        if coding in (b"gzip", b"x-gzip", b"deflate"):
            self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either, by its first bytes
        elif coding not in (b"", b"identity"):
            self._unread = True

    def add(self, data: bytes) -> None:
        """More of the answer."""
        if self._unread:
            return
        if self._inflater is None:
            self._take(data)
        else:
            self._inflate(data)

    def _inflate(self, data: bytes) -> None:
        """Read what *data* is the compressed form of, in pieces."""
        inflater = self._inflater
        try:
            while data:
                piece = inflater.decompress(data, _INFLATED_AT_ONCE)
                self._inflated += len(piece)
                if self._inflated > MOST_INFLATED:
                    self._give_up()
                    return
                self._take(piece)
                data = inflater.unconsumed_tail
                if inflater.eof:  # gzip allows for another member (RFC 1952 §2.2)
                    data = inflater.unused_data
                    inflater = self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        except zlib.error:
            self._give_up()

    def _give_up(self) -> None:
        self._unread = True
        self._pieces.clear()
        self._carried = b""

    def _take(self, data: bytes) -> None:
        if not self._model:
            self._look_for_model(data)
        if not data:
            return
        pieces = self._pieces
        if len(data) > TAIL:
            data = data[-TAIL:]
        pieces.append(data)
        self._size += len(data)
        while self._size - len(pieces[0]) >= TAIL:
            self._size -= len(pieces.popleft())
        if len(pieces) > _MOST_PIECES:
            whole = b"".join(pieces)
            pieces.clear()
            pieces.append(whole)

    def _look_for_model(self, data: bytes) -> None:
        text = self._carried + data
        self._model = _model(text)
        at = text.find(_MODEL)
        if self._model or at < 0 or len(text) - at > _CARRIED:
            self._carried = text[-len(_MODEL) :]
        else:
            self._carried = text[at:]

    def usage(self) -> Usage:
        """What the answer said, once it is here; :data:`UNKNOWN` where it said nothing."""
        found = None if self._unread else _tokens(b"".join(self._pieces))
        return UNKNOWN if found is None else Usage(self._model, *found)
