"""A request and the response to it, as the proxy sees them.

1. Every exchange ends exactly once: by its last :meth:`Exchange.write`, by
   :meth:`Exchange.send_response`, by :meth:`Exchange.abort`, or because the client leaves, of which
   the listener is told.
2. The framing of the response is decided once, from its length and the client's version. A
   response that cannot be completed as announced is aborted, never ended early.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

from twisted.internet.interfaces import IPushProducer

from goproxyai.errors import ProxyError
from goproxyai.http11.framing import LAST_CHUNK, chunk
from goproxyai.http11.request_body import SMALL_BODY_BYTES, RequestBody, WholeBody
from goproxyai.http11.request_head import FieldValues, RequestHead
from goproxyai.http11.tunnel_end import TunnelEnd
from goproxyai.messages.headers import Headers


class ResponseState(Enum):
    """How far the response is, and how its body is framed once it has started."""

    PENDING = "not started"
    IDENTITY = "the body is delimited by its length or by the end of the connection"
    CHUNKED = "the body is sent in chunks"
    BODILESS = "a response without a body: to HEAD, or 204, or 304"
    SWITCHED = "the connection is the end of a tunnel"
    DONE = "ended, in whatever way"


PENDING, IDENTITY, CHUNKED, BODILESS, SWITCHED, DONE = ResponseState


class ExchangeListener(Protocol):
    """Handles an exchange and is told when it ends early."""

    def client_gone(self) -> None:
        """The client's connection is lost; no response is possible."""

    def request_failed(self, problem: ProxyError) -> None:
        """The rest of the request is invalid: respond with *problem*, or abort."""


class Trace(Protocol):
    """The trace of one request; it holds no reference to the exchange."""

    def read(self, now: float, body: bytes | None) -> None:
        """Note that a body that did not arrive with the head is read.

        :param body: ``None`` if it is too large to keep.
        """

    def forwarded(self, now: float, url: str, body: object) -> bytes:
        """Note that the request is sent upstream, for the first time or again.

        :param url: of the upstream. :param body: bytes, if it is complete.
        :returns: header lines to add to the upstream request.
        """

    def coalesced(self, leader: Any) -> None:
        """Note that the request waits for the answer to another.

        :param leader: the other request's trace.
        """


class ExchangeOutput(Protocol):
    """What a response is written to: a :class:`~.response_output.ResponseOutput`."""

    def send(self, data: bytes) -> None:
        """Write *data* to the client."""

    def abort(self) -> None:
        """Reset the connection, so that the client sees an incomplete response."""

    def set_producer(self, producer: IPushProducer | None) -> None:
        """Pause and resume *producer*, which makes the body of the response, with the client."""


class ExchangeConnection(Protocol):
    """The connection that a request was received from.

    :ivar peer: the address of the client, as text.
    :ivar subject: of the client's TLS certificate; empty without one.
    """

    peer: str
    subject: str

    @property
    def output(self) -> ExchangeOutput:
        """What the response is written to."""

    def memory_changed(self) -> None:
        """The exchange holds more or less memory than before."""

    def exchange_done(self, exchange: Exchange, keep_alive: bool) -> None:
        """The response is complete; *keep_alive*: the connection may serve another request."""

    @property
    def can_start_tunnel(self) -> bool:
        """Whether all that was received after the handshake can be given to the tunnel."""

    def start_tunnel(self) -> TunnelEnd:
        """End the use of HTTP."""


