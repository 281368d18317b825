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

from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from goproxyai.errors import ProxyError
from goproxyai.http11.body_reception import BodyReception, body_too_large
from goproxyai.http11.connection_states import InputState
from goproxyai.http11.framing import MAX_HEADER_BYTES, MAX_HEADER_FIELDS, headers_too_large
from goproxyai.http11.repeated_head import RepeatedHead
from goproxyai.http11.request_body import BodyConnection, RequestBody, WholeBody, whole_body
from goproxyai.http11.request_head import RequestHead
from goproxyai.http11.request_receiver import ParserOptions, RequestReceiver
from goproxyai.messages.foreign_protocols import FOREIGN_START_BYTES, foreign_protocol
from goproxyai.messages.headers import Headers
from goproxyai.messages.targets import MAX_TARGET_BYTES

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

FORWARDED_FOR = b"x-forwarded-for"
"""The field that tells the client of a refused request."""

_BLANK_LINE = b"\r\n\r\n"

IDLE, HEAD, BODY, REPLAY, ENDED = InputState


class RequestParser:
    """Parses what one client sends.

    :param connection: that bodies pause and resume.
    :ivar state: what the next byte belongs to.
    :ivar body: the body that is being received, in BODY and REPLAY.
    :ivar has_excess: bytes were received after the last request, and discarded.
    """

    __slots__ = (
        "_connection", "_field_bytes", "_forwarded_for", "_head_bytes", "_head_start", "_headers",
        "_is_last", "_llhttp", "_options", "_read", "_receiver", "_reception", "_remaining",
        "_repeated", "_target", "body", "has_excess", "state",
    )  # fmt: skip

    def __init__(
        self, receiver: RequestReceiver, connection: BodyConnection, options: ParserOptions
    ) -> None:
        self.state = IDLE
        self.body: RequestBody | None = None
        self.has_excess = False
        self._receiver = receiver
        self._connection = connection
        self._options = options
        self._llhttp: Any = None  # made for the first head that is not known
        self._is_last = False  # no request may follow the one whose body bypasses llhttp
        self._target = b""
        self._headers: Headers = []
        self._forwarded_for: Headers = []  # of a head that is refused when it is complete
        self._field_bytes = 0  # of the fields in _headers, as they are sent
        self._head_bytes = 0  # of the steps of the present head
        self._head_start = b""  # its first step, shortened
        self._read = b""  # the step that llhttp parses, while a head may begin with its first byte
        self._repeated: RepeatedHead | None = None
        self._remaining = 0  # bytes of the body that bypass llhttp
        self._reception: BodyReception | None = None  # of a body that llhttp parses

    @property
    def held_bytes(self) -> int:
        """Memory of a head or a trailer field of which a part has been received."""
        if self.state is HEAD:
            return 2 * self._head_bytes + FIELD_MEMORY_BYTES * len(self._headers)
        return 0 if self._reception is None else self._reception.unfinished_bytes

    def feed(self, data: bytes) -> bytes:
        """Parse the beginning of *data*: one step.

        Body bytes may be kept until :meth:`deliver_body` is called.

        :returns: the bytes after the step; none if the input has ended.
        """
        if self._remaining:
            data = self._feed_body(data)
        elif self.state is IDLE:
            repeated = self._repeated
            match = None if repeated is None else repeated.match(data)
            if repeated is None or match is None:
                found = self._options.heads.find(data)
                if found is None:
                    return self._feed_llhttp(data)
                repeated, match = found
                self._repeated = repeated
            begin, length, values = match
            if length > self._options.max_body_bytes:
                return self._feed_llhttp(data)
            head, end = repeated.head, begin + length
            body: RequestBody | WholeBody
            if end <= len(data) and head.keep_alive:
                body = WholeBody(data[begin:end], length, length)
            else:
                body = self._start_known_body(head, length, data[begin:])
            self._receiver.repeated_request_received(head, values, body)
            data = data[end:]
        elif self.state is not ENDED:
            return self._feed_llhttp(data)
        return b"" if self.state is ENDED else data

    def deliver_body(self) -> None:
        """Feed the body with the bytes of all steps since the last call."""
        if self._reception is not None:
            try:
                self._reception.deliver()
            except ProxyError as error:
                self.refuse(error)

    def refuse(self, problem: ProxyError) -> None:
        """End the input, and have the receiver answer with *problem*."""
        in_body = self.state is BODY
        target = self._target[:MAX_REFUSED_TARGET_BYTES] if self.state is HEAD else b""
        method = self._llhttp.get_method() if target else b"-"
        self.end()
        if in_body:
            self._receiver.body_refused(problem)
        else:
            headers = self._forwarded_for
            head = RequestHead(method, target, "1.1", headers, False)
            self._receiver.request_refused(head, head.values(headers), problem)

    def end(self) -> None:
        """Discard all further bytes."""
        self.state = ENDED
        self.body = None
        self._remaining = 0
        self._reception = None
        self._headers = []
        self._target = b""
        self._llhttp = None  # keeps the parts of the field that it was reading

    def close(self) -> None:
        """Release the receiver and llhttp, which refer to this parser and would form cycles."""
        self.end()
        self._repeated = None
        del self._receiver, self._connection, self._llhttp

    # Without llhttp.

    def _start_known_body(
        self, head: RequestHead, length: int, received: bytes
    ) -> RequestBody | WholeBody:
        """Start a body that bypasses llhttp, and that is incomplete or the last one.

        :param received: what was received after the head.
        """
        self._is_last = not head.keep_alive
        if len(received) >= length:
            self.state = ENDED
            self.has_excess = len(received) > length
            return whole_body(received[:length])
        body = self._start_body(length, False)
        self._remaining = length - len(received)
        if received:
            body.feed(received)
        return body

    def _feed_body(self, data: bytes) -> bytes:
        """Receive the body whose length is known; return the bytes after it."""
        body, content = self.body, data[: self._remaining]
        assert body is not None, "end() clears both"
        self._remaining -= len(content)
        self.has_excess = self._is_last and len(content) < len(data)
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
        size, reception = len(step), self._reception
        received = 0 if reception is None else reception.received
        if self.state is IDLE:
            self._head_bytes = size
            self._head_start = step[:FOREIGN_START_BYTES]
            self._read = step
        elif self.state is HEAD:
            self._head_bytes += size
        rest = self._run_llhttp(step) + rest
        self._read = b""
        if self.state is HEAD:
            if self._head_bytes > MAX_HEADER_BYTES + len(self._target) + REQUEST_LINE_BYTES:
                self.refuse(headers_too_large())
        elif reception is not None and reception is self._reception:
            try:
                content = reception.received - received
                reception.count_framing(size - content, content)
            except ProxyError as error:
                self.refuse(error)
        return b"" if self.state is ENDED else rest

    def _step_size(self, data: bytes) -> int:
        """Return how many bytes of *data* the next step parses, at most."""
        body, reception = self.body, self._reception
        if body is not None and reception is not None and isinstance(body.length, int):
            return body.length - reception.received
        end = data.find(_BLANK_LINE, 0 if body is None else MIN_CHUNKED_STEP_BYTES)
        size = len(data) if end < 0 else end + len(_BLANK_LINE)
        return size if body is None else min(size, MAX_CHUNKED_STEP_BYTES)

    def _run_llhttp(self, data: bytes) -> bytes:
        """Have llhttp parse *data*; return the bytes after a request that asks for an upgrade.

        These may be of the other protocol, and are parsed when the request has been answered.
        """
        if self._llhttp is None:
            self._llhttp = _new_llhttp(self)
        try:
            self._llhttp.feed_data(data)
        except HttpParserUpgrade as upgrade:
            if self.state is not ENDED:
                self._decline_upgrade()
                return data[upgrade.args[0] :]
        except HttpParserError as error:
            if self.state is not ENDED:
                cause = error.__context__
                if not isinstance(cause, ProxyError):
                    start = b"" if self.state is BODY else self._head_start
                    cause = _malformed(start, error)
                self.refuse(cause)
        return b""

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
        body = self.body = RequestBody(self._connection, length, awaits_continue)
        return body

    def _finish_body(self, body: RequestBody) -> None:
        self.state = ENDED if self._is_last else IDLE
        self.body = self._reception = None
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
        if self.state is not HEAD:  # a trailer, which goes nowhere
            if self._reception is not None:
                self._reception.unfinished_bytes = 0
            return
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
        try:
            head, self._repeated = options.heads.validated(
                read, llhttp.get_method(), self._target, version, headers,
                version == "1.1" and llhttp.should_keep_alive(),
            )  # fmt: skip
        except ProxyError:
            # Whose tokens the refusal spends. In a part of a head, the line that the trusted proxy
            # has added may be missing.
            self._forwarded_for = [each for each in headers if each[0].lower() == FORWARDED_FOR]
            raise
        self._target = b""
        values = head.values(headers)
        length = head.body_length(values)
        if length == 0:
            self.state = IDLE
            self._receiver.request_received(head, values, whole_body(b""), None)
            return
        limit = options.max_body_bytes + head.max_framing_bytes
        body = self._start_body(length, head.expects_continue)
        self._reception = BodyReception(body, limit if length is None else None)
        problem = body_too_large() if length is not None and length > limit else None
        self._receiver.request_received(head, values, body, problem)

    def on_body(self, data: bytes) -> None:
        if self._reception is not None:
            self._reception.add(data)

    def on_message_complete(self) -> None:
        if self._reception is not None:
            self._reception.deliver()
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
