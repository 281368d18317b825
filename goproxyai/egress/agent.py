"""An ``IAgent`` that sends what it is given, over connections that it keeps.

The target that goes out is the very bytes behind the origin in *uri*: nothing is parsed, joined or
re-encoded. TCP, CONNECT and TLS together stand under one deadline.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers as WebHeaders
from twisted.web.iweb import IAgent, IBodyProducer
from zope.interface import implementer

from goproxyai.egress.routes import Route, Routes
from goproxyai.http11.client_connection import ClientConnection
from goproxyai.http11.connection_deadlines import Timeouts
from goproxyai.http11.connection_pool import ConnectionPool
from goproxyai.http11.errors import UpstreamTimeout
from goproxyai.http11.response import Response, ResponseReceiver
from goproxyai.messages.headers import Headers, lines
from goproxyai.reactor.deadlines import Ticker
from goproxyai.reactor.write_batch import ImmediateWriter, Writer
from goproxyai.upstream.retries import Cause

MOST_ORIGINS = 64
"""Routes remembered; the daemon has one upstream, so this is a bound and not a size."""


class _Factory(Factory):
    """Makes the one connection that an attempt is about."""

    noisy = False

    def __init__(self, connection: ClientConnection) -> None:
        self._connection: ClientConnection | None = connection

    def buildProtocol(self, addr: IAddress | None) -> ClientConnection | None:
        connection, self._connection = self._connection, None  # Twisted keeps us in a cycle
        return connection


class Cancellable(Protocol):
    """A request under way."""

    def cancel(self) -> None:
        """Its receiver wants no answer any more, and is told nothing more."""


class _Attempt:
    """A request that waits for its connection.

    :param request: what to call :meth:`.ClientConnection.send` with.
    """

    def __init__(self, connecting: Deferred[ClientConnection], request: tuple[Any, ...]) -> None:
        self._request = request
        self._withdrawn = False
        self._connection: ClientConnection | None = None
        self._connecting = connecting
        connecting.addCallbacks(self._connected, self._failed)

    def _connected(self, connection: ClientConnection) -> None:
        self._connection = connection
        try:
            connection.send(*self._request)
        except Exception:  # a defect of ours: never leave the receiver waiting
            connection.cancel()
            self._request[-1].failed(Failure())

    def _failed(self, reason: Failure) -> None:
        if not self._withdrawn:
            self._request[-1].failed(reason, Cause.CONNECT)

    def cancel(self) -> None:
        """As :class:`Cancellable` has it."""
        self._withdrawn = True
        if self._connection is not None:
            self._connection.cancel()
        else:
            self._connecting.cancel()


class _Promise:
    """Receives for those who wait with a Deferred."""

    sending: Cancellable

    def __init__(self) -> None:
        self.response: Deferred[Response] = Deferred(lambda _: self.sending.cancel())

    def answered(self, response: Response) -> None:
        self.response.callback(response)

    def failed(self, reason: Failure, cause: Cause | None = None) -> None:
        self.response.errback(reason)

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        """``IAgent`` has no place for it."""


@implementer(IAgent)
class RelayAgent:
    """Sends requests; see the module.

    :param clock: keeps the deadline of connecting.
    :ivar connect_timeout: seconds for TCP, CONNECT and TLS together.
    :ivar timeouts: of all connections.
    :param writer: shared by all connections; writes at once where none is given.
    """

    def __init__(
        self,
        clock: IReactorTime,
        ticker: Ticker,
        routes: Routes,
        timeouts: Timeouts,
        connect_timeout: float,
        writer: Writer | None = None,
    ) -> None:
        self.pool = ConnectionPool()
        self.timeouts = timeouts
        self._clock = clock
        self._ticker = ticker
        self._routes = routes
        self.connect_timeout = connect_timeout
        self._writer = writer or ImmediateWriter()
        self._known: dict[bytes, Route] = {}

    def route(self, origin: bytes) -> Route:
        """The route to *origin*, ``scheme://authority`` and nothing behind it; made once.

        :raises ValueError: where *origin* is not that.
        """
        route = self._known.get(origin)
        if route is None:
            route = self._routes.to(origin)
            if len(self._known) >= MOST_ORIGINS:
                self._known.clear()
            self._known[origin] = route
        return route

    def relay(
        self,
        route: Route,
        method: bytes,
        head: bytes,
        body: bytes | IBodyProducer | None,
        framed: bool,
        receiver: ResponseReceiver,
    ) -> Cancellable:
        """Send a request; *receiver* is told what becomes of it.

        An answer never comes before this returns; a failure to connect may.

        :param route: see :meth:`route`.
        :param head: of :meth:`.Route.head`, and header lines, complete but for the blank line, and
            for the framing of a body that carries none yet.
        :param framed: whether *head* holds the body's ``Content-Length``.
        :returns: what takes it back.
        """
        connection = self.pool.take(route.origin)
        if connection is None:
            return _Attempt(self._connect(route), (method, head, body, framed, receiver))
        connection.send(method, head, body, framed, receiver)
        return connection

    def request(  # type: ignore[override]  # it takes what IAgent takes, and more
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | WebHeaders | None = None,
        bodyProducer: bytes | IBodyProducer | None = None,
    ) -> Deferred[Response]:
        """As ``IAgent`` has it; header lines leave in the order of *headers*, behind ``Host``.

        :param headers: without ``Host``, which is the origin's.
        :raises ValueError: where *uri* has no http origin.
        """
        if isinstance(headers, WebHeaders):
            headers = [(n, v) for n, values in headers.getAllRawHeaders() for v in values]
        block = lines(headers or ())
        framed = b"\r\ncontent-length:" in b"\r\n" + block.lower()
        promise = _Promise()
        cut = uri.find(b"/", 8)
        route = self.route(uri[:cut] if cut > 0 else uri)
        target = uri[cut:] if cut > 0 else b"/"
        head = route.head(method, target) + block
        promise.sending = self.relay(route, method, head, bodyProducer, framed, promise)
        return promise.response

    def _connect(self, route: Route) -> Deferred[Any]:
        """A new connection, ready to be used; fails as the endpoints do, or by its deadline."""
        pool, origin = self.pool, route.origin
        connection = ClientConnection(
            self._ticker,
            self.timeouts,
            route.secured,
            partial(pool.release, origin),
            partial(pool.remove, origin),
            self._writer,
        )

        def connected(_: object) -> Deferred[ClientConnection]:
            pool.add(connection)
            return connection.ready

        connecting: Deferred[Any] = route.endpoint.connect(_Factory(connection))
        connecting.addCallback(connected)
        return connecting.addTimeout(self.connect_timeout, self._clock, self._late)

    def _late(self, result: object, seconds: float) -> object:
        raise UpstreamTimeout("a connection to the upstream")
