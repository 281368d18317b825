"""A request as a fake server received it, and its parser on llhttp."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol

import attrs
import httptools

MAX_KEPT_BYTES = 1024 * 1024
"""The part of a body that is kept; the rest is hashed, counted and dropped."""

Field = tuple[bytes, bytes]


@attrs.define(eq=False)
class Request:
    """A request and its progress.

    :ivar number: position among the server's requests, from 1.
    :ivar connection: number of the server's connection, from 1.
    :ivar peer: address and port of the client.
    :ivar began: when the head was complete, in the clock's seconds.
    :ivar version: ``1.1`` or ``1.0``.
    :ivar headers: in order, with repeats and the original case.
    :ivar body: the first :data:`MAX_KEPT_BYTES` bytes.
    :ivar body_length: bytes of the whole body, without chunk framing.
    :ivar complete: the last byte of the request was received.
    :ivar paused: the answer is at a :class:`~tests.support.steps.Pause`.
    :ivar answered: the answer was written, or its script failed.
    :ivar lost: the connection was lost before the answer ended.
    :ivar ended: when the request was answered or lost, in the clock's seconds.
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
        """The digest of the whole body, in hex."""
        return str(self._digest.hexdigest())

    @property
    def line(self) -> str:
        """``GET /v1/models``."""
        return f"{self.method.decode('latin-1')} {self.path}"

    def header(self, name: bytes) -> bytes | None:
        """The first value of the field *name*, case-insensitive."""
        return next(iter(self.all(name)), None)

    def all(self, name: bytes) -> list[bytes]:
        """All values of the field *name*, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        """The decoded body; raises :class:`ValueError` if it is not JSON."""
        return json.loads(self._kept)

    def take(self, data: bytes) -> None:
        """Add *data* to the body."""
        self.body_length += len(data)
        self._digest.update(data)
        self._kept += data[: MAX_KEPT_BYTES - len(self._kept)]


class RequestReceiver(Protocol):
    """What a :class:`RequestParser` calls."""

    def open_request(
        self, method: bytes, target: bytes, version: str, headers: list[Field]
    ) -> Request:
        """Make the request whose head is complete."""

    def body_received(self, request: Request, data: bytes) -> None:
        """More of the body was received; *request* has it already."""

    def request_complete(self, request: Request) -> None:
        """The last byte of *request* was received."""


class RequestParser:
    """Parses bytes into requests for *receiver*.

    :meth:`feed` returns the bytes after an upgrade or a CONNECT, which are not HTTP; it raises
    :class:`httptools.HttpParserError` for malformed requests.
    """

    def __init__(self, receiver: RequestReceiver) -> None:
        self._receiver = receiver
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
            # A defect of the fake server must not be reported as a malformed request.
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
        self._request = self._receiver.open_request(
            self._parser.get_method(),
            self._target,
            self._parser.get_http_version(),
            self._fields,
        )

    def on_body(self, body: bytes) -> None:
        assert self._request is not None
        self._request.take(body)
        self._receiver.body_received(self._request, body)

    def on_message_complete(self) -> None:
        assert self._request is not None
        self._request.complete = True
        self._request.keep_alive = self._parser.should_keep_alive()
        self._receiver.request_complete(self._request)
