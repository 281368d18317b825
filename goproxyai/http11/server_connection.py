"""The connection that a client holds to us.

1. Bytes go through llhttp; what it refuses, and what :mod:`.request_head` refuses, becomes an exchange with
   a ``problem``, answered in its turn like every other, and the last one. Between two messages, a
   head that begins with the bytes of the last one, and the body that its length counts, pass it by.
2. Exchanges are dispatched one at a time, in order. What was pipelined behind the one at work
   waits, and the connection is not read: at most one read (64 KiB) waits, parsed. While the client
   takes nothing of what it was answered, nothing more is dispatched or read.
3. Deadlines are attributes, kept by the ticker: a head within 20 s, a body at 500 B/s once 30 s
   are over, a reader that takes something within 60 s, 75 s of idleness between requests.
4. Once the daemon drains, what a connection is at is its last: it closes then, at once where it
   is idle; one that has brought no request yet is waited for, for a moment.
5. A connection that is to close while the client may still be sending lingers: our side is shut,
   what comes is thrown away for a moment, so that the answer is not lost to a reset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.errors import ProxyError
from goproxyai.http11.connection_limits import HEALTH, ConnectionLimits
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.framing import (
    MOST_FIELDS,
    MOST_HEADER_BYTES,
    headers_too_large,
)
from goproxyai.http11.request_body import RequestBody, WholeBody
from goproxyai.http11.request_head import RequestHead, RequestHeadCache
from goproxyai.limits.addresses import canonical_address
from goproxyai.messages.headers import Headers
from goproxyai.messages.targets import MAX_TARGET_BYTES
from goproxyai.reactor.deadlines import NEVER, Ticker
from goproxyai.reactor.socket_state import can_half_close, input_poll, peer_closed, set_no_delay
from goproxyai.reactor.socket_write import unsent_bytes
from goproxyai.reactor.write_batch import ImmediateWriter, Writer

HEAD_SECONDS = 20.0
"""For a complete head, from its first byte (from the connection, for the first)."""

IDLE_SECONDS = 75.0
"""Between two requests of a connection."""

BODY_SECONDS = 30.0
"""Of a body during which its rate is nobody's business."""

BODY_RATE = 500.0
"""Bytes a second that a body must keep up after that."""

STALL_SECONDS = 60.0
"""Within which a reader takes at least one byte of what waits for it."""

LINGER_SECONDS = 2.0
"""For which what a refused client still sends is thrown away, once it has its answer."""

LOCAL = "local"
"""Stands for the peer of a connection that has no address, such as one over a Unix socket."""

FRAMING_RATE = 16
"""Bytes of chunk framing for each byte of a body, beyond what a header may weigh."""


