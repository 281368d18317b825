"""The state of a transport's socket that Twisted's transports do not report.

A TLS transport is a layer over the socket's transport. The functions here find the socket below.
"""

from __future__ import annotations

from select import POLLIN, POLLRDHUP, poll
from typing import Any

from twisted.protocols.tls import TLSMemoryBIOProtocol


def transport_layers(transport: Any) -> list[Any]:
    """Return *transport* and the transports below its TLS layers, outermost first."""
    layers = [transport]
    while isinstance(layers[-1], TLSMemoryBIOProtocol):
        layers.append(layers[-1].transport)
    return layers


def input_poll(transport: Any, events: int = POLLIN | POLLRDHUP) -> poll:
    """Return a poll object for the socket of *transport*.

    ``poll(0)`` returns an empty list as long as the peer has not closed and no input is unread. A
    transport without a socket always has the empty list.

    :param events: the events to report; POLLHUP and POLLERR are always reported.
    """
    poller = poll()
    fileno = getattr(transport_layers(transport)[-1], "fileno", None)
    descriptor = fileno() if fileno is not None else -1
    if descriptor >= 0:
        poller.register(descriptor, events)
    return poller


def peer_closed(transport: Any) -> bool:
    """Return whether the peer has closed the connection, without reading from the socket.

    For connections whose reading is paused: the reactor does not report their end.
    """
    return bool(input_poll(transport, POLLRDHUP).poll(0))


def can_half_close(transport: Any) -> bool:
    """Return whether the sending side can be closed alone.

    Not below TLS: a half-close would cut off the records that TLS has yet to send.
    """
    return len(transport_layers(transport)) == 1 and hasattr(transport, "loseWriteConnection")


def set_no_delay(transport: Any) -> None:
    """Set TCP_NODELAY where *transport* is TCP, so that small writes are sent at once."""
    set_tcp_no_delay = getattr(transport, "setTcpNoDelay", None)
    if set_tcp_no_delay is not None:
        set_tcp_no_delay(True)
