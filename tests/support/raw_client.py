"""A client connection that sends exact bytes and parses responses with h11."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import h11
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tests.support.records import RecordList
from tests.support.steps import StreamTransport

KEY = b"Bearer sk-good"

LOOPED_VIA = ", ".join(["1.1 goproxyai"] * 8)
"""The ``Via`` of a request that is refused as a loop."""


@attrs.frozen
class Answer:
    """One response, as the client received it.

    :ivar cut: the connection ended before the body did.
    """

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    cut: bool = False

    def all(self, name: str) -> list[bytes]:
        return [v for n, v in self.headers if n.lower() == name.lower().encode()]

    def get(self, name: str) -> bytes | None:
        values = self.all(name)
        return values[0] if values else None


class RawClient(Protocol):
    """A client connection without an HTTP layer between the test and the bytes.

    :ivar received_size: the number of bytes in :attr:`received`.
    :ivar reason: why the connection was lost.
    """

    transport: StreamTransport  # type: ignore[assignment]  # narrower than Protocol's

    def __init__(self, reactor: Any) -> None:
        self._pieces: list[bytes] = []
        self.received_size = 0
        self.closed = False
        self.reason: Failure | None = None
        self._changes: RecordList[None] = RecordList(reactor)

    @property
    def received(self) -> bytes:
        """The bytes that no :meth:`answer` has consumed yet."""
        if len(self._pieces) != 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0]

    @received.setter
    def received(self, data: bytes) -> None:
        self._pieces, self.received_size = [data], len(data)

    def received_after(self, offset: int) -> bytes:
        """Return :attr:`received` without its first *offset* bytes."""
        newest: list[bytes] = []
        missing = self.received_size - offset
        for piece in reversed(self._pieces):
            if missing <= 0:
                break
            newest.append(piece[-missing:])
            missing -= len(piece)
        return b"".join(reversed(newest))

    def dataReceived(self, data: bytes) -> None:
        # Adding to a bytes object would copy a body of many megabytes at each read.
        self._pieces.append(data)
        self.received_size += len(data)
        self._changes.changed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed, self.reason = True, reason
        self._changes.changed()

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_reading(self) -> None:
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        self.transport.resumeProducing()

    def abort(self) -> None:
        self.transport.abortConnection()

    def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> Deferred[bool]:
        """Fires when *condition* holds; it is evaluated after every read and at the end."""
        return self._changes.wait_until(condition, timeout)

    def wait_closed(self, timeout: float = 10.0) -> Deferred[bool]:
        return self.until(lambda: self.closed, timeout)

    async def answer(self, method: bytes = b"GET", timeout: float = 10.0) -> Answer:
        """The next response; bytes after it stay in :attr:`received`.

        :param method: of the request; the response to a HEAD has no body.
        """
        parser = _ResponseParser(method)
        await self.until(lambda: parser.parse(self), timeout)
        assert parser.answer is not None
        self.received = parser.trailing_data
        return parser.answer


class _ResponseParser:
    """Parses one response, each of its bytes once.

    :ivar answer: the response, when it is complete.
    """

    def __init__(self, method: bytes) -> None:
        self._connection = h11.Connection(h11.CLIENT)
        self._connection.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"a")]))
        self._connection.send(h11.EndOfMessage())
        self._parsed = 0
        self._response: h11.Response | None = None
        self._body: list[bytes] = []
        self.answer: Answer | None = None

    @property
    def trailing_data(self) -> bytes:
        return self._connection.trailing_data[0]

    def parse(self, client: RawClient) -> bool:
        """Parse the bytes of *client* that are new; return whether the response is complete."""
        closed = client.closed
        if client.received_size > self._parsed:
            self._connection.receive_data(client.received_after(self._parsed))
            self._parsed = client.received_size
        cut = False
        while True:
            try:
                event = self._connection.next_event()
                if event is h11.NEED_DATA and closed:
                    self._connection.receive_data(b"")
            except h11.RemoteProtocolError:
                if self._response is None or not closed:
                    raise
                cut = True
                break
            if event is h11.NEED_DATA:
                if not closed or self._response is None:
                    return False
            elif isinstance(event, h11.Response):
                self._response = event
            elif isinstance(event, h11.Data):
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                break
        response = self._response
        if response is None:
            return False
        headers = list(response.headers.raw_items())
        self.answer = Answer(
            response.status_code, response.reason, headers, b"".join(self._body), cut
        )
        return True


def request(
    target: str = "/v1/models",
    method: str = "GET",
    headers: list[tuple[str, str]] | None = None,
    body: bytes = b"",
    key: bytes = KEY,
) -> bytes:
    """The bytes of a request with ``Host``, ``Authorization`` and the body's length."""
    lines = [f"{method} {target} HTTP/1.1", "Host: proxy.test", f"Authorization: {key.decode()}"]
    lines += [f"{name}: {value}" for name, value in headers or []]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def post(target: str, document: bytes, headers: list[tuple[str, str]] | None = None) -> bytes:
    """The bytes of a POST with a JSON body."""
    return request(
        target, "POST", [("Content-Type", "application/json"), *(headers or [])], document
    )