@implementer(IPushProducer)
class ServerConnection(Protocol):
    """One client's connection; see the module's rules."""

    __slots__ = (
        "_active", "_advancing", "_choked", "_deadline", "_deaf", "_draining", "_framing_bytes",
        "_fresh", "_head", "_head_bytes", "_head_split", "_headers", "_in_head", "_incoming",
        "_lingering", "_looked", "_lost", "_noted", "_outside", "_parser", "_paused", "_peer",
        "_read", "_read_bytes", "_replayed", "_rest", "_sent", "_stall_deadline", "_taken",
        "_target", "_waiting",
    )  # fmt: skip

    factory: ServerFactory
    transport: Any  # ITransport does not tell half of what a transport can do

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._parser = HttpRequestParser(self)
        self._waiting: deque[Exchange] = deque()
        self._active: Exchange | None = None
        self._head: RequestHead | None = None
        self._incoming: Exchange | None = None
        self._advancing = False
        self._paused = False
        self._choked = False
        self._deaf = False
        self._draining = False
        self._fresh = True
        self._lingering = False
        self._lost = False
        self._outside = False
        self._deadline = NEVER
        self._noted = NEVER
        self._sent = 0
        self._taken = -1
        self._stall_deadline = NEVER
        self._looked = 0.0
        self._rest = 0
        self._read = b""
        self._read_bytes = 0
        self._head_split = False
        self._framing_bytes = 0
        self._replayed = False
        self._reset_head()

    def _reset_head(self) -> None:
        self._target = b""
        self._headers: Headers = []
        self._head_bytes = 0
        self._in_head = False

    # The transport's side.

    def connectionMade(self) -> None:
        """Begin to wait for a request."""
        set_no_delay(self.transport)
        self.transport.registerProducer(self, True)
        ticker = self.factory.ticker
        self._looked = ticker.now
        self._deadline = ticker.now + HEAD_SECONDS
        ticker.watched.add(self)
        self.factory.connections.add(self)
        self._outside = not self.factory.connection_limits.came(self, self._peer)

    def dataReceived(self, data: bytes) -> None:
        """Take in what came, and begin to work on what is ready."""
        if self._deaf:
            return
        if self._rest:
            data = self._count(data)
        elif self._head is not None and self._incoming is None and not self._in_head:
            data = self._again(self._head, data)
        if data:
            self._parse(data)
        if self._waiting:
            self._advance()

    def _again(self, head: RequestHead, data: bytes) -> bytes:
        """Take the request that repeats *head*, if *data* begins with one; what is left."""
        found = head.again(data)
        if found is None:
            return data
        begin, length, values = found
        factory = self.factory
        if length > factory.max_body_bytes:
            return data  # to be refused
        end = begin + length
        content = data[begin:end]
        body: RequestBody | WholeBody
        if len(content) == length:
            body = WholeBody(content)
        else:
            body = RequestBody(self, length, factory.ticker.now, False)
        self._deadline = NEVER
        exchange = Exchange(self, self._peer, factory.ticker.seconds(), head, values, body)
        if not body.complete:
            self._incoming = exchange
            self._rest = length - len(content)
            if content:
                _body_of(exchange).feed(content)
        if self._active is None and not self._waiting and not self._choked:
            self._active = exchange
            factory.dispatch(exchange)
        else:
            self._waiting.append(exchange)
        return data[end:]

    def _count(self, data: bytes) -> bytes:
        """Take the rest of a body whose length is known; what is left."""
        incoming, rest = self._incoming, self._rest
        assert incoming is not None, "only a deaf connection forgets what is coming"
        content = data[:rest]
        self._rest = rest - len(content)
        body = _body_of(incoming)
        body.feed(content)
        if not self._rest and self._incoming is incoming:
            self._incoming = None
            body.end()
        return data[rest:]

    def _parse(self, data: bytes) -> None:
        """Let llhttp read."""
        size = self._read_bytes = len(data)
        was_in_head = self._head_split = self._in_head
        incoming = self._incoming
        before = incoming.body.received if incoming is not None else 0
        self._read = data if incoming is None and not was_in_head else b""
        self._feed(data)
        self._read = b""
        if self._in_head and was_in_head:
            self._head_bytes += size
            if self._head_bytes > MOST_HEADER_BYTES + MAX_TARGET_BYTES and not self._deaf:
                self._refuse(headers_too_large())
        elif incoming is not None and incoming is self._incoming:
            self._check_framing(_body_of(incoming), size - (incoming.body.received - before))

    def _check_framing(self, body: RequestBody, framing: int) -> None:
        """Chunk extensions and trailers bring no body and have no end of their own."""
        self._framing_bytes += framing
        if self._framing_bytes > MOST_HEADER_BYTES + FRAMING_RATE * body.received:
            self._refuse(
                ProxyError("bad_request", "The request body's framing outweighs the body.")
            )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Everybody who works for this client stops."""
        self._lost = self._deaf = True
        self.factory.ticker.watched.discard(self)
        self.factory.connections.discard(self)
        self.factory.connection_limits.left(self)
        active, self._active = self._active, None
        waiting, self._waiting = self._waiting, deque()
        for exchange in (active, *waiting):
            if exchange is not None:
                exchange.lost()
        self._incoming = self._head = None
        del self._parser  # which knows us: no cycle is left to be collected

    def pauseProducing(self) -> None:
        """The client does not read as fast as we write."""
        self._choked = True
        if self._active is not None:
            self._active.pause()
        else:
            self.flow(False)

    def resumeProducing(self) -> None:
        """It caught up."""
        self._choked = False
        if self._active is not None:
            self._active.resume()
        else:
            self._advance()
            self.flow(True)

    def stopProducing(self) -> None:
        """The connection is lost; ``connectionLost`` follows and does what is to be done."""

    # llhttp's side.

    def _feed(self, data: bytes) -> None:
        while data and not self._deaf:
            try:
                self._parser.feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._decline_upgrade()
            except HttpParserError as error:
                cause = error.__context__
                if isinstance(cause, ProxyError):
                    self._refuse(cause)
                elif not self._closing_anyway():
                    self._refuse(ProxyError("bad_request", f"The request is malformed: {error}."))
                return

    def _closing_anyway(self) -> bool:
        """Whether what was refused stands behind a request that closes the connection."""
        last = self._waiting[-1] if self._waiting else self._active
        if last is None or last.keep or not last.body.complete:
            return False
        self._deaf = True
        return True

    def _decline_upgrade(self) -> None:
        """Nothing is upgraded here: read on in HTTP/1.1 (RFC 9110 §7.8).

        llhttp leaves the body of a request that wants an upgrade unread, so a fresh parser is told
        the framing once more, in a head that is heard by nobody.
        """
        self._parser = HttpRequestParser(self)
        incoming = self._incoming
        if incoming is not None:
            length = incoming.body.length
            if isinstance(length, int):
                framing = b"Content-Length: %d" % length
            else:
                framing = b"Transfer-Encoding: chunked"
            self._replayed = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
            self._replayed = False

    def on_message_begin(self) -> None:
        if not self._replayed and not self._lingering:
            self._reset_head()
            self._in_head = True
            self._deadline = self.factory.ticker.now + HEAD_SECONDS

    def on_url(self, url: bytes) -> None:
        if not self._replayed:
            self._target = self._target + url if self._target else url
            if len(self._target) > MAX_TARGET_BYTES:
                raise ProxyError(
                    "target_too_long", "The request target exceeds 16 KiB; send less in the URL."
                )

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._replayed or self._lingering or self._deaf:  # heard by nobody, or behind the last
            self._headers = []
            return
        headers = self._headers
        if len(headers) > MOST_FIELDS:
            raise headers_too_large()
        if self._head_split or self._read_bytes > MOST_HEADER_BYTES:  # else it cannot be too large
            if sum([len(name) + len(value) + 4 for name, value in headers]) > MOST_HEADER_BYTES:
                raise headers_too_large()
        parser = self._parser
        version = parser.get_http_version()
        read, self._read = self._read, b""  # which begins with the first head that is in it
        self._headers = []
        head = self.factory.heads.judged(
            read, parser.get_method(), self._target, version, headers,
            version == "1.1" and parser.should_keep_alive(),
        )  # fmt: skip
        self._head = head if head.known else None
        values = head.values(headers)
        length = head.length(values)
        self._in_head = False
        self._deadline = NEVER
        ticker = self.factory.ticker
        body: RequestBody | WholeBody
        if length == 0:
            body = WholeBody(b"")
        else:
            body = RequestBody(self, length, ticker.now, head.awaits_continue)
        exchange = Exchange(self, self._peer, ticker.seconds(), head, values, body)
        exchange.first, self._fresh = self._fresh, False
        if self._outside:
            self._knock(exchange)
        if length is not None and length > self.factory.max_body_bytes:
            exchange.problem = exchange.problem or _too_large()
        if exchange.problem is not None:
            self._deaf = True
        elif length != 0:
            self._incoming = exchange
            self._framing_bytes = 0
        self._waiting.append(exchange)

    def _knock(self, exchange: Exchange) -> None:
        """The first request of a connection that had no place, see :mod:`.connection_limits`."""
        if not exchange.target.startswith(HEALTH):
            exchange.problem = self.factory.connection_limits.asked(self, self._peer)
            self._outside = exchange.problem is not None
        exchange.keep = exchange.keep and not self._outside

    def on_body(self, data: bytes) -> None:
        incoming = self._incoming
        if incoming is not None:
            _body_of(incoming).feed(data)
            if incoming.body.received > self.factory.max_body_bytes and not isinstance(
                incoming.body.length, int
            ):  # a length that was told has been judged, by the limit of then
                raise _too_large()

    def on_message_complete(self) -> None:
        incoming = self._incoming
        if incoming is not None:
            if self._parser.should_upgrade() and not self._replayed and not incoming.body.received:
                return  # llhttp skipped the body: see _decline_upgrade
            self._incoming = None
            _body_of(incoming).end()

    # Exchanges, in order.

    def _refuse(self, problem: ProxyError) -> None:
        """The stream of requests ends here, with an answer that says why."""
        self._deaf = True
        if self._lingering:
            return
        self._deadline = NEVER
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            if incoming is self._active:
                incoming.fail(problem)
            elif not incoming.over:
                incoming.problem = problem
            return
        method = self._parser.get_method() if self._target else b"-"
        head = RequestHead(method, self._target, "1.1", [], False)
        began = self.factory.ticker.seconds()
        self._waiting.append(Exchange(self, self._peer, began, head, (), WholeBody(b""), problem))

    def _advance(self) -> None:
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._active is None and self._waiting and not (self._lost or self._choked):
                exchange = self._active = self._waiting.popleft()
                self.factory.dispatch(exchange)
        finally:
            self._advancing = False
        if self._waiting:
            self.flow(False)

    # The exchange's side: Wire.

    def send(self, data: bytes) -> None:
        """Write to the client."""
        if not self._lost:
            self._sent += len(data)
            self.factory.writer.write(self.transport, data)

    def flow(self, reading: bool) -> None:
        """Read on, or pause; while requests or answers wait nothing more is read."""
        if self._lost:
            return
        if not reading:
            if not self._paused:
                self._paused = True
                self.transport.pauseProducing()
        elif self._paused and (self._incoming is not None or not (self._waiting or self._choked)):
            self._paused = False
            self.transport.resumeProducing()

    def exchange_done(self, exchange: Exchange, keep: bool) -> None:
        """The next one, or the end."""
        if exchange is not self._active:
            return
        self._active = None
        if not keep:
            self._close(False)
            return
        if not self._waiting:
            if not self._in_head:
                self._deadline = self.factory.ticker.now + IDLE_SECONDS
            if self._deaf or (self._draining and not self._in_head):
                self._close(False)
            elif self._paused:
                self.flow(True)
        else:
            self._advance()

    def abort(self) -> None:
        """Break off: the client must see that the answer was cut."""
        if not self._lost and self.transport is not None:
            self.factory.writer.flush()
            self.transport.abortConnection()

    def _close(self, quiet: bool) -> None:
        """End the connection once everything is written; *quiet*: the client sends no more."""
        transport = self.transport
        if self._lost or transport is None:
            return
        self._deaf = True
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            exchange.lost()
        self.factory.writer.flush()
        transport.unregisterProducer()
        self._choked = False
        self._incoming = None
        self._lingering = True
        self._deadline = self.factory.ticker.now + LINGER_SECONDS
        self.flow(True)
        if quiet or not can_half_close(transport):
            transport.loseConnection()
        else:
            transport.loseWriteConnection()

    # Deadlines.

    def tick(self, now: float) -> None:
        """See to every deadline of this connection; called four times a second."""
        passed, self._looked = now - self._looked, now
        if self._paused:
            if peer_closed(self.transport):
                self.abort()
                return
            if not self._lingering:
                self._deadline += passed
        if self._incoming is not None:
            body = _body_of(self._incoming)
            if self._paused or body.waits:
                body.opened += passed
            else:
                self._check_rate(body, now)
        if now >= self._deadline:
            self._too_late(now)
        waiting = unsent_bytes(self.transport)
        self._check_reader(now, waiting)
        if self._deadline != self._noted and not waiting:
            self._noted = self._deadline
            self._note(now)

    def _note(self, now: float) -> None:
        """Tell the entrance whether this connection could make room for another."""
        slots = self.factory.connection_limits.slots
        if self.idle and not (self._in_head or self._lingering):
            slots.rests(self, now)
        else:
            slots.works(self)

    def _check_rate(self, body: RequestBody, now: float) -> None:
        if now > body.opened + BODY_SECONDS + body.received / BODY_RATE:
            self._refuse(
                ProxyError("bad_request", "The request body came slower than 500 bytes a second.")
            )
            self._advance()
        else:  # what came fast earns no more than another half minute
            body.opened = min(body.opened, now - body.received / BODY_RATE)

    def _too_late(self, now: float) -> None:
        self._deadline = NEVER
        if self._lingering:
            if unsent_bytes(self.transport):  # the answer first, see _check_reader
                self._deadline = now + LINGER_SECONDS
            else:
                self.abort()
        elif self._in_head:
            self._refuse(
                ProxyError("bad_request", "The header was not complete within 20 seconds.")
            )
            self._advance()
        else:
            self._close(True)

    def _check_reader(self, now: float, waiting: int) -> None:
        taken = self._sent - waiting
        if not waiting or taken != self._taken:
            self._taken = taken
            self._stall_deadline = now + STALL_SECONDS
        elif now >= self._stall_deadline:
            self.abort()

    def drain(self, patient: bool) -> None:
        """The daemon is about to stop: close if nothing is asked, or else once it is answered.

        The answer to what is at work says that it is the last. A request that was on its way as
        an idle connection closed is not answered: the client sees the end of a connection that it
        has used, before the first byte of an answer, and asks again on another.

        :param patient: wait for the first request of a client that has just come: nothing tells
            it that a connection that it has not used may be closed.
        """
        self._draining = True
        active = self._active
        if active is not None:
            if not (active.answering or self._waiting):
                active.keep = False
        elif not (
            self._waiting
            or self._incoming is not None
            or self._in_head
            or self._lingering
            or (patient and self._fresh)
        ):
            self._close(False)

    def shut(self, problem: ProxyError | None = None) -> None:
        """The daemon stops: close what is idle, break off what is not.

        :param problem: the answer to a request whose own has not begun.
        """
        active, told = self._active, False
        if problem is not None and active is not None and not active.answering:
            active.fail(problem)
            told = True
        if self.idle:
            self._close(True)
        elif not told:
            self.abort()

    @property
    def fresh(self) -> bool:
        """Whether there has been no request yet."""
        return self._fresh

    @property
    def idle(self) -> bool:
        """Whether no request is being read, worked on or answered."""
        return (
            self._active is None
            and not self._waiting
            and self._incoming is None
            and not unsent_bytes(self.transport)
        )

    @property
    def resting(self) -> bool:
        """Whether it is idle, and the client has not begun to say anything that we did not read."""
        quiet = not (self._in_head or self._lingering or self._lost) and self.idle
        return quiet and not input_poll(self.transport).poll(0)


def _body_of(incoming: Exchange) -> RequestBody:
    """The body that is coming: a whole one is not."""
    return cast("RequestBody", incoming.body)


def _too_large() -> ProxyError:
    return ProxyError(
        "request_too_large", "The request body exceeds MAX_BODY_SIZE; send less or raise the limit."
    )


@implementer(IProtocolNegotiationFactory)
class ServerFactory(Factory[ServerConnection]):
    """Makes a :class:`ServerConnection` for each client.

    :ivar dispatch: gets every exchange, in order a connection; must see to it that it ends.
    :ivar max_body_bytes: of a request body.
    :ivar writer: shared by all connections; writes at once where none is given.
    :ivar connections: those that are open.
    :ivar connection_limits: lets them in; all of them where none is given.
    """

    noisy = False

    def __init__(
        self,
        ticker: Ticker,
        dispatch: Callable[[Exchange], None],
        max_body_bytes: int,
        writer: Writer | None = None,
        connection_limits: ConnectionLimits | None = None,
    ) -> None:
        self.ticker = ticker
        self.connection_limits = connection_limits or ConnectionLimits(ticker)
        self.writer: Writer = writer or ImmediateWriter()
        self.dispatch = dispatch
        self.max_body_bytes = max_body_bytes
        self.heads = RequestHeadCache()
        self.connections: set[ServerConnection] = set()

    def acceptableProtocols(self) -> list[bytes]:
        """What is offered in ALPN where the listening endpoint speaks TLS (RFC 7301)."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> ServerConnection:
        """A connection of its own for the client at *addr*."""
        host = getattr(addr, "host", "") or LOCAL
        connection = ServerConnection(canonical_address(host) or host)
        connection.factory = self
        return connection
