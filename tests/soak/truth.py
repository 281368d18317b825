"""Answers that say themselves what they answer, and the judgement of what came.

Every answer of upstream's holds, in its body: the identity of what was asked (a hash over method,
target, credential and body), the version of the resource, its own status, and behind all that the
SHA-256 of everything before it. So whoever asked can tell, of what came, whether it is the answer
to his own question, whole and unchanged; and of what was cut, that it was cut.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import attrs

SEAL = b',"sha256":"%b"}'
"""What ends a document."""

LAST_EVENTS = b'data: {"sha256":"%b"}\n\ndata: [DONE]\n\n'
"""What ends a stream."""


class Wrong(Exception):
    """What came is not what was asked for; the argument says how."""


class Truncated(Wrong):
    """What came passes for whole, and is not."""


@attrs.frozen
class Told:
    """What an answer says of itself.

    :ivar identity: of what was asked.
    :ivar version: of the resource.
    :ivar code: the status that it was sent with.
    :ivar state: of a batch, ``in_progress`` or ``completed``.
    """

    identity: str
    version: int = 0
    code: int = 200
    state: str = ""


def identity(method: bytes, target: bytes, credential: bytes, body_sha: str) -> str:
    """The identity of a request."""
    digest = hashlib.sha256()
    for part in (method, target, credential, body_sha.encode()):
        digest.update(b"%d:%b" % (len(part), part))
    return digest.hexdigest()[:32]


def filler(told: Told, size: int) -> bytes:
    """*size* bytes that no other answer has."""
    unit = hashlib.sha256(f"{told.identity} {told.version}".encode()).hexdigest().encode()
    return (unit * (size // len(unit) + 1))[:size]


def document(told: Told, size: int) -> bytes:
    """A JSON body of somewhat more than *size* bytes."""
    named = {"identity": told.identity, "version": told.version, "code": told.code}
    if told.state:
        named["status"] = told.state
    start = json.dumps(named, separators=(",", ":")).encode()[:-1]
    start += b',"filler":"' + filler(told, size) + b'"'
    return start + SEAL % _hex(start)


def events(told: Told, count: int, size: int) -> list[bytes]:
    """The pieces of a stream of *count* events, and the two that end it."""
    first = {"identity": told.identity, "version": told.version, "code": told.code}
    pieces = [b"data: %b\n\n" % json.dumps(first).encode()]
    text = filler(told, size).decode()
    pieces += [b'data: {"number":%d,"text":"%b"}\n\n' % (n, text.encode()) for n in range(count)]
    last = LAST_EVENTS % _hex(b"".join(pieces))
    cut = last.index(b"data: [DONE]")
    return [*pieces, last[:cut], last[cut:]]


def read(body: bytes) -> Told:
    """What a complete answer says.

    :raises Wrong: where it is not whole, or was changed on the way.
    """
    if body.startswith(b"data: "):
        start, said = _split(body, LAST_EVENTS)
        named = _loaded(start.partition(b"\n\n")[0][len(b"data: ") :])
    else:
        start, said = _split(body, SEAL)
        named = _loaded(start + b"}")
    if said != _hex(start):
        raise Wrong("its bytes are not those that were sent")
    return Told(named["identity"], named["version"], named["code"], named.get("status", ""))


def _split(body: bytes, end: bytes) -> tuple[bytes, bytes]:
    before, _, behind = end.partition(b"%b")
    tail = len(before) + 64 + len(behind)
    start, last = body[:-tail], body[-tail:]
    if not (last.startswith(before) and last.endswith(behind)):
        raise Truncated(f"its end is missing: {len(body)} bytes end in {body[-40:]!r}")
    return start, last[len(before) : len(before) + 64]


def _loaded(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise Wrong(f"it is no answer of upstream's: {text[:80]!r}") from None


def _hex(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
