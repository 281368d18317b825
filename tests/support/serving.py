"""What the doubles that listen have in common.

1. Requests are recorded when their head is in, and answered in order; pipelined ones wait.
2. An answer is the newest script that matches, or the server's own.
3. A connection that is lost cancels the answer that is being played, and marks what it leaves.
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

from tests.support.ledger import PATIENCE, Ledger
from tests.support.requests import Field, Request, RequestParser
from tests.support.steps import Answer, AnswerBeforeBody, Responder, Stage, RawClient, play

Match = str | Callable[[Request], bool]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def loopback(reactor: Any, tls: CertificateOptions | None = None) -> IStreamServerEndpoint:
    """A free port on 127.0.0.1, with TLS if *tls* is given."""
    kind: Any = TCP4ServerEndpoint if tls is None else SSL4ServerEndpoint
    more = () if tls is None else (tls,)
    endpoint: IStreamServerEndpoint = kind(reactor, 0, *more, interface="127.0.0.1")
    return endpoint


def place(address: object) -> tuple[str, int]:
    """The host and port of *address*; nothing and 0 where it has none."""
    if isinstance(address, IPv4Address | IPv6Address):
        return address.host, address.port
    return "", 0


@attrs.define(eq=False)
class Script:
    """An answer for the requests that match.

    :ivar times: how many it still answers; ``None`` for all.
    """

    match: Match
    responder: Responder
    times: int | None = None

    def fits(self, request: Request) -> bool:
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

    def take(self, request: Request) -> Answer:
        """The answer, which uses the script up by one."""
        if self.times is not None:
            self.times -= 1
        return self.responder(request) if callable(self.responder) else self.responder


class FakeServer(Factory["FakeConnection"]):
    """Listens, records, answers.

    :ivar requests: everything asked, in order of arrival; ``wait_for`` and ``wait_until`` on it.
    :ivar connections: the open ones.
    :ivar connections_made: how many there were.
    :ivar malformed: the complaint and the bytes of everything that was not HTTP.
    """

    noisy = False

    def __init__(self, reactor: IReactorTime) -> None:
        self.reactor = reactor
        self.requests: Ledger[Request] = Ledger(reactor)
        self.wait_for = self.requests.wait_for
        self.wait_until = self.requests.wait_until
        self.connections: list[FakeConnection] = []
        self.connections_made = 0
        self.malformed: list[tuple[str, bytes]] = []
        self._scripts: list[Script] = []
        self._ports: list[IListeningPort] = []

    # What a test calls.

    async def listen(self, endpoint: IStreamServerEndpoint) -> int:
        """Listen on *endpoint*; gives the port's number. May be called several times."""
        port = await endpoint.listen(self)
        self._ports.append(port)
        return place(port.getHost())[1]

    async def stop_listening(self) -> None:
        """Accept nobody any more; what is open stays open."""
        ports, self._ports = self._ports, []
        for port in ports:
            await maybeDeferred(port.stopListening)

    async def close(self) -> None:
        """Stop listening, break every connection off, and wait until they are gone."""
        await self.stop_listening()
        for connection in list(self.connections):
            connection.wire.abortConnection()
        await self.wait_until(lambda: not self.connections)

    def script(self, match: Match, responder: Responder, times: int | None = None) -> Script:
        """Answer the requests that fit *match* with *responder*.

        The newest script that fits answers, so a general one comes first and its exceptions after.

        :param match: a path (``/v1/models``), a method and a path (``GET /v1/models``), or a
            predicate; it is asked when the request's head is in.
        :param responder: exact bytes, a sequence of bytes and steps, or a callable that makes
            either of them of the complete request.
        :param times: how many requests it answers; ``None`` for all.
        """
        script = Script(match, responder, times)
        self._scripts.append(script)
        return script

    def wait_closed(self, timeout: float = PATIENCE) -> Deferred[bool]:
        """Fires when no connection is open."""
        return self.wait_until(lambda: not self.connections, timeout)

    # What a connection calls.

    def script_for(self, request: Request) -> Script:
        fitting = (each for each in reversed(self._scripts) if each.fits(request))
        return next(fitting, None) or self.own_script(request)

    def own_script(self, request: Request) -> Script:
        """What happens to a request that no script fits."""
        raise NotImplementedError

    def doStop(self) -> None:
        """Twisted's count of ports is of no interest, and it clears nothing."""


class FakeConnection(Protocol):
    """One connection to a :class:`FakeServer`."""

    log = Logger()
    wire: RawClient

    def __init__(self, server: FakeServer, address: IAddress | None) -> None:
        self._server = server
        self._peer = place(address)
        self._queue: deque[tuple[Request, Script]] = deque()
        self._playing: Deferred[None] | None = None
        self._parser = RequestParser(self)
        self._closing = False
        self.number = 0

    # What Twisted calls.

    def connectionMade(self) -> None:
        self.wire = self.transport  # type: ignore[assignment]  # every stream transport has these
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
            self.wire.write(REFUSED)
            self.wire.loseConnection()
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
        if self._playing is not None:
            self._playing.cancel()
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
            self.wire.write(CONTINUE)
        self._advance()
        return request

    def body_came(self, request: Request, data: bytes) -> None:
        pass

    def request_complete(self, request: Request) -> None:
        self._advance()

    def upgraded(self, rest: bytes) -> None:
        """Bytes came behind a request that asked for another protocol."""
        self._server.malformed.append(("bytes behind an upgrade", rest))

    # Answering.

    def stage(self, request: Request) -> Stage:
        """Where an answer to *request* is played."""
        return Stage(self.wire, self._server.reactor, request, self._server.requests.changed)

    def last_answered(self) -> None:
        """A request that is the connection's last one was answered."""
        self.wire.loseConnection()

    def _advance(self) -> None:
        """Answer the oldest request, if it is time; go on to the next one behind it."""
        while self._queue and self._playing is None:
            request, script = self._queue[0]
            if request.answered and request.complete:
                self._queue.popleft()
                if not request.keep_alive:
                    self.last_answered()
            elif not request.answered and (request.complete or script.before_body):
                self._play(request, script)
            else:
                break

    def _play(self, request: Request, script: Script) -> None:
        done = Deferred.fromCoroutine(play(script.take(request), self.stage(request)))
        self._playing = done
        done.addCallback(self._played, request)
        done.addErrback(self._stumbled)

    def _played(self, _: None, request: Request) -> None:
        self._playing = None
        request.answered = True
        request.ended = self._server.reactor.seconds()
        self._server.requests.changed()
        self._advance()

    def _stumbled(self, failure: Failure) -> None:
        """The connection went away, or a script is wrong."""
        self._playing = None
        if not isinstance(failure.value, CancelledError):
            self.log.failure("A script failed", failure)
            self.wire.abortConnection()
