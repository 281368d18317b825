"""A request as it came over the wire, and the llhttp callbacks that take it apart."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol

import attrs
import httptools

KEPT = 1024 * 1024
"""Bytes of a body that are kept; the rest is hashed, counted and dropped."""

Field = tuple[bytes, bytes]


@attrs.define(eq=False)
class Request:
    """What was asked, how far it came, and how it ended.

    :ivar number: counts a server's requests, from 1.
    :ivar connection: counts a server's connections, from 1.
    :ivar peer: the address and port that the connection came from.
    :ivar began: when the head was complete, in the clock's seconds.
    :ivar version: ``1.1`` or ``1.0``.
    :ivar headers: in order, repeats kept, spelled as they came.
    :ivar body: the first :data:`KEPT` bytes.
    :ivar body_length: all bytes, chunk framing not counted.
    :ivar complete: the request's last byte is here.
    :ivar paused: the answer hangs in a :class:`~tests.support.steps.Pause`.
    :ivar answered: the answer is written, or its script ended otherwise.
    :ivar lost: the connection was lost before that.
    :ivar ended: when it was answered or lost.
    """

    number: int
    connection: int
    peer: tuple[str, int]
    began: float
    method: bytes
    target: bytes
    version: str
    headers: list[Field]
    trailers: list[Field] = attrs.Factory(list)
    keep_alive: bool = True
    body_length: int = 0
    complete: bool = False
    paused: bool = False
    answered: bool = False
    lost: bool = False
    ended: float | None = None
    _kept: bytearray = attrs.field(factory=bytearray, repr=False)
    _digest: Any = attrs.field(factory=hashlib.sha256, repr=False)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def body(self) -> bytes:
        return bytes(self._kept)

    @property
    def sha256(self) -> str:
        """Of the whole body, in hex."""
        return str(self._digest.hexdigest())

    @property
    def line(self) -> str:
        """``GET /v1/models``."""
        return f"{self.method.decode('latin-1')} {self.path}"

    def header(self, name: bytes) -> bytes | None:
        """The first field called *name*, whatever the case."""
        return next(iter(self.all(name)), None)

    def all(self, name: bytes) -> list[bytes]:
        """Every field called *name*, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        """The body, decoded; raises :class:`ValueError` where it is not JSON."""
        return json.loads(self._kept)

    def take(self, data: bytes) -> None:
        """More of the body."""
        self.body_length += len(data)
        self._digest.update(data)
        self._kept += data[: KEPT - len(self._kept)]


class Reader(Protocol):
    """Who is told what was read."""

    def open_request(
        self, method: bytes, target: bytes, version: str, headers: list[Field]
    ) -> Request:
        """The head is complete."""

    def body_came(self, request: Request, data: bytes) -> None:
        """More of the body, written down already."""

    def request_complete(self, request: Request) -> None:
        """The last byte is here."""


class RequestParser:
    """Feed it bytes; it tells *reader*.

    :meth:`feed` returns the bytes behind an upgrade or a CONNECT, which are not HTTP; it raises
    :class:`httptools.HttpParserError` for what is not a request.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._fields: list[Field] = []
        self._request: Request | None = None

    def feed(self, data: bytes) -> bytes:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            # A double's own mistake, which must not pass for the peer's.
            raise (error.__context__ or error) from None
        return b""

    # What llhttp calls.

    def on_message_begin(self) -> None:
        self._target, self._fields, self._request = b"", [], None

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        fields = self._fields if self._request is None else self._request.trailers
        fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._request = self._reader.open_request(
            self._parser.get_method(),
            self._target,
            self._parser.get_http_version(),
            self._fields,
        )

    def on_body(self, body: bytes) -> None:
        assert self._request is not None
        self._request.take(body)
        self._reader.body_came(self._request, body)

    def on_message_complete(self) -> None:
        assert self._request is not None
        self._request.complete = True
        self._request.keep_alive = self._parser.should_keep_alive()
        self._reader.request_complete(self._request)
