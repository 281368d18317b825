"""Whether the answer to a cacheable request is complete and succeeded.

Upstreams and gateways send failures with status 200. Only an answer with this shape is stored:

====================================== =====================================================
answer                                 shape
====================================== =====================================================
chat completion, completion            JSON without ``error``; each choice has a
                                       ``finish_reason``, which is not ``error``, and no
                                       ``error`` of its own
embeddings                             JSON without ``error``, with ``data``
response (``/v1/responses``)           JSON without ``error``, ``status`` is ``completed``
other JSON                             without ``error``
other, no HTML page                    any, but JSON with an ``error``; not a completion,
                                       embeddings or response
event stream                           no event reports an error (``event: error``, data with
                                       ``error``, of type ``error`` or ``response.failed``);
                                       it has data, and ends with ``[DONE]``, after a
                                       ``finish_reason`` of each choice that began, or with
                                       ``response.completed``, which a stream with events
                                       ``response.…`` needs before ``[DONE]``, too
====================================== =====================================================

An empty body, and a body that cannot be decoded or parsed, have none of these shapes. UTF-8 is
checked separately, because the parser does not check the members that it skips. Nothing here
depends on how a stream is cut into pieces.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import attrs
import msgspec

from goproxyai.cache.event_lines import EventLines, EventTooLarge
from goproxyai.messages.decoding import DecodingFailed, decode_body, decoded_pieces
from goproxyai.messages.headers import Fields
from goproxyai.messages.media_types import begins_as_json
from goproxyai.usage.usage import UnreadResponse, UsageObject

MAX_JUDGED_BYTES: Final = 16 * 1024 * 1024
"""Of an answer without its content coding; a longer one is not stored."""

MAX_CHOICES: Final = 128
"""Choices of one completion, as in the API."""

JUDGED_TOGETHER_BYTES: Final = 4 * 1024
"""Bytes of short pieces of a stream that are judged at once. Judging each piece by itself takes
three times as long, half the time of relaying an event of 350 bytes
(``python -m bench.instructions``)."""

_DONE = b"[DONE]"
_ERROR_TYPES = frozenset(("error", "response.failed"))
_RESPONSE_EVENT = "response."
_COMPLETED = "response.completed"


# A miss pays for the parsing: the structs name only what decides and what tells the usage, and skip
# the rest unread. A response whose usage or model cannot be read is decoded again without them.


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None
    error: Any = None


class _Completion(msgspec.Struct):
    """The members of a completion, or of an event's data, that decide."""

    error: Any = None
    choices: list[_Choice] | None = None
    type: str | None = None


class _Embeddings(msgspec.Struct):
    error: Any = None
    data: list[msgspec.Raw] | None = None


class _Response(msgspec.Struct):
    error: Any = None
    status: str | None = None


class _Other(msgspec.Struct):
    error: Any = None


class _MeteredCompletion(_Completion):
    model: str = ""
    usage: UsageObject | None = None


class _MeteredEmbeddings(_Embeddings):
    model: str = ""
    usage: UsageObject | None = None


class _MeteredResponse(_Response):
    model: str = ""
    usage: UsageObject | None = None


_decode_completion = msgspec.json.Decoder(_Completion).decode


@attrs.frozen(eq=False)
class AnswerCheck:
    """How an answer is judged.

    :ivar judge: returns whether a decoded document is that of a success.
    :ivar decode: decodes what decides; raises what ``msgspec`` does.
    :ivar decode_metered: decodes what tells the usage as well; ``None`` if there is no usage.
    """

    judge: Callable[[Any], bool]
    decode: Callable[[bytes], Any]
    decode_metered: Callable[[bytes], Any] | None = None


def _is_finished(answer: _Completion) -> bool:
    for choice in answer.choices or ():
        if not choice.finish_reason or choice.finish_reason == "error" or choice.error:
            return False
    return not answer.error


