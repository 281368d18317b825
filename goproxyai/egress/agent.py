"""An ``IAgent`` with a connection pool that sends requests unchanged.

The target on the wire is the part of *uri* after the origin, byte for byte: nothing is parsed,
joined or re-encoded. One deadline covers TCP, CONNECT and TLS together.
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

from goproxyai.config.settings import Settings
from goproxyai.egress.routes import Route, Routes
from goproxyai.http11.client_connection import ClientConnection
from goproxyai.http11.connection_deadlines import Timeouts
from goproxyai.http11.connection_pool import ConnectionPool
from goproxyai.http11.errors import Awaited, UpstreamTimeout
from goproxyai.http11.response import Response, ResponseReceiver
from goproxyai.limits.request_memory import RequestMemory
from goproxyai.messages.headers import Headers, serialize_headers
from goproxyai.reactor.deadlines import Deadline, Ticker
from goproxyai.reactor.write_batch import ImmediateWriter, Writer
from goproxyai.upstream.retries import RetryCause

MAX_CACHED_ROUTES = 64
"""Bounds the route cache; a daemon has only as many origins as upstreams."""


class _SingleConnectionFactory(Factory):
    """Gives *connection* to the first connection attempt that succeeds."""

    noisy = False

    def __init__(self, connection: ClientConnection) -> None:
        self._connection: ClientConnection | None = connection

    def buildProtocol(self, addr: IAddress | None) -> ClientConnection | None:
        # Twisted's connector and this factory form a reference cycle; the connection must not be
        # part of it.
        connection, self._connection = self._connection, None
        return connection


class Cancellable(Protocol):
    """A request in progress."""

    def cancel(self) -> None:
        """Abort the request; its receiver is not called any more."""


class _PendingRequest:
    """A request that waits for a new connection.

    :param arguments: of :meth:`.ClientConnection.send`; the last one is the receiver.
    """

    def __init__(self, connecting: Deferred[ClientConnection], arguments: tuple[Any, ...]) -> None:
        self._arguments = arguments
        self._cancelled = False
        self._connection: ClientConnection | None = None
        self._connecting = connecting
        connecting.addCallbacks(self._connected, self._failed)

    def _connected(self, connection: ClientConnection) -> None:
        self._connection = connection
        try:
            connection.send(*self._arguments)
        except Exception:  # an unexpected exception must not leave the receiver waiting
            connection.cancel()
            self._arguments[-1].failed(Failure())

    def _failed(self, reason: Failure) -> None:
        if not self._cancelled:
            self._arguments[-1].failed(reason, RetryCause.CONNECT)

    def cancel(self) -> None:
        self._cancelled = True
        if self._connection is not None:
            self._connection.cancel()
        else:
            self._connecting.cancel()


class _DeferredReceiver:
    """A receiver that fires a Deferred; cancelling the Deferred cancels the request."""

    sending: Cancellable

    def __init__(self) -> None:
        self.response: Deferred[Response] = Deferred(lambda _: self.sending.cancel())

    def answered(self, response: Response) -> None:
        self.response.callback(response)

    def failed(self, reason: Failure, cause: RetryCause | None = None) -> None:
        self.response.errback(reason)

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        """Drop an interim response: ``IAgent`` cannot report one."""

    def may_switch_protocols(self) -> bool:
        return False


@implementer(IAgent)
class RelayAgent:
    """Sends requests over pooled connections.

    :param clock: for the deadline of connecting.
    :ivar connect_timeout: seconds for TCP, CONNECT and TLS together.
    :ivar timeouts: shared by all connections.
    :param writer: shared by all connections; by default each write is immediate.
    :param memory: shared by all connections; without one, memory is not limited.
    """

    def __init__(
        self,
        clock: IReactorTime,
        ticker: Ticker,
        routes: Routes,
        timeouts: Timeouts,
        connect_timeout: float,
        writer: Writer | None = None,
        memory: RequestMemory | None = None,
    ) -> None:
        self.pool = ConnectionPool()
        self.timeouts = timeouts
        self.connect_timeout = connect_timeout
        self._clock = clock
        self._ticker = ticker
        self._routes = routes
        self._writer = writer or ImmediateWriter()
        self._memory = memory or RequestMemory()
        self._cached_routes: dict[bytes, Route] = {}

    def route(self, origin: bytes) -> Route:
        """Return the route to *origin*, from the cache if possible.

        :param origin: ``scheme://authority``, without path or credentials.
        :raises ValueError: if *origin* is anything else.
        """
        route = self._cached_routes.get(origin)
        if route is None:
            route = self._routes.route_to(origin)
            if len(self._cached_routes) >= MAX_CACHED_ROUTES:
                self._cached_routes.clear()
            self._cached_routes[origin] = route
        return route

    def relay(
        self,
        route: Route,
        method: bytes,
        head: bytes,
        body: bytes | IBodyProducer | None,
        has_length: bool,
        receiver: ResponseReceiver,
    ) -> Cancellable:
        """Send a request, and report its response or failure to *receiver*.

        *receiver* is never given a response before this method returns. It may be given a failure
        to connect.

        :param route: from :meth:`route`.
        :param head: the result of :meth:`.Route.head` and further header lines, without the blank
            line, and without the framing of a body that has none yet.
        :param has_length: whether *head* contains the ``Content-Length`` of *body*.
        """
        connection = self.pool.take(route.pool_key)
        if connection is None:
            return _PendingRequest(self.connect(route), (method, head, body, has_length, receiver))
        connection.send(method, head, body, has_length, receiver)
        return connection

    def request(  # type: ignore[override]  # accepts more types than IAgent
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | WebHeaders | None = None,
        bodyProducer: bytes | IBodyProducer | None = None,
    ) -> Deferred[Response]:
        """Send a request (``IAgent``).

        :param headers: sent after ``Host`` in the given order. ``Host`` is the origin's and must
            not be among them.
        :raises ValueError: if *uri* has no http origin.
        """
        if isinstance(headers, WebHeaders):
            headers = [(n, v) for n, values in headers.getAllRawHeaders() for v in values]
        block = serialize_headers(headers or ())
        has_length = b"\r\ncontent-length:" in b"\r\n" + block.lower()
        receiver = _DeferredReceiver()
        end_of_origin = uri.find(b"/", len(b"https://"))
        if end_of_origin < 0:
            end_of_origin, uri = len(uri), uri + b"/"
        route = self.route(uri[:end_of_origin])
        head = route.head(method, uri[end_of_origin:]) + block
        receiver.sending = self.relay(route, method, head, bodyProducer, has_length, receiver)
        return receiver.response

    def connect(self, route: Route) -> Deferred[Any]:
        """Return a new connection once it can send a request.

        Fails with :class:`.UpstreamTimeout`, or as the route's endpoint does.
        """
        pool, key = self.pool, route.pool_key
        connection = ClientConnection(
            self._ticker,
            self.timeouts,
            route.secured,
            partial(pool.release, key),
            partial(pool.remove, key),
            self._writer,
            self._memory,
        )

        def connected(_: object) -> Deferred[ClientConnection]:
            pool.add(connection)
            return connection.ready

        connecting: Deferred[Any] = route.endpoint.connect(_SingleConnectionFactory(connection))
        connecting.addCallback(connected)
        return _with_deadline(connecting, self.connect_timeout, self._clock)


def timeouts_of(settings: Settings) -> Timeouts:
    """Return the timeouts of requests to upstreams."""
    return Timeouts(settings.request_timeout, settings.idle_timeout, settings.generation_timeout)


def _with_deadline(connecting: Deferred[Any], seconds: float, clock: IReactorTime) -> Deferred[Any]:
    """Cancel *connecting* after *seconds*; it then fails with :class:`.UpstreamTimeout`."""
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        connecting.cancel()

    deadline = Deadline(clock, seconds, expire)

    def finished(result: object) -> object:
        deadline.cancel()
        if expired:
            raise UpstreamTimeout(Awaited.CONNECTION)
        return result

    return connecting.addBoth(finished)
