"""The bytes of answers, for fake servers and scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from tests.support.requests import Field, Request
from tests.support.steps import Answer, Step, Wait


def response(
    body: bytes = b"",
    status: int = 200,
    headers: Sequence[Field] = (),
    content_type: bytes = b"application/json",
) -> bytes:
    """A complete answer; *headers* follow ``Date`` and ``Content-Type``."""
    fields = [
        (b"Date", _now()),
        (b"Content-Type", content_type),
        *headers,
        (b"Content-Length", b"%d" % len(body)),
    ]
    return head(status, fields) + body


def head(status: int, headers: Iterable[Field]) -> bytes:
    """A status line and *headers* only."""
    line = b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())
    return b"\r\n".join([line, *(b"%s: %s" % field for field in headers), b"", b""])


def chunk(data: bytes) -> bytes:
    """*data* as one chunk; an empty *data* is the last chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(data: Any) -> bytes:
    """A server-sent event."""
    return b"data: %s\n\n" % json.dumps(data, separators=(",", ":")).encode()


def sse(events: Iterable[bytes], interval: float, headers: Sequence[Field] = ()) -> Answer:
    """A chunked event stream: each event is one chunk, *interval* seconds after the previous."""
    fields = [
        (b"Date", _now()),
        (b"Content-Type", b"text/event-stream; charset=utf-8"),
        *headers,
        (b"Transfer-Encoding", b"chunked"),
    ]
    steps: list[bytes | Step] = [head(200, fields)]
    for number, each in enumerate(events):
        steps += [Wait(interval), chunk(each)] if number else [chunk(each)]
    return [*steps, chunk(b"")]


def framed(request: Request, data: bytes) -> bytes:
    """A part of *request*'s body in the framing of its head; an empty part ends the body."""
    coding = b",".join(request.all(b"transfer-encoding")).lower()
    return chunk(data) if b"chunked" in coding else data


def origin_head(request: Request) -> bytes:
    """The head of an absolute-form *request* as the origin gets it, without ``Proxy-`` fields."""
    _, _, target = request.target.partition(b"://")
    _, _, path = target.partition(b"/")
    lines = [b"%s /%s HTTP/%s" % (request.method, path, request.version.encode())]
    for name, value in request.headers:
        if name.lower() not in (b"proxy-authorization", b"proxy-connection"):
            lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"", b""])


def _now() -> bytes:
    return formatdate(usegmt=True).encode()