def _has_data(answer: _Embeddings) -> bool:
    return bool(answer.data) and not answer.error


def _is_completed(answer: _Response) -> bool:
    return answer.status == "completed" and not answer.error


def _has_no_error(answer: _Other) -> bool:
    return not answer.error


COMPLETION: Final = AnswerCheck(
    _is_finished, _decode_completion, msgspec.json.Decoder(_MeteredCompletion).decode
)
EMBEDDINGS: Final = AnswerCheck(
    _has_data,
    msgspec.json.Decoder(_Embeddings).decode,
    msgspec.json.Decoder(_MeteredEmbeddings).decode,
)
RESPONSE: Final = AnswerCheck(
    _is_completed,
    msgspec.json.Decoder(_Response).decode,
    msgspec.json.Decoder(_MeteredResponse).decode,
)
OTHER: Final = AnswerCheck(_has_no_error, msgspec.json.Decoder(_Other).decode)

_CHECKS: Final = {
    b"/chat/completions": COMPLETION,
    b"/completions": COMPLETION,
    b"/embeddings": EMBEDDINGS,
    b"/responses": RESPONSE,
}


def answer_check(is_get: bool, path: bytes) -> AnswerCheck:
    """Return the check for the answers to a request.

    :param path: without the query.
    """
    if not is_get:
        for suffix, check in _CHECKS.items():
            if path.endswith(suffix):
                return check
    return OTHER


def succeeded(
    check: AnswerCheck, fields: Fields, body: bytes, unread: UnreadResponse | None = None
) -> bool:
    """Return whether a complete answer with status 200 or 201 succeeded; no event stream.

    :param check: from :func:`answer_check`.
    :param fields: of the response.
    :param body: as received.
    :param unread: gets the decoded document, so that its usage is read by the same pass.
    """
    media_type = fields.get(b"content-type", b"")
    if media_type != b"application/json":  # most answers have it
        media_type = media_type.lower()
        if not body or b"json" not in media_type:
            is_page = b"html" in media_type
            return check is OTHER and body != b"" and not (is_page or _reports_error(fields, body))
    decoded = _plain(fields, body)
    if decoded is None:
        return False
    try:
        _require_utf8(decoded)
        return check.judge(_decoded(check, decoded, unread))
    except msgspec.ValidationError:  # JSON of another shape: a list, or members of other types
        return check is OTHER
    except (ValueError, RecursionError):
        return False


def _require_utf8(text: bytes) -> None:
    """Raise :exc:`UnicodeDecodeError` if *text* is not UTF-8."""
    if not text.isascii():
        text.decode()


def _reports_error(fields: Fields, body: bytes) -> bool:
    """Return whether a body that is not declared as JSON is a JSON object with ``error``."""
    decoded = _plain(fields, body)
    if decoded is None or not begins_as_json(decoded):
        return False
    try:
        return not OTHER.judge(OTHER.decode(decoded))
    except (ValueError, RecursionError):
        return False


def is_json(fields: Fields, body: bytes) -> bool:
    """Return whether the complete *body* of a response is JSON.

    :param body: as received.
    """
    decoded = _plain(fields, body)
    if decoded is None:
        return False
    try:
        msgspec.json.decode(decoded)
    except (ValueError, RecursionError):
        return False
    return True


def _plain(fields: Fields, body: bytes) -> bytes | None:
    """Return *body* without its content coding, ``None`` if it cannot be decoded."""
    coding = fields.get(b"content-encoding")
    return body if coding is None else decode_body(coding, body, MAX_JUDGED_BYTES)


def _decoded(check: AnswerCheck, body: bytes, unread: UnreadResponse | None) -> Any:
    """Return the decoded document, and give it to *unread* if it tells the usage."""
    if unread is not None and check.decode_metered is not None:
        try:
            unread.document = check.decode_metered(body)
        except msgspec.ValidationError:
            pass  # the usage cannot be read, which does not decide
        else:
            return unread.document
    return check.decode(body)


