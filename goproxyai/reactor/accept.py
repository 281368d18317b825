"""A bound on accepting, and accepting without free file descriptors.

1. A listening socket accepts at most :data:`MAX_ACCEPTS_PER_TURN` connections in a turn of the
   reactor. Twisted starts with a hundred and raises the number by twenty while connections wait:
   in a connection storm the turns would grow longer, and every stream would wait for them.
2. Where the process has no free file descriptor, Twisted closes the new connections by means of a
   descriptor that it keeps in reserve. Twisted also logs four lines for each connection. Here one
   warning is logged every :data:`WARNING_INTERVAL_SECONDS`.
3. Connections have the transport of :mod:`.accepted_connection`, where the reactor supports it. An
   error of ``accept`` is still left to Twisted.
4. Where the reserved descriptor is lost, accepting would fail in every turn. The socket then pauses
   for :data:`RETRY_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import ECONNABORTED, errorcode
from socket import SocketType
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.tcp import Port, Server
from twisted.logger import LogEvent, Logger
from twisted.python.failure import Failure

from goproxyai.reactor.accepted_connection import (
    INHERITS_OPTIONS,
    AcceptedConnection,
    inherit_tcp_options,
    peer_address,
    supports,
)
from goproxyai.reactor.private_names import describe_missing, missing_names

MAX_ACCEPTS_PER_TURN = 32
"""Connections that a socket accepts in one turn of the reactor; they take about 0.5 ms, and their
first requests as long as requests do."""

ACCEPT_SECONDS = 0.002
"""Time after which a socket accepts no further connection in this turn."""

WARNING_INTERVAL_SECONDS = 60.0
"""Minimum interval between two warnings about file descriptors."""

RETRY_SECONDS = 1.0
"""Pause of a socket that cannot accept."""

LEFT_SECONDS = 0.001
"""Pause of a socket that leaves a connection to another process."""

PRIVATE_NAMES = ("_logger", "numberAccepts", "doRead")
"""Attributes of Twisted's listening ports that are replaced."""

_log = Logger()


class BoundedAccept:
    """Bounds the accepting of one listening port.

    A port that is not of Twisted's class is left as it is. So is a port of a Twisted release that
    lacks one of :data:`PRIVATE_NAMES`; one warning is logged.

    :param port: the result of an endpoint's ``listen``.
    :param max_accepts: connections that are accepted in one turn of the reactor.
    :param may_accept: returns whether to accept a connection that waits, or to leave it to another
        process for :data:`LEFT_SECONDS`; its argument is the time.
    :param on_refused: called with the number of connections that were closed for lack of a file
        descriptor.
    """

    def __init__(
        self,
        port: Any,
        clock: Any,
        on_refused: Callable[[int], None],
        max_accepts: int = MAX_ACCEPTS_PER_TURN,
        may_accept: Callable[[float], bool] = lambda _: True,
    ) -> None:
        self._port = port
        self._clock = clock
        self._on_refused = on_refused
        self._max_accepts = max_accepts
        self._may_accept = may_accept
        self._refused = 0
        self._unreported = 0
        self._accept_error = ""
        self._next_warning_at = 0.0
        self._retry: IDelayedCall | None = None
        if not isinstance(port, Port):
            return
        missing = missing_names(port, *PRIVATE_NAMES)
        if missing:
            _log.warn(
                "{problem}; until then a connection storm delays streams: accepting is not bounded",
                problem=describe_missing(port, missing),
            )
            return
        self._accept: Callable[[], None] = port.doRead
        self._accept_batch = self._accept
        known = port.transport is Server and supports(port.reactor)
        if known and not missing_names(port.socket, "_accept"):
            if INHERITS_OPTIONS:
                inherit_tcp_options(port.socket)
            self._accept_batch = self._accept_lean
        untyped: Any = port  # Port is typed without its logger
        untyped.doRead = self._bounded_accept
        observer: Any = self._observe  # any callable observes
        untyped._logger = Logger(observer=observer)

    def stop(self) -> None:
        """Cancel the retry; to be called before the port is closed."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _bounded_accept(self) -> None:
        if not self._may_accept(self._clock.seconds()):
            self._pause(LEFT_SECONDS)
            return
        self._port.numberAccepts = min(self._port.numberAccepts, self._max_accepts)
        self._accept_batch()
        if self._refused or self._accept_error:
            self._handle_no_descriptor()

    def _accept_lean(self) -> None:
        """Accept as Twisted does, with the transport of :mod:`.accepted_connection`."""
        port, seconds = self._port, self._clock.seconds
        listening = port.socket
        family, kind = listening.family.value, listening.type.value
        ends_at = seconds() + ACCEPT_SECONDS
        for _ in range(self._max_accepts):
            try:
                descriptor, client = listening._accept()
            except BlockingIOError:
                return
            except OSError:
                self._accept()  # which handles the error when it recurs
                return
            # The class without the additions in Python, which nothing here uses.
            accepted = SocketType(family, kind, 0, descriptor)
            self._serve(accepted, client)
            if seconds() >= ends_at:
                return

    def _serve(self, accepted: SocketType, client: Any) -> None:
        """Serve a connection; an error in it must not end the accepting."""
        port, transport = self._port, None
        try:
            accepted.setblocking(False)
            protocol = port.factory.buildProtocol(peer_address(client))
            if protocol is None:
                accepted.close()
                return
            transport = AcceptedConnection(accepted, protocol, client, port, port.reactor)
            protocol.makeConnection(transport)
            transport.begin()
        except Exception:
            _log.failure("unhandled error in a new connection")
            if transport is None:
                accepted.close()
                return
            try:
                transport.connectionLost(Failure())
            except Exception:  # of a protocol that was not made completely
                _log.failure("unhandled error at the end of a new connection")

    def _observe(self, event: LogEvent) -> None:
        """Take note of an event that Twisted would have logged while accepting."""
        if "address" in event:
            self._refused += 1
        elif event.get("acceptError", errorcode[ECONNABORTED]) != errorcode[ECONNABORTED]:
            self._accept_error = event["acceptError"]

    def _handle_no_descriptor(self) -> None:
        refused, self._refused = self._refused, 0
        error, self._accept_error = self._accept_error, ""
        self._on_refused(refused)
        self._port.numberAccepts = self._max_accepts  # Twisted sets 1 when none was accepted
        self._unreported += refused
        now = self._clock.seconds()
        if now >= self._next_warning_at:
            self._next_warning_at = now + WARNING_INTERVAL_SECONDS
            unreported, self._unreported = self._unreported, 0
            _log.warn(
                "no free file descriptor ({error}): {count} connections were closed without a "
                "response; raise the limit (ulimit -n) or lower MAX_CONNECTIONS",
                error=error or "EMFILE",
                count=unreported,
            )
        if error:
            self._pause(RETRY_SECONDS)

    def _pause(self, seconds: float) -> None:
        if self._retry is None:
            self._port.stopReading()
            self._retry = self._clock.callLater(seconds, self._resume)

    def _resume(self) -> None:
        self._retry = None
        self._port.startReading()
