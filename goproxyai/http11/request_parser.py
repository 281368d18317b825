"""Parse the requests of one connection: bytes in, heads and bodies out.

llhttp checks the syntax (RFC 9112) and calls the ``on_*`` methods. This module adds the limits of
size and number that llhttp does not have, and :mod:`.request_head` the rules about meaning. Two
kinds of bytes bypass llhttp: a head that repeats the previous one (:mod:`.repeated_head`), and a
body whose length such a head gives.
"""

from __future__ import annotations

from typing import Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from goproxyai.errors import ProxyError
from goproxyai.http11.connection_states import InputState
from goproxyai.http11.framing import MAX_HEADER_BYTES, MAX_HEADER_FIELDS, headers_too_large
from goproxyai.http11.repeated_head import RepeatedHead, RepeatedHeadCache
from goproxyai.http11.request_body import BodyConnection, RequestBody, WholeBody
from goproxyai.http11.request_head import FieldValues, RequestHead
from goproxyai.messages.foreign_protocols import foreign_protocol
from goproxyai.messages.headers import Headers
from goproxyai.messages.targets import MAX_TARGET_BYTES

MAX_FRAMING_BYTES_PER_BODY_BYTE = 16
"""Bytes of chunk sizes, chunk extensions and trailers, above :data:`.MAX_HEADER_BYTES`."""

FIELD_FRAMING_BYTES = 4
"""Bytes of a header line besides name and value: colon, space and line end."""

IDLE, HEAD, BODY, REPLAY, ENDED = InputState


class RequestReceiver(BodyConnection, Protocol):
    """The connection, as its parser sees it."""

    def head_started(self) -> None:
        """The first byte of a head was received."""

    def request_received(
        self,
        head: RequestHead,
        values: FieldValues,
        body: RequestBody | WholeBody,
        problem: ProxyError | None,
    ) -> None:
        """A head was received. The parser feeds *body* until it is complete.

        llhttp is running: the request must not be handled before :meth:`RequestParser.feed` has
        returned. After a request that is refused the receiver calls :meth:`RequestParser.end`.

        :param problem: why the request must be refused.
        """

    def repeated_request_received(
        self, head: RequestHead, values: FieldValues, body: RequestBody | WholeBody
    ) -> None:
        """A head was received that repeats the previous one. It may be handled at once."""

    def request_refused(self, head: RequestHead, problem: ProxyError) -> None:
        """The input ended in a head that cannot be served.

        :param head: what was received of it.
        """

    def body_refused(self, problem: ProxyError) -> None:
        """The input ended in the body of the last request."""


class ParserOptions(Protocol):
    """What the parsers of all connections share.

    :ivar heads: the heads that clients repeat.
    :ivar max_body_bytes: of a request body; may change at any time.
    """

    heads: RepeatedHeadCache
    max_body_bytes: int


class RequestParser:
    """Parses what one client sends.

    :ivar state: what the next byte belongs to.
    :ivar body: the body that is being received, in BODY and REPLAY.
    """

    __slots__ = (
        "_field_bytes", "_framing_bytes", "_head_bytes", "_headers", "_llhttp",
        "_multipart_framing_bytes", "_options", "_read", "_receiver", "_remaining", "_repeated",
        "_target", "body", "state",
    )  # fmt: skip

    def __init__(self, receiver: RequestReceiver, options: ParserOptions) -> None:
        self.state = IDLE
        self.body: RequestBody | None = None
        self._receiver = receiver
        self._options = options
        self._llhttp = _new_llhttp(self)
        self._target = b""
        self._headers: Headers = []
        self._field_bytes = 0  # of the fields in _headers, as they are sent
        self._head_bytes = 0  # of all reads after the one in which the head began
        self._read = b""  # the read that llhttp parses, while a head may begin with its first byte
        self._repeated: RepeatedHead | None = None
        self._remaining = 0  # bytes of the body that bypass llhttp
        self._framing_bytes = 0
        self._multipart_framing_bytes = 0  # allowed in the body beyond MAX_BODY_SIZE

    def feed(self, data: bytes) -> None:
        """Parse *data*, which is the content of one read."""
        repeated = self._repeated
        if self._remaining:
            data = self._feed_body(data)
        elif repeated is not None and self.state is IDLE:
            match = repeated.match(data)
            if match is not None and match[1] <= self._options.max_body_bytes:
                begin, length, values = match
                end = begin + length
                body: RequestBody | WholeBody
                if end <= len(data):
                    body = WholeBody(data[begin:end])
                else:
                    body = self._start_partial_body(length, data[begin:])
                self._receiver.repeated_request_received(repeated.head, values, body)
                data = data[end:]
        if data and self.state is not ENDED:
            self._feed_llhttp(data)

    def refuse(self, problem: ProxyError) -> None:
        """End the input, and have the receiver answer with *problem*."""
        in_body = self.state is BODY
        self.end()
        if in_body:
            self._receiver.body_refused(problem)
        else:
            method = self._llhttp.get_method() if self._target else b"-"
            head = RequestHead(method, self._target, "1.1", [], False)
            self._receiver.request_refused(head, problem)

    def end(self) -> None:
        """Discard all further bytes."""
        self.state = ENDED
        self.body = None
        self._remaining = 0

    def close(self) -> None:
        """Release the receiver and llhttp, which refer to this parser and would form cycles."""
        self.end()
        self._repeated = None
        del self._receiver, self._llhttp

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

    def _feed_llhttp(self, data: bytes) -> None:
        size, body = len(data), self.body
        received = 0 if body is None else body.received
        if self.state is HEAD:
            self._head_bytes += size
        self._read = data if self.state is IDLE else b""
        self._run_llhttp(data)
        self._read = b""
        if self.state is HEAD:
            if self._head_bytes > MAX_HEADER_BYTES + MAX_TARGET_BYTES:
                self.refuse(headers_too_large())
        elif body is not None and body is self.body:
            self._check_framing(body, size - (body.received - received))

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
                        begins = not self._head_bytes and self.state is not BODY
                        cause = _malformed(data if begins else b"", error)
                    self.refuse(cause)
                return

    def _check_framing(self, body: RequestBody, size: int) -> None:
        """Limit the bytes of a chunked body that are not content; llhttp does not.

        :param size: of these bytes in this read.
        """
        self._framing_bytes += size
        limit = MAX_HEADER_BYTES + MAX_FRAMING_BYTES_PER_BODY_BYTE * body.received
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
        body = self.body = RequestBody(self._receiver, length, awaits_continue)
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
            self._field_bytes = self._head_bytes = 0
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
        body = self.body
        if body is not None:
            body.feed(data)
            limit = self._options.max_body_bytes + self._multipart_framing_bytes
            if body.received > limit and not isinstance(body.length, int):
                raise _body_too_large()  # a length that was announced was checked with the head

    def on_message_complete(self) -> None:
        body = self.body
        if body is not None:
            if self._llhttp.should_upgrade() and not body.received:
                return  # llhttp skips the body: see _decline_upgrade
            self._finish_body(body)


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
