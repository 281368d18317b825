"""Parse the requests of one connection: bytes in, heads and bodies out.

llhttp checks the syntax (RFC 9112) and calls the ``on_*`` methods. This module adds the limits of
size and number that llhttp does not have, and :mod:`.request_head` the rules about meaning. Two
kinds of bytes bypass llhttp: a head that repeats the previous one (:mod:`.repeated_head`), and a
body whose length such a head gives.

llhttp parses all that it is given, and 64 KiB can hold 2,400 pipelined requests, which take 3 MB
when they are parsed. So the input is cut into steps, and the caller decides after each step whether
to go on. A step ends with the blank line that ends a head or a chunked body, or with the body.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from goproxyai.errors import ProxyError
from goproxyai.http11.connection_states import InputState
from goproxyai.http11.framing import MAX_HEADER_BYTES, MAX_HEADER_FIELDS, headers_too_large
from goproxyai.http11.repeated_head import RepeatedHead
from goproxyai.http11.request_body import BodyConnection, RequestBody, WholeBody
from goproxyai.http11.request_head import RequestHead
from goproxyai.http11.request_receiver import ParserOptions, RequestReceiver
from goproxyai.messages.foreign_protocols import foreign_protocol
from goproxyai.messages.headers import Headers
from goproxyai.messages.targets import MAX_TARGET_BYTES

MAX_FRAMING_BYTES_PER_BODY_BYTE = 16
"""Bytes of chunk sizes, chunk extensions and trailers, above :data:`.MAX_HEADER_BYTES`."""

MAX_CHUNKED_STEP_BYTES = 8 * 1024
"""Bytes of a chunked body that are parsed in one step. Chunks of one byte take 0.5 ms."""

FIELD_FRAMING_BYTES = 4
"""Bytes of a header line besides name and value: colon, space and line end."""

FIELD_MEMORY_BYTES = 130
"""Memory of a received field besides its bytes: two bytes objects in a tuple."""

REQUEST_LINE_BYTES = 256
"""Bytes of a request line besides the target, spaces before values included."""

MAX_REFUSED_TARGET_BYTES = 1024
"""Bytes of the target of a refused head that are kept for the log."""

MIN_CHUNKED_STEP_BYTES = 512
"""Bytes that a step parses of a chunked body with many blank lines. They may hold the end of the
body and some more requests."""

_BLANK_LINE = b"\r\n\r\n"

IDLE, HEAD, BODY, REPLAY, ENDED = InputState


class RequestParser:
    """Parses what one client sends.

    :param connection: that bodies pause and resume.
    :ivar state: what the next byte belongs to.
    :ivar body: the body that is being received, in BODY and REPLAY.
    """

    __slots__ = (
        "_connection", "_field_bytes", "_framing_bytes", "_head_bytes", "_headers", "_llhttp",
        "_multipart_framing_bytes", "_options", "_piece_bytes", "_pieces", "_read", "_receiver",
        "_remaining", "_repeated", "_target", "body", "state",
    )  # fmt: skip

    def __init__(
        self, receiver: RequestReceiver, connection: BodyConnection, options: ParserOptions
    ) -> None:
        self.state = IDLE
        self.body: RequestBody | None = None
        self._receiver = receiver
        self._connection = connection
        self._options = options
        self._llhttp = _new_llhttp(self)
        self._target = b""
        self._headers: Headers = []
        self._field_bytes = 0  # of the fields in _headers, as they are sent
        self._head_bytes = 0  # of the steps of the present head
        self._read = b""  # the step that llhttp parses, while a head may begin with its first byte
        self._repeated: RepeatedHead | None = None
        self._remaining = 0  # bytes of the body that bypass llhttp
        self._framing_bytes = 0
        self._multipart_framing_bytes = 0  # allowed in the body beyond MAX_BODY_SIZE
        self._pieces: list[bytes] = []  # of the body, for deliver_body
        self._piece_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Memory of a head of which a part has been received."""
        if self.state is not HEAD:
            return 0
        return 2 * self._head_bytes + FIELD_MEMORY_BYTES * len(self._headers)

    def feed(self, data: bytes) -> bytes:
        """Parse the beginning of *data*: one step.

        Body bytes may be kept until :meth:`deliver_body` is called.

        :returns: the bytes after the step; none if the input has ended.
        """
        repeated = self._repeated
        if self._remaining:
            data = self._feed_body(data)
        elif repeated is not None and self.state is IDLE:
            match = repeated.match(data)
            if match is None or match[1] > self._options.max_body_bytes:
                return self._feed_llhttp(data)
            begin, length, values = match
            end = begin + length
            body: RequestBody | WholeBody
            if end <= len(data):
                body = WholeBody(data[begin:end])
            else:
                body = self._start_partial_body(length, data[begin:])
            self._receiver.repeated_request_received(repeated.head, values, body)
            data = data[end:]
        elif self.state is not ENDED:
            return self._feed_llhttp(data)
        return b"" if self.state is ENDED else data

    def deliver_body(self) -> None:
        """Feed the body with the bytes of all steps since the last call."""
        try:
            self._take_pieces()
        except ProxyError as error:
            self.refuse(error)

    def _take_pieces(self) -> None:
        pieces, body = self._pieces, self.body
        if not pieces or body is None:
            return
        self._pieces = []
        self._piece_bytes = 0
        body.feed(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        # A length that was announced was checked with the head.
        limit = self._options.max_body_bytes + self._multipart_framing_bytes
        if body.received > limit and not isinstance(body.length, int):
            raise _body_too_large()

    def refuse(self, problem: ProxyError) -> None:
        """End the input, and have the receiver answer with *problem*."""
        in_body, target = self.state is BODY, self._target[:MAX_REFUSED_TARGET_BYTES]
        self.end()
        if in_body:
            self._receiver.body_refused(problem)
        else:
            method = self._llhttp.get_method() if target else b"-"
            head = RequestHead(method, target, "1.1", [], False)
            self._receiver.request_refused(head, problem)

    def end(self) -> None:
        """Discard all further bytes."""
        self.state = ENDED
        self.body = None
        self._remaining = self._piece_bytes = 0
        self._pieces = []
        self._headers = []
        self._target = b""

    def close(self) -> None:
        """Release the receiver and llhttp, which refer to this parser and would form cycles."""
        self.end()
        self._repeated = None
        del self._receiver, self._connection, self._llhttp

    # Without llhttp.

    def _start_partial_body(self, length: int, content: bytes) -> RequestBody:
        """Start a body whose first bytes are *content*, and whose rest bypasses llhttp."""
        body = self._start_body(length, False)
        self._remaining = length - len(content)
        if content:
            body.feed(content)
        return body

    def _feed_body(self, data: bytes) -> bytes:
        """Receive the body whose length is known; return the bytes after it."""
        body, content = self.body, data[: self._remaining]
        assert body is not None, "end() clears both"
        self._remaining -= len(content)
        body.feed(content)
        if not self._remaining and self.body is body:
            self._finish_body(body)
        return data[len(content) :]

    # With llhttp.

    def _feed_llhttp(self, data: bytes) -> bytes:
        """Have llhttp parse one step; return the bytes after the step."""
        if self.state is IDLE and data.startswith(b"\r\n"):
            data = _without_blank_lines(data)
        size = self._step_size(data)
        step, rest = (data, b"") if size >= len(data) else (data[:size], data[size:])
        size, body = len(step), self.body
        received = self._body_bytes()
        if self.state is IDLE:
            self._head_bytes = size
        elif self.state is HEAD:
            self._head_bytes += size
        self._read = step if self.state is IDLE else b""
        self._run_llhttp(step)
        self._read = b""
        if self.state is HEAD:
            if self._head_bytes > MAX_HEADER_BYTES + MAX_TARGET_BYTES + REQUEST_LINE_BYTES:
                self.refuse(headers_too_large())
        elif body is not None and body is self.body:
            self._check_framing(body, size - (self._body_bytes() - received))
        return b"" if self.state is ENDED else rest

    def _step_size(self, data: bytes) -> int:
        """Return how many bytes of *data* the next step parses, at most."""
        body = self.body
        if body is not None and isinstance(body.length, int):
            return body.length - self._body_bytes()
        end = data.find(_BLANK_LINE, 0 if body is None else MIN_CHUNKED_STEP_BYTES)
        size = len(data) if end < 0 else end + len(_BLANK_LINE)
        return size if body is None else min(size, MAX_CHUNKED_STEP_BYTES)

    def _body_bytes(self) -> int:
        """Return the bytes of the body so far, delivered or not."""
        body = self.body
        return 0 if body is None else body.received + self._piece_bytes

    def _run_llhttp(self, data: bytes) -> None:
        while data and self.state is not ENDED:
            try:
                self._llhttp.feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._decline_upgrade()
            except HttpParserError as error:
                if self.state is not ENDED:
                    cause = error.__context__
                    if not isinstance(cause, ProxyError):
                        cause = _malformed(self._read, error)
                    self.refuse(cause)
                return

    def _check_framing(self, body: RequestBody, size: int) -> None:
        """Limit the bytes of a chunked body that are not content; llhttp does not.

        :param size: of these bytes in this read.
        """
        self._framing_bytes += size
        limit = MAX_HEADER_BYTES + MAX_FRAMING_BYTES_PER_BODY_BYTE * self._body_bytes()
        if self._framing_bytes > limit:
            self.refuse(
                ProxyError(
                    "bad_request",
                    "The chunk framing and trailers of the request body are too large for its "
                    "content; send larger chunks.",
                )
            )

    def _decline_upgrade(self) -> None:
        """Go on in HTTP/1.1 (RFC 9110 §7.8).

        llhttp does not parse the body of a request that asks for an upgrade. A new llhttp parser
        does, after a head with the same framing, whose events are ignored.
        """
        self._llhttp = _new_llhttp(self)
        body = self.body
        if body is not None:
            length = body.length
            if isinstance(length, int):
                framing = b"Content-Length: %d" % length
            else:
                framing = b"Transfer-Encoding: chunked"
            self.state = REPLAY
            self._llhttp.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
            self.state = BODY

    def _start_body(self, length: int | None, awaits_continue: bool) -> RequestBody:
        self.state = BODY
        self._framing_bytes = 0
        body = self.body = RequestBody(self._connection, length, awaits_continue)
        return body

    def _finish_body(self, body: RequestBody) -> None:
        self.state = IDLE
        self.body = None
        body.end()

    # Called by llhttp. What is raised here ends its feed_data with an HttpParserError.

    def on_message_begin(self) -> None:
        if self.state is IDLE:
            self.state = HEAD
            self._target = b""
            self._headers = []
            self._field_bytes = 0
            self._receiver.head_started()

    def on_url(self, url: bytes) -> None:
        if self.state is HEAD:
            self._target = self._target + url if self._target else url
            if len(self._target) > MAX_TARGET_BYTES:
                raise ProxyError(
                    "target_too_long", "The request target exceeds 16 KiB; send less in the URL."
                )

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.state is not HEAD:
            return  # a trailer, which goes nowhere
        self._headers.append((name, value))
        self._field_bytes += len(name) + len(value) + FIELD_FRAMING_BYTES
        if len(self._headers) > MAX_HEADER_FIELDS or self._field_bytes > MAX_HEADER_BYTES:
            raise headers_too_large()

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, []
        if self.state is not HEAD:
            return
        llhttp, options = self._llhttp, self._options
        version = llhttp.get_http_version()
        if version.startswith("1.") and version != "1.0":
            version = "1.1"
        read, self._read = self._read, b""  # begins with the first head in it, and no other
        head, self._repeated = options.heads.validated(
            read, llhttp.get_method(), self._target, version, headers,
            version == "1.1" and llhttp.should_keep_alive(),
        )  # fmt: skip
        values = head.values(headers)
        length = head.body_length(values)
        if length == 0:
            self.state = IDLE
            self._receiver.request_received(head, values, WholeBody(b""), None)
            return
        framing = self._multipart_framing_bytes = head.max_framing_bytes
        too_large = length is not None and length > options.max_body_bytes + framing
        body = self._start_body(length, head.expects_continue)
        problem = _body_too_large() if too_large else None
        self._receiver.request_received(head, values, body, problem)

    def on_body(self, data: bytes) -> None:
        if self.body is not None:
            self._pieces.append(data)
            self._piece_bytes += len(data)

    def on_message_complete(self) -> None:
        self._take_pieces()
        body = self.body
        if body is not None:
            if self._llhttp.should_upgrade() and not body.received:
                return  # llhttp skips the body: see _decline_upgrade
            self._finish_body(body)


def _without_blank_lines(data: bytes) -> bytes:
    """Return *data* without the blank lines before a request, which are ignored (RFC 9112 §2.2)."""
    count = (len(data) - len(data.lstrip(b"\r\n"))) // 2
    return data[2 * count :] if data.startswith(b"\r\n" * count) else data


def _new_llhttp(parser: RequestParser) -> HttpRequestParser:
    """Return llhttp in strict mode, but for versions: the head is checked for them."""
    llhttp = HttpRequestParser(parser)
    llhttp.set_dangerous_leniencies(lenient_version=True)
    return llhttp


def _malformed(data: bytes, error: HttpParserError) -> ProxyError:
    """Return the 400 for input that llhttp refuses.

    :param data: begins with the refused request; empty if its beginning is not known.
    """
    foreign = foreign_protocol(data)
    if foreign is None:
        return ProxyError("bad_request", f"The request is malformed: {error}.")
    name, advice = foreign
    message = f"The request is not HTTP/1.1 but {name}; {advice}."
    return ProxyError("bad_request", message, detail=f"the client sent {name}")


def _body_too_large() -> ProxyError:
    return ProxyError(
        "request_too_large", "The request body exceeds MAX_BODY_SIZE; send less or raise the limit."
    )
