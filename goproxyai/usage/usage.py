"""Token usage: the ``usage`` object in OpenAI's JSON responses and event streams.

1. Usage is read from 2xx responses to POSTs to :data:`GENERATING_PATHS`. A GET that returns a
   stored completion is not billed again.
2. The search starts at the end: the object stands at the end of the document, or in the last event
   of a stream. Only the last :data:`TAIL_BYTES` are searched, so that the result is the same for a
   whole response and for a response in any pieces. A ``"usage"`` inside of a string has escaped
   quotes and does not match. A value that is no object or has no counts is skipped.
3. The names are those of Chat Completions (``prompt_tokens``, ``completion_tokens``), Responses
   (``input_tokens``, ``output_tokens``) or transcriptions (``input_token_details``). Details that
   cannot be read count as absent.
4. Cached and cache-write tokens are disjoint parts of the prompt tokens. Reasoning and prediction
   tokens are parts of the completion tokens. Audio and image tokens are parts of either.
5. Nothing is guessed: a response that is cut, has no usage or cannot be read has no usage.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple, Protocol

import msgspec

from goproxyai.messages.redaction import mask_credentials

TAIL_BYTES: Final = 16 * 1024
"""Bytes at the end of a response that are searched for its usage."""

MAX_MODEL_CHARACTERS: Final = 100

GENERATING_PATHS: Final = frozenset(
    (
        b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses",
        b"/v1/responses/compact", b"/v1/decisions",
        b"/v1/images/generations", b"/v1/images/edits", b"/v1/images/variations",
        b"/v1/audio/transcriptions", b"/v1/audio/translations", b"/v1/audio/speech",
    )
)  # fmt: skip
"""Paths whose POSTs upstream bills by usage; under another prefix than ``/v1``, their ends."""

_GENERATING_ENDS = tuple(path.removeprefix(b"/v1") for path in sorted(GENERATING_PATHS))
_MAX_OBJECTS = 8  # in a usage, itself included; upstream sends at most four
_MAX_CANDIDATES = 8
_MAX_MODELS = 256

_USAGE = b'"usage"'
_MODEL = b'"model"'
_MODEL_NAME = re.compile(rb'"model"\s{0,4}:\s{0,4}"([\x21\x23-\x5b\x5d-\x7e]{1,100})"')
_match_object_start = re.compile(rb"\s{0,8}:\s{0,8}(?=\{)").match
_models: dict[bytes, str] = {}  # by the text from the colon to the end of the name
_masked_models: dict[str, str] = {}  # by the name itself


class UsageSource(Protocol):
    """Has the usage of a response: a :class:`Usage`, :class:`UnreadResponse` or cache entry."""

    def usage(self) -> Usage | None:
        """Return the usage, ``None`` if the response has none."""


class Details(NamedTuple):
    """Parts of the tokens of one response, apart from cached and reasoning tokens.

    :ivar cache_write: the part of the prompt tokens that upstream wrote to its cache.
    :ivar cache_write_12h: the part of those that upstream keeps for 12 hours.
    :ivar audio_prompt: the part of the prompt tokens that is audio.
    :ivar audio_completion: the part of the completion tokens that is audio.
    :ivar image_prompt: the part of the prompt tokens that is images.
    :ivar image_completion: the part of the completion tokens that is images.
    :ivar accepted_prediction: tokens of a predicted output that are in the completion.
    :ivar rejected_prediction: tokens of a predicted output that are billed as completion tokens
        without being in the completion.
    """

    cache_write: int = 0
    cache_write_12h: int = 0
    audio_prompt: int = 0
    audio_completion: int = 0
    image_prompt: int = 0
    image_completion: int = 0
    accepted_prediction: int = 0
    rejected_prediction: int = 0


NO_DETAILS: Final = Details()
"""Shared by all usages without details, so that counting may skip it by identity."""

COUNTS: Final = 4 + len(Details._fields)
"""Length of :meth:`Usage.counts`."""


class Usage(NamedTuple):
    """The tokens of one response.

    :ivar model: as the response names it, else empty.
    :ivar prompt: tokens of the request.
    :ivar completion: tokens of the response.
    :ivar cached: the part of the prompt tokens that upstream had cached.
    :ivar reasoning: the hidden part of the completion tokens.
    :ivar details: further parts of the tokens.
    """

    model: str
    prompt: int
    completion: int
    cached: int
    reasoning: int
    details: Details = NO_DETAILS

    @classmethod
    def of(cls, model: str, counts: Sequence[int]) -> Usage:
        """Return the usage whose :meth:`counts` are *counts*."""
        prompt, completion, cached, reasoning, *details = counts
        return cls(
            model, prompt, completion, cached, reasoning,
            Details(*details) if any(details) else NO_DETAILS,
        )  # fmt: skip

    def counts(self) -> tuple[int, ...]:
        """Return the numbers of tokens: those of the fields, then those of the details."""
        _, prompt, completion, cached, reasoning, details = self
        return prompt, completion, cached, reasoning, *details

    def usage(self) -> Usage:
        """Return itself: a usage is a :class:`UsageSource`."""
        return self


class MeteredDocument(Protocol):
    """A decoded response: the members that tell its usage.

    :ivar model: empty if the response does not name its model.
    """

    model: str
    usage: UsageObject | None


class UnreadResponse:
    """The body of a complete, uncoded response whose usage is not read yet.

    Reading waits for the next batch of the access log. The body is released once it is read.

    :ivar document: the decoded body, where the cache has judged it, so that it is decoded once.
    """

    __slots__ = ("_body", "_usage", "document")

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._usage: Usage | None = None
        self.document: MeteredDocument | None = None

    def usage(self) -> Usage | None:
        """Return the usage that the body reports, ``None`` if it reports none."""
        body = self._body
        if body is not None:
            document, self.document, self._body = self.document, None, None
            if document is not None and document.usage is not None:
                self._usage = _usage_of(_masked_model(document.model), document.usage)
            if self._usage is None:
                self._usage = read_usage(body)
        return self._usage


def generates(method: bytes, path: bytes) -> bool:
    """Whether upstream bills the request by the usage in its response."""
    return method == b"POST" and (
        path in GENERATING_PATHS
        or (not path.startswith(b"/v1/") and path.endswith(_GENERATING_ENDS))
    )


def read_usage(body: bytes) -> Usage | None:
    """Return the usage of a complete response without content coding, ``None`` if it has none."""
    return find_usage(body, find_model(body))


def _masked_model(model: str) -> str:
    """Return the name of a model without credentials; empty for what :func:`find_model` skips."""
    known = _masked_models.get(model)
    if known is None:
        valid = _MODEL_NAME.fullmatch(b'"model":"%b"' % model.encode()) is not None
        known = mask_credentials(model) if valid else ""
        if len(_masked_models) >= _MAX_MODELS:
            _masked_models.clear()
        if len(model) <= MAX_MODEL_CHARACTERS:
            _masked_models[model] = known
    return known


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
    if end < 0:  # the text may end within the name
        return ""
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


def find_usage(text: bytes, model: str) -> Usage | None:
    """Return the last usage in the last :data:`TAIL_BYTES` of *text*, ``None`` if there is none.

    :param model: the model of the usage.
    """
    first = max(0, len(text) - TAIL_BYTES)
    at = len(text)
    for _ in range(_MAX_CANDIDATES):
        at = text.rfind(_USAGE, first, at)
        if at < 0:
            break
        found = _read_rest(text, at) or _read_object(text, at)
        usage = None if found is None else _usage_of(model, found)
        if usage is not None:
            return usage
    return None


_Count = Annotated[int, msgspec.Meta(ge=0, lt=10**12)] | None


class _CacheWrites(msgspec.Struct, frozen=True, gc=False):
    ttl_12h_tokens: _Count = 0


class _PromptDetails(msgspec.Struct, frozen=True, gc=False):
    cached_tokens: _Count = 0
    cache_write_tokens: _Count = 0
    cache_write_tokens_details: _CacheWrites | None = None
    audio_tokens: _Count = 0
    image_tokens: _Count = 0


class _CompletionDetails(msgspec.Struct, frozen=True, gc=False):
    reasoning_tokens: _Count = 0
    audio_tokens: _Count = 0
    image_tokens: _Count = 0
    accepted_prediction_tokens: _Count = 0
    rejected_prediction_tokens: _Count = 0


class _Counts(msgspec.Struct, frozen=True, gc=False):
    """A usage object without its details."""

    prompt_tokens: _Count = None
    input_tokens: _Count = None
    completion_tokens: _Count = None
    output_tokens: _Count = None


class UsageObject(_Counts, frozen=True, gc=False):
    """The value of ``usage`` in a response, under all names that the API has for its counts."""

    prompt_tokens_details: _PromptDetails | None = None
    input_tokens_details: _PromptDetails | None = None
    input_token_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    output_tokens_details: _CompletionDetails | None = None
    output_token_details: _CompletionDetails | None = None


class _Rest(msgspec.Struct, frozen=True, gc=False):
    """The rest of a document, from its usage."""

    usage: UsageObject | None = None


_NO_PROMPT_DETAILS = _PromptDetails()
_NO_COMPLETION_DETAILS = _CompletionDetails()
_NO_CACHE_WRITES = _CacheWrites()
_decode_rest = msgspec.json.Decoder(_Rest).decode
_decode_object = msgspec.json.Decoder(UsageObject).decode
_decode_counts = msgspec.json.Decoder(_Counts).decode
_INVALID = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _usage_of(model: str, found: UsageObject) -> Usage | None:
    """Return the usage that a usage object tells, ``None`` if it has no counts."""
    prompt = found.prompt_tokens
    if prompt is None:
        prompt = found.input_tokens
    completion = found.completion_tokens
    if completion is None:
        completion = found.output_tokens
    if prompt is None and completion is None:
        return None
    before = (
        found.prompt_tokens_details or found.input_tokens_details or found.input_token_details
        or _NO_PROMPT_DETAILS
    )  # fmt: skip
    after = (
        found.completion_tokens_details or found.output_tokens_details or found.output_token_details
        or _NO_COMPLETION_DETAILS
    )  # fmt: skip
    # `Usage(...)` takes three times as long.
    return tuple.__new__(
        Usage,
        (
            model, prompt or 0, completion or 0,
            before.cached_tokens or 0, after.reasoning_tokens or 0, _details(before, after),
        ),
    )  # fmt: skip


def _read_rest(text: bytes, at: int) -> UsageObject | None:
    """Return the usage object whose name begins at *at*, if *text* ends with its document.

    Most responses are whole documents, and the end of the object need not be found: 1 us less.
    """
    try:
        return _decode_rest(b"{" + text[at:]).usage
    except _INVALID:
        return None


def _read_object(text: bytes, at: int) -> UsageObject | None:
    """Return the usage object whose name begins at *at*, without its details if invalid."""
    match = _match_object_start(text, at + len(_USAGE))
    if match is None:
        return None
    start = match.end()
    document = text[start : _object_end(text, start)]
    try:
        return _decode_object(document)
    except _INVALID:
        pass
    try:
        return UsageObject(*msgspec.structs.astuple(_decode_counts(document)))
    except _INVALID:
        return None


def _object_end(text: bytes, start: int) -> int:
    """Return the end of the JSON object that begins at *start*, *start* if it is not found.

    Braces in strings mislead the search, and the object is then no JSON. Upstream has none there.
    """
    end = start
    for closed in range(1, _MAX_OBJECTS + 1):
        end = text.find(b"}", end) + 1
        if not end:
            break
        if text.count(b"{", start, end) == closed:
            return end
    return start


def _details(before: _PromptDetails, after: _CompletionDetails) -> Details:
    """Return the details of prompt and completion tokens."""
    writes = before.cache_write_tokens_details or _NO_CACHE_WRITES
    if not (
        before.cache_write_tokens or before.audio_tokens or before.image_tokens
        or after.audio_tokens or after.image_tokens or after.accepted_prediction_tokens
        or after.rejected_prediction_tokens or writes.ttl_12h_tokens
    ):  # fmt: skip  # most responses
        return NO_DETAILS
    counts = (
        before.cache_write_tokens, writes.ttl_12h_tokens,
        before.audio_tokens, after.audio_tokens, before.image_tokens, after.image_tokens,
        after.accepted_prediction_tokens, after.rejected_prediction_tokens,
    )  # fmt: skip
    return Details(*[count or 0 for count in counts])