class StreamJudge:
    """Judges an event stream as its pieces arrive.

    The memory is bounded: the judge keeps one event, of at most
    :data:`~.event_lines.MAX_EVENT_BYTES`, and short pieces up to :data:`JUDGED_TOGETHER_BYTES`.
    """

    __slots__ = (
        "_begun", "_failed", "_finished", "_has_data", "_has_ended", "_is_response", "_lines",
        "_pieces", "_size",
    )  # fmt: skip

    def __init__(self) -> None:
        self._lines = EventLines()
        self._pieces: list[bytes] = []  # to be judged together
        self._size = 0  # of the pieces
        self._failed = False
        self._has_data = False
        self._has_ended = False
        self._is_response = False
        self._begun: set[int] = set()
        self._finished: set[int] = set()

    def add(self, data: bytes) -> None:
        """Judge the next piece of the stream, without content coding."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= JUDGED_TOGETHER_BYTES:
            self._judge_pieces()

    def _judge_pieces(self) -> None:
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._failed:
            return
        try:
            for name, text in self._lines.feed(data):
                self._judge(name, text)
        except EventTooLarge:
            self._failed = True

    def succeeded(self) -> bool:
        """Return whether the stream, which is complete now, succeeded."""
        self._judge_pieces()
        rest = self._lines.end()
        if rest is not None and not self._failed:
            if rest[1].strip() == _DONE:  # its blank line is missing
                self._judge(*rest)
            else:
                self._failed = True
        return self._has_ended and not self._failed

    def _judge(self, name: bytes, text: bytes) -> None:
        if self._failed:
            return
        if not name and text.startswith(b"{"):  # nearly always
            self._judge_document("", text)
            return
        type_of_name = name.decode("latin-1")
        if type_of_name in _ERROR_TYPES:
            self._failed = True
        elif text.strip() == _DONE:
            is_complete = self._has_ended or not self._is_response
            self._failed = not (is_complete and self._has_data and self._begun <= self._finished)
            self._has_ended = True
        elif text.lstrip()[:1] == b"{":
            self._judge_document(type_of_name, text)
        elif text:
            self._has_data = True
            self._judge_type(type_of_name)

    def _judge_type(self, kind: str) -> None:
        """Judge the type of an event that has data."""
        self._has_ended = kind == _COMPLETED
        if kind.startswith(_RESPONSE_EVENT):
            self._is_response = True
        if kind in _ERROR_TYPES:
            self._failed = True

    def _judge_document(self, name: str, text: bytes) -> None:
        self._has_data = True
        try:
            _require_utf8(text)
            answer = _decode_completion(text)
        except msgspec.ValidationError:
            self._judge_unusual_document(name, text)
            return
        except (ValueError, RecursionError):
            self._failed = True
            return
        self._judge_type(answer.type or name)
        if answer.error:
            self._failed = True
        for choice in answer.choices or ():
            self._begun.add(choice.index)
            if choice.finish_reason == "error" or choice.error or len(self._begun) > MAX_CHOICES:
                self._failed = True
            elif choice.finish_reason:
                self._finished.add(choice.index)

    def _judge_unusual_document(self, name: str, text: bytes) -> None:
        """Judge JSON whose members have other types than those of the API."""
        try:
            document: dict[str, Any] = json.loads(text)
        except (ValueError, RecursionError):
            self._failed = True
            return
        found = document.get("type")
        self._judge_type(found if isinstance(found, str) else name)
        if document.get("error") or document.get("choices"):
            self._failed = True


def coded_stream_succeeded(coding: bytes, body: bytes) -> bool:
    """Return whether a complete event stream with a content coding succeeded.

    :param body: as received.
    """
    judge = StreamJudge()
    try:
        for piece in decoded_pieces(coding, body, MAX_JUDGED_BYTES):
            judge.add(piece)
    except DecodingFailed:
        return False
    return judge.succeeded()
