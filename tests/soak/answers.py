"""Answers that identify their request, and their verification.

The body of every upstream answer has the identity of its request (a hash of method, target,
credential and body), the version of the resource, the answer's status, and at the end the SHA-256
of everything before. So a client can verify that a complete answer belongs to its own request and
is unchanged, and can detect a truncation.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import attrs

DOCUMENT_END = b',"sha256":"%b"}'

STREAM_END = b'data: {"sha256":"%b"}\n\ndata: [DONE]\n\n'


class WrongAnswer(Exception):
    """The answer is not the expected one; the argument says why."""


class Truncated(WrongAnswer):
    """The answer looks complete but is not."""


@attrs.frozen
class Info:
    """What an answer says about itself.

    :ivar identity: of the request.
    :ivar version: of the resource.
    :ivar status: that the answer was sent with.
    :ivar state: of a batch: ``in_progress`` or ``completed``.
    """

    identity: str
    version: int = 0
    status: int = 200
    state: str = ""


def identity(method: bytes, target: bytes, credential: bytes, body_sha256: str) -> str:
    """The identity of a request."""
    digest = hashlib.sha256()
    for part in (method, target, credential, body_sha256.encode()):
        digest.update(b"%d:%b" % (len(part), part))
    return digest.hexdigest()[:32]


def filler(info: Info, size: int) -> bytes:
    """*size* bytes that differ from those of every other answer."""
    unit = hashlib.sha256(f"{info.identity} {info.version}".encode()).hexdigest().encode()
    return (unit * (size // len(unit) + 1))[:size]


def document(info: Info, size: int) -> bytes:
    """A JSON body of slightly more than *size* bytes."""
    fields = {"identity": info.identity, "version": info.version, "code": info.status}
    if info.state:
        fields["status"] = info.state
    start = json.dumps(fields, separators=(",", ":")).encode()[:-1]
    start += b',"filler":"' + filler(info, size) + b'"'
    return start + DOCUMENT_END % _sha256(start)


def events(info: Info, count: int, size: int) -> list[bytes]:
    """The pieces of a stream of *count* events, and the two final events."""
    first = {"identity": info.identity, "version": info.version, "code": info.status}
    pieces = [b"data: %b\n\n" % json.dumps(first).encode()]
    text = filler(info, size).decode()
    pieces += [b'data: {"number":%d,"text":"%b"}\n\n' % (n, text.encode()) for n in range(count)]
    last = STREAM_END % _sha256(b"".join(pieces))
    cut = last.index(b"data: [DONE]")
    return [*pieces, last[:cut], last[cut:]]


def verify(body: bytes) -> Info:
    """What a complete answer says about itself.

    :raises WrongAnswer: if the body is incomplete or was changed.
    """
    if body.startswith(b"data: "):
        start, checksum = _split(body, STREAM_END)
        fields = _parsed(start.partition(b"\n\n")[0][len(b"data: ") :])
    else:
        start, checksum = _split(body, DOCUMENT_END)
        fields = _parsed(start + b"}")
    if checksum != _sha256(start):
        raise WrongAnswer("the checksum does not match")
    return Info(fields["identity"], fields["version"], fields["code"], fields.get("status", ""))


def _split(body: bytes, end: bytes) -> tuple[bytes, bytes]:
    """*body* without its *end*, and the checksum in *end*."""
    before, _, after = end.partition(b"%b")
    length = len(before) + 64 + len(after)
    start, last = body[:-length], body[-length:]
    if not (last.startswith(before) and last.endswith(after)):
        raise Truncated(f"the end is missing: {len(body)} bytes that end in {body[-40:]!r}")
    return start, last[len(before) : len(before) + 64]


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise WrongAnswer(f"not an answer of the upstream: {text[:80]!r}") from None


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
