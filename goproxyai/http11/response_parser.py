"""Parse the responses of one upstream: bytes in, a :class:`~.response.Response` and its body out.

llhttp checks the syntax (RFC 9112) and calls the ``on_*`` methods. This module adds the limits that
llhttp does not have, and decides how a body is delimited (RFC 9112 §6.3).
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from twisted.web.iweb import UNKNOWN_LENGTH

from goproxyai.http11.connection_states import ResponseInputState
from goproxyai.http11.errors import ProtocolViolation
from goproxyai.http11.framing import MAX_HEADER_BYTES, MAX_HEADER_FIELDS
from goproxyai.http11.response import Response, ResponseConnection
from goproxyai.messages.header_templates import template_of
from goproxyai.messages.headers import Fields, Headers
from goproxyai.messages.websocket import opens_websocket

MAX_REASON_BYTES = 1024
"""Of a reason phrase."""

MAX_HEADER_TEXTS = 2 * MAX_HEADER_FIELDS
"""Names and values of a header."""

TOO_MANY_FIELDS = f"its header exceeds {MAX_HEADER_FIELDS} fields"
"""The number is checked after each read, and when the header is complete."""

MAX_UNCOUNTED_HEAD_BYTES = 8 * 1024
"""Bytes of a response head that is small enough not to be counted as memory in progress."""

MAX_UNCOUNTED_TEXTS = 2 * 64
"""Names and values of such a head."""

TEXT_MEMORY_BYTES = 110
"""Memory of a name or a value besides its bytes: bytes objects, and their parts of the template and
of the fields by name. 500 streams with 190 short fields each took 215 bytes a field."""

SWITCHING_PROTOCOLS = 101

MAX_INTERIM_RESPONSES = 32
"""Interim responses (RFC 9110 §15.2) to one request."""

HEAD, INTERIM, BODY, UNTIL_CLOSE, COMPLETE, SWITCHED = ResponseInputState

_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class InterimConnection(ResponseConnection, Protocol):
    """The connection, as its parser sees it."""

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        """An interim response other than 100 was received."""

    def may_switch_protocols(self) -> bool:
        """Whether the request asked for a WebSocket."""


class ResponseParser:
    """Parses what one upstream sends.

    :ivar state: what the next byte belongs to.
    :ivar response: the response whose head has been received.
    :ivar framing_memory: bytes that a large response head or trailer takes, complete or not; 0 for
        small ones.
    :ivar keep_alive: whether another request may be sent after the response.
    :ivar read_bytes: size of the last read; 0 before the first byte of the response.
    """

    __slots__ = (
        "_body", "_connection", "_head_bytes", "_header", "_interims", "_llhttp", "_method",
        "_reason", "framing_memory", "keep_alive", "on_body", "read_bytes", "response", "state",
    )  # fmt: skip

    def __init__(self, connection: InterimConnection) -> None:
        self._connection = connection
        self._body: list[bytes] = []
        # llhttp calls it for each chunk, of which a read of a stream may have dozens.
        self.on_body = self._body.append
        self._llhttp = HttpResponseParser(self)
        self.start(b"")

    def start(self, method: bytes) -> None:
        """Expect the response to a request with *method*."""
        self._method = method
        self.state = HEAD
        self.response: Response | None = None
        self.keep_alive = False
        self.read_bytes = 0
        self.framing_memory = 0
        self._interims = 0
        self._reason = b""
        self._header: list[bytes] = []  # name, value, name, value…
        self._body.clear()
        self._head_bytes = 0  # of reads without a body byte

    def feed(self, data: bytes) -> None:
        """Parse *data*.

        :raises ProtocolViolation: if it is invalid, unless it follows a complete response.
        """
        size = self.read_bytes = len(data)
        violation: str | None = None
        try:
            self._llhttp.feed_data(data)
        except HttpParserUpgrade as upgrade:
            if self.state is SWITCHED:
                self._body.append(data[upgrade.args[0] :])  # bytes of the other protocol
            else:
                violation = "it switched protocols without being asked"
        except HttpParserError as error:
            violation = str(error.__context__ or error)
        if violation is not None:
            if self.state is not COMPLETE:
                raise ProtocolViolation(violation)
            self.keep_alive = False  # the bytes after the response belong to no request
        if self.state is COMPLETE:
            if self._method == b"HEAD":
                self._body.clear()  # a response to HEAD has none, whatever the upstream sends
        elif self._body:
            self._head_bytes = 0
        else:
            self._limit_framing(size)

    def _limit_framing(self, size: int) -> None:
        """Check a read of *size* bytes that has brought no byte of the body."""
        self._head_bytes += size
        if self._head_bytes > 2 * MAX_HEADER_BYTES:
            raise ProtocolViolation("its header or chunk framing exceeds 128 KiB")
        if self.state is HEAD:
            if len(self._header) > MAX_HEADER_TEXTS:
                raise ProtocolViolation(TOO_MANY_FIELDS)
            self._count_head()
        elif self.state is SWITCHED:
            raise ProtocolViolation("it switched protocols without naming the new one")
        else:
            self._header.clear()  # trailers, which are dropped; llhttp keeps an incomplete one
            if self._head_bytes > MAX_UNCOUNTED_HEAD_BYTES:
                self.framing_memory = max(self.framing_memory, self._head_bytes)

    def take_body(self) -> bytes:
        """Return the bytes of the body that were received since the last call.

        After a switch of protocols, they are the bytes after the response's head.
        """
        body = b"".join(self._body)
        self._body.clear()
        return body

    def close(self) -> None:
        """Release the connection and llhttp, which refer to this parser and would form cycles."""
        del self._connection, self._llhttp

    # Called by llhttp. What is raised here ends its feed_data with an HttpParserError.

    def on_message_begin(self) -> None:
        if self.state is COMPLETE:
            raise ProtocolViolation("it sent more than one response")

    def on_status(self, reason: bytes) -> None:
        self._reason += reason
        if len(self._reason) > MAX_REASON_BYTES:
            raise ProtocolViolation("its reason phrase exceeds 1 KiB")

    def on_header(self, name: bytes, value: bytes) -> None:
        header = self._header
        header += (name, value)

    def on_headers_complete(self) -> None:
        if self.state is not HEAD:
            raise ProtocolViolation("it sent more than one response")
        llhttp = self._llhttp
        status = llhttp.get_status_code()
        header = self._header
        if len(header) > MAX_HEADER_TEXTS:
            raise ProtocolViolation(TOO_MANY_FIELDS)
        if self._head_bytes or self.read_bytes > MAX_HEADER_BYTES:  # else it cannot be too large
            if sum(map(len, header)) + 2 * len(header) > MAX_HEADER_BYTES:
                raise ProtocolViolation("its header exceeds 64 KiB")
        if status < 100 or (self._reason != b"OK" and _REASON.fullmatch(self._reason) is None):
            raise ProtocolViolation("its status line is malformed")
        if status < 200 and status != SWITCHING_PROTOCOLS:
            self._interim_response(status)
            return
        is_large = self.read_bytes > MAX_UNCOUNTED_HEAD_BYTES or len(header) > MAX_UNCOUNTED_TEXTS
        if self._head_bytes or is_large:
            self._count_head()
        if status > 599:
            raise ProtocolViolation(f"its status is {status}, which HTTP does not have")
        self._header = []
        template, values = template_of(header[::2]), tuple(header[1::2])
        fields = template.fields(values)
        length = self._start_body(status, fields)
        self.keep_alive = llhttp.should_keep_alive() and self.state is not COMPLETE
        self.response = Response(
            self._connection, status, self._reason, template, values, fields, length
        )

    def _count_head(self) -> None:
        header = self._header
        size = max(sum(map(len, header)), self._head_bytes)  # llhttp keeps an incomplete field
        if size > MAX_UNCOUNTED_HEAD_BYTES or len(header) > MAX_UNCOUNTED_TEXTS:
            self.framing_memory = size + TEXT_MEMORY_BYTES * len(header)

    def _start_body(self, status: int, fields: Fields) -> Any:
        """Decide how the body is delimited (RFC 9112 §6.3); return its length."""
        coding = fields.get(b"transfer-encoding")
        length = fields.get(b"content-length")
        state = BODY
        if status < 200:
            self._check_switch(fields)
            state = SWITCHED
        elif self._method == b"HEAD":
            state = COMPLETE  # llhttp expects a body: the connection cannot be kept
        elif status in (204, 304):
            length = b"0"
        elif coding is not None:
            if coding.strip(b" \t").lower() != b"chunked":
                raise ProtocolViolation("its Transfer-Encoding is not chunked")
            length = None
        elif length is None:
            state = UNTIL_CLOSE
        self.state = state
        return UNKNOWN_LENGTH if length is None else int(length)

    def _check_switch(self, fields: Fields) -> None:
        """Refuse a switch of protocols that the request did not ask for."""
        if not self._connection.may_switch_protocols():
            raise ProtocolViolation("it switched protocols without being asked")
        if not opens_websocket(fields):
            raise ProtocolViolation("it switched to another protocol than WebSocket")
        if b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0":
            raise ProtocolViolation("its status 101 has a body")

    def _interim_response(self, status: int) -> None:
        self._interims += 1
        if self._interims > MAX_INTERIM_RESPONSES:
            raise ProtocolViolation(f"it sent more than {MAX_INTERIM_RESPONSES} interim responses")
        self.state = INTERIM
        if status != 100:
            header = self._header
            headers = list(zip(header[::2], header[1::2], strict=True))
            self._connection.interim_received(status, self._reason, headers)

    def on_message_complete(self) -> None:
        if self.state is INTERIM:
            self.state = HEAD
            self._reason = b""
            self._header = []
            self._head_bytes = self.framing_memory = 0
        elif self.state is not SWITCHED:
            self.state = COMPLETE
            if self._header:
                self._header = []  # trailers, which are dropped
