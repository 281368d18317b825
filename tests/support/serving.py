"""The base of the fake servers: listening, recording requests, running scripted answers.

1. A request is recorded when its head is complete. Requests are answered in order; a pipelined
   request waits for the answers before it.
2. The newest script that matches a request answers it; the server's default does if none matches.
3. The loss of a connection cancels the running answer and marks the unanswered requests as lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import httptools
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.logger import Logger
from twisted.python.failure import Failure

from tests.support.records import TIMEOUT_SECONDS, RecordList
from tests.support.requests import Field, Request, RequestParser
from tests.support.steps import (
    Answer,
    AnswerBeforeBody,
    Responder,
    ScriptContext,
    StreamTransport,
    run,
)

Match = str | Callable[[Request], bool]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def loopback(reactor: Any, tls: CertificateOptions | None = None) -> IStreamServerEndpoint:
    """An endpoint on a free port of 127.0.0.1, with TLS if *tls* is given."""
    kind: Any = TCP4ServerEndpoint if tls is None else SSL4ServerEndpoint
    options = () if tls is None else (tls,)
    endpoint: IStreamServerEndpoint = kind(reactor, 0, *options, interface="127.0.0.1")
    return endpoint


def host_and_port(address: object) -> tuple[str, int]:
    """The host and port of *address*; ``("", 0)`` if it is not an IP address."""
    if isinstance(address, IPv4Address | IPv6Address):
        return address.host, address.port
    return "", 0


@attrs.define(eq=False)
class Script:
    """An answer for the requests that match.

    :ivar times: requests that it still answers; ``None`` means no limit.
    """

    match: Match
    responder: Responder
    times: int | None = None

    def matches(self, request: Request) -> bool:
        if self.times == 0:
            return False
        if callable(self.match):
            return self.match(request)
        return self.match in (request.path, request.line)

    @property
    def before_body(self) -> bool:
        steps = self.responder
        if callable(steps) or isinstance(steps, bytes):
            return False
        return bool(steps) and isinstance(steps[0], AnswerBeforeBody)

    def use(self, request: Request) -> Answer:
        """The answer to *request*; counts against :attr:`times`."""
        if self.times is not None:
            self.times -= 1
        return self.responder(request) if callable(self.responder) else self.responder


class FakeServer(Factory["FakeConnection"]):
    """Listens, records requests and answers them.

    :ivar requests: all requests, in order of arrival, with ``wait_for`` and ``wait_until``.
    :ivar connections: the open connections.
    :ivar connections_made: the number of connections so far.
    :ivar malformed: the parser's error and the bytes of everything that was not HTTP.
    """

    noisy = False

    def __init__(self, reactor: IReactorTime) -> None:
        self.reactor = reactor
        self.requests: RecordList[Request] = RecordList(reactor)
        self.wait_for = self.requests.wait_for
        self.wait_until = self.requests.wait_until
        self.connections: list[FakeConnection] = []
        self.connections_made = 0
        self.malformed: list[tuple[str, bytes]] = []
        self._scripts: list[Script] = []
        self._ports: list[IListeningPort] = []

    # What a test calls.

    async def listen(self, endpoint: IStreamServerEndpoint) -> int:
        """Listen on *endpoint* and return the port; may be called several times."""
        port = await endpoint.listen(self)
        self._ports.append(port)
        return host_and_port(port.getHost())[1]

    async def stop_listening(self) -> None:
        """Stop accepting connections; open ones stay open."""
        ports, self._ports = self._ports, []
        for port in ports:
            await maybeDeferred(port.stopListening)

    async def close(self) -> None:
        """Stop listening, abort every connection and wait until all are closed."""
        await self.stop_listening()
        for connection in list(self.connections):
            connection.transport.abortConnection()
        await self.wait_until(lambda: not self.connections)

    def script(self, match: Match, responder: Responder, times: int | None = None) -> Script:
        """Answer the requests that *match* with *responder*.

        The newest matching script wins, so add a general script before its exceptions.

        :param match: a path (``/v1/models``), a method and a path (``GET /v1/models``), or a
            predicate, which is called when the request's head is complete.
        :param responder: exact bytes, a sequence of bytes and steps, or a callable that returns
            either for the complete request.
        :param times: the number of requests to answer; ``None`` means no limit.
        """
        script = Script(match, responder, times)
        self._scripts.append(script)
        return script

    def wait_closed(self, timeout: float = TIMEOUT_SECONDS) -> Deferred[bool]:
        """Fires when no connection is open."""
        return self.wait_until(lambda: not self.connections, timeout)

    # What a connection calls.

    def script_for(self, request: Request) -> Script:
        matching = (each for each in reversed(self._scripts) if each.matches(request))
        return next(matching, None) or self.default_script(request)

    def default_script(self, request: Request) -> Script:
        """The answer to a request that no script matches."""
        raise NotImplementedError


class FakeConnection(Protocol):
    """One connection to a :class:`FakeServer`."""

    log = Logger()
    transport: StreamTransport  # type: ignore[assignment]  # narrower than Protocol's

    def __init__(self, server: FakeServer, address: IAddress | None) -> None:
        self._server = server
        self._peer = host_and_port(address)
        self._queue: deque[tuple[Request, Script]] = deque()
        self._running: Deferred[None] | None = None
        self._parser = RequestParser(self)
        self._closing = False
        self.number = 0

    # What Twisted calls.

    def connectionMade(self) -> None:
        self._server.connections_made += 1
        self.number = self._server.connections_made
        self._server.connections.append(self)
        self._server.requests.changed()

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            rest = self._parser.feed(data)
        except httptools.HttpParserError as error:
            self._server.malformed.append((str(error), data))
            self._closing = True
            self.transport.write(REFUSED)
            self.transport.loseConnection()
        else:
            if rest:
                self.upgraded(rest)
        self._server.requests.changed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        self._server.connections.remove(self)
        for request, _ in self._queue:
            if not request.answered:
                request.lost = True
                request.ended = self._server.reactor.seconds()
        self._queue.clear()
        if self._running is not None:
            self._running.cancel()
        self._server.requests.changed()

    # What the parser calls.

    def open_request(
        self, method: bytes, target: bytes, version: str, headers: list[Field]
    ) -> Request:
        request = Request(
            number=len(self._server.requests) + 1,
            connection=self.number,
            peer=self._peer,
            began=self._server.reactor.seconds(),
            method=method,
            target=target,
            version=version,
            headers=headers,
        )
        script = self._server.script_for(request)
        self._queue.append((request, script))
        self._server.requests.add(request)
        if not script.before_body and request.all(b"expect") == [b"100-continue"]:
            self.transport.write(CONTINUE)
        self._advance()
        return request

    def body_received(self, request: Request, data: bytes) -> None:
        pass

    def request_complete(self, request: Request) -> None:
        self._advance()

    def upgraded(self, rest: bytes) -> None:
        """Handle *rest*, the bytes after a request for another protocol."""
        self._server.malformed.append(("bytes after an upgrade", rest))

    # Answering.

    def script_context(self, request: Request) -> ScriptContext:
        """The context of the answer to *request*."""
        return ScriptContext(
            self.transport, self._server.reactor, request, self._server.requests.changed
        )

    def last_answered(self) -> None:
        """The connection's last request was answered."""
        self.transport.loseConnection()

    def _advance(self) -> None:
        """Answer the oldest request if its answer may start, then the next."""
        while self._queue and self._running is None:
            request, script = self._queue[0]
            if request.answered and request.complete:
                self._queue.popleft()
                if not request.keep_alive:
                    self.last_answered()
            elif not request.answered and (request.complete or script.before_body):
                self._answer(request, script)
            else:
                break

    def _answer(self, request: Request, script: Script) -> None:
        done = Deferred.fromCoroutine(run(script.use(request), self.script_context(request)))
        self._running = done
        done.addCallback(self._answered, request)
        done.addErrback(self._failed)

    def _answered(self, _: None, request: Request) -> None:
        self._running = None
        request.answered = True
        request.ended = self._server.reactor.seconds()
        self._server.requests.changed()
        self._advance()

    def _failed(self, failure: Failure) -> None:
        """Handle the loss of the connection, or a defect in a script."""
        self._running = None
        if not isinstance(failure.value, CancelledError):
            self.log.failure("a scripted answer failed", failure)
            self.transport.abortConnection()