class Exchange:
    """One request and its response.

    :ivar connection: that the request was received from.
    :ivar head: of the request.
    :ivar values: of the variable fields of *head*.
    :ivar body: of the request.
    :ivar problem: why the request must be refused, if it must.
    :ivar started_at: when the head was complete, in seconds of the reactor's clock.
    :ivar status: of the response, 0 before it has started.
    :ivar body_bytes_sent: of the response.
    :ivar keep_alive: whether the connection may serve another request.
    :ivar is_first: whether the request is the first of its connection.
    :ivar request_id: the value of ``X-Request-Id`` in the response and in the log.
    :ivar state_seconds: for which the request has waited for the rate limit's shared state.
    :ivar trace: of the request, if it is traced.
    """

    __slots__ = (
        "_pending", "_state", "body", "body_bytes_sent", "connection", "head", "is_first",
        "keep_alive", "listener", "problem", "request_id", "started_at", "state_seconds", "status",
        "trace", "values",
    )  # fmt: skip

    def __init__(
        self,
        connection: ExchangeConnection,
        started_at: float,
        head: RequestHead,
        values: FieldValues,
        body: RequestBody | WholeBody,
        problem: ProxyError | None = None,
    ) -> None:
        self.connection = connection
        self._state = PENDING
        self._pending = b""  # a response head that is sent with the first bytes of its body
        self.head = head
        self.values = values
        self.body = body
        self.problem = problem
        self.started_at = started_at
        self.state_seconds = 0.0
        self.is_first = False
        self.status = 0
        self.body_bytes_sent = 0
        self.keep_alive = head.keep_alive
        self.listener: ExchangeListener | None = None
        self.request_id = b""
        self.trace: Trace | None = None

    # The request.

    @property
    def method(self) -> bytes:
        """Of the request."""
        return self.head.method

    @property
    def target(self) -> bytes:
        """Of the request, in origin-form."""
        return self.head.target

    @property
    def version(self) -> str:
        """Of the request: ``1.1`` or ``1.0``."""
        return self.head.version

    @property
    def headers(self) -> Headers:
        """(name, value) in order, as received."""
        headers = self.head.headers.copy()
        for line, index in self.head.variable_lines.items():
            headers[line] = (headers[line][0], self.values[index])
        return headers

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a request field, repeated lines joined.

        :param name: in lower case.
        """
        index = self.head.variable_fields.get(name)
        return self.head.fields.get(name) if index is None else self.values[index]

    @property
    def is_announced_last(self) -> bool:
        """Whether the client has announced that it sends no further request, and sent this one."""
        head = self.head
        if head.keep_alive or (head.version == "1.0" and b"connection" in head.fields):
            return False
        return self.body.complete and self.problem is None

    @property
    def held_bytes(self) -> int:
        """Memory of the request, as far as it is counted."""
        return self.head.memory_bytes + self.body.buffered

    def release_body(self) -> None:
        """Release the request's body, which is not needed again."""
        if self.body.received > SMALL_BODY_BYTES:
            self.body.release()
            self.connection.memory_changed()

    # The response.

    @property
    def response_started(self) -> bool:
        """Whether it is too late to choose the response."""
        return self._state is not PENDING

    @property
    def is_tunnel(self) -> bool:
        """Whether the connection is the end of a tunnel."""
        return self._state is SWITCHED

    @property
    def over(self) -> bool:
        """Whether the exchange has ended."""
        return self._state is DONE

    def keeps_connection(self) -> bool:
        """Return whether the connection can serve another request after this exchange."""
        return self.keep_alive and self.body.complete

    def start_response(
        self,
        status: int,
        head: bytes,
        length: int | None,
        has_length: bool = False,
        close: bool = False,
    ) -> None:
        """Start the response. Its head is sent with the first body bytes or by :meth:`flush`.

        :param head: status line and header lines, without ``Transfer-Encoding`` and ``Connection``.
        :param length: of the body; ``None`` if it is not known.
        :param has_length: whether *head* contains ``Content-Length``.
        :param close: close the connection after the response.
        """
        self.status = status
        if close or not self.body.complete:
            self.keep_alive = False
        framing = b""
        if self.head.method == b"HEAD" or status in (204, 304):
            self._state = BODILESS
        elif length is None and self.head.version == "1.1":
            self._state = CHUNKED
            framing = b"Transfer-Encoding: chunked\r\n"
        else:
            self._state = IDENTITY
            if length is None:
                self.keep_alive = False
        if length is not None and not has_length and status != 204:
            framing = b"Content-Length: %d\r\n" % length
        if not self.keep_alive:
            framing += b"Connection: close\r\n"
        self._pending = head + framing + b"\r\n"

    def send_response(self, status: int, message: bytes, body_bytes: int) -> None:
        """Send a complete response in one write; :meth:`keeps_connection` must hold.

        :param message: head and body, with ``Content-Length``.
        :param body_bytes: size of the body.
        """
        self._state = DONE
        self.status = status
        self.body_bytes_sent = body_bytes
        self.listener = None
        connection = self.connection
        connection.output.send(message)
        connection.exchange_done(self, True)

    def send_interim(self, head: bytes) -> None:
        """Send an interim response (RFC 9110 §15.2) before the response, not to HTTP/1.0."""
        if self._state is PENDING and self.head.version == "1.1":
            self.connection.output.send(head + b"\r\n")

    @property
    def can_switch_protocols(self) -> bool:
        """Whether a handshake can be answered with status 101."""
        return self.connection.can_start_tunnel

    def switch_protocols(self, head: bytes, listener: ExchangeListener) -> TunnelEnd:
        """Respond with status 101, and return the connection, which is no longer HTTP.

        :param head: status line and header lines.
        :param listener: is told of the end of the connection, as before.
        """
        self._state = SWITCHED
        self.status = 101
        self.listener = listener
        self.connection.output.send(head + b"\r\n")
        return self.connection.start_tunnel()

    def release_fields(self) -> None:
        """Release the header of a handshake: a tunnel may last for days."""
        self.values = ()
        self.head.release_fields()

    def tunnel_ended(self, received: int, sent: int) -> None:
        """End the exchange whose connection was the end of a tunnel.

        :param received: bytes from the client. :param sent: bytes to the client.
        """
        self._state = DONE
        self.listener = None
        self.body.received = received
        self.body_bytes_sent = sent

    def write(self, data: bytes, last: bool = False) -> None:
        """Write bytes of the response body.

        :param last: end the exchange with the same write.
        """
        state = self._state
        if state is DONE:
            return
        out = self._pending
        self._pending = b""
        if state is not BODILESS:
            self.body_bytes_sent += len(data)
            if state is CHUNKED:
                out += chunk(data)
                if last:
                    out += LAST_CHUNK
            else:
                out = out + data if out else data
        if out:
            self.connection.output.send(out)
        if last and not self.over:
            self._state = DONE
            self.listener = None
            self.connection.exchange_done(self, self.keep_alive)

    def flush(self) -> None:
        """Send a response head that waits for body bytes."""
        if self._pending and not self.over:
            out, self._pending = self._pending, b""
            self.connection.output.send(out)

    def finish(self) -> None:
        """End the response."""
        self.write(b"", last=True)

    def abort(self) -> None:
        """Reset the connection, because the response cannot be completed."""
        if not self.over:
            self._state = DONE
            self.listener = None
            self.connection.output.set_producer(None)
            self.connection.output.abort()

    def register_producer(self, producer: IPushProducer) -> None:
        """Pause and resume *producer*, which makes the response body, with the client."""
        if not self.over:
            self.connection.output.set_producer(producer)

    def unregister_producer(self) -> None:
        """Leave the producer alone from now on."""
        if not self.over:
            self.connection.output.set_producer(None)

    # Called by the connection.

    def connection_lost(self) -> None:
        """End the exchange, because the client is gone."""
        if self.over:
            return
        self._state = DONE
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.client_gone()
        self.body.connection_lost()

    def fail(self, problem: ProxyError) -> None:
        """Have the listener end the exchange, because the rest of the request is invalid."""
        if self.over:
            return
        self.keep_alive = False
        if self.listener is not None:
            self.listener.request_failed(problem)
        else:
            self.abort()
