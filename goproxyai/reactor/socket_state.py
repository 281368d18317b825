"""The state of a transport's socket that Twisted's transports do not report.

A TLS transport is a layer over the socket's transport. The functions here find the socket below.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from fcntl import ioctl
from select import POLLIN, POLLRDHUP, poll
from termios import TIOCOUTQ
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import alsoProvides

KEEP_ALIVE_IDLE_SECONDS = 60
"""Silence after which the kernel sends the first keep-alive probe. Linux's default is two hours;
NAT gateways and load balancers forget a connection after some minutes of silence."""

KEEP_ALIVE_INTERVAL_SECONDS = 15
"""Interval between two keep-alive probes that are not acknowledged."""

MAX_KEEP_ALIVE_PROBES = 4
"""Unacknowledged probes after which the kernel reports the connection as lost."""

KEEP_ALIVE_OPTIONS = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
for _name, _value in (
    ("TCP_KEEPIDLE", KEEP_ALIVE_IDLE_SECONDS),
    ("TCP_KEEPINTVL", KEEP_ALIVE_INTERVAL_SECONDS),
    ("TCP_KEEPCNT", MAX_KEEP_ALIVE_PROBES),
):
    if hasattr(socket, _name):  # not every system has all three
        KEEP_ALIVE_OPTIONS.append((socket.IPPROTO_TCP, getattr(socket, _name), _value))


_C_INT = struct.Struct("i")


class TransportLayer:
    """A transport of this package over another one.

    :ivar transport: the transport below.
    """

    __slots__ = ("transport",)

    transport: Any

    @property
    def pending_bytes(self) -> int:
        """The written bytes that this layer holds."""
        raise NotImplementedError


def transport_layers(transport: Any) -> list[Any]:
    """Return *transport* and the transports below its TLS layers, outermost first."""
    layers = [transport]
    while isinstance(layers[-1], (TransportLayer, TLSMemoryBIOProtocol)):
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


def hides_close(transport: Any) -> bool:
    """Return whether the peer can close the connection in a way that :func:`peer_closed` misses.

    With TLS, a peer may send ``close_notify`` and leave TCP open. Only a read finds the message.
    """
    return len(transport_layers(transport)) > 1


def is_reset(transport: Any) -> bool:
    """Return whether the connection has failed, without reading from the socket.

    For connections whose reading is paused: a peer that has only sent its FIN is no failure there.
    """
    return bool(input_poll(transport, 0).poll(0))


def unacknowledged_bytes(transport: Any) -> int:
    """Return how many bytes the kernel holds because the peer has not acknowledged them.

    A FIN counts as one byte. Only the socket is asked, which is below all TLS layers. A transport
    without a socket has none, nor has a socket whose system does not count them.
    """
    fileno = getattr(transport_layers(transport)[-1], "fileno", None)
    descriptor = fileno() if fileno is not None else -1
    if descriptor < 0:
        return 0
    try:
        count: int = _C_INT.unpack(ioctl(descriptor, TIOCOUTQ, bytes(_C_INT.size)))[0]
    except OSError:
        return 0
    return count


def can_half_close(transport: Any) -> bool:
    """Return whether the sending side can be closed alone.

    Not below TLS: a half-close would cut off the records that TLS has yet to send.
    """
    return len(transport_layers(transport)) == 1 and hasattr(transport, "loseWriteConnection")


def report_half_close(transport: Any, protocol: Any) -> None:
    """Have the FIN of the peer reported by ``readConnectionLost`` of *protocol* from now on.

    Twisted reports a FIN as the loss of the connection, unless the protocol says otherwise
    (``IHalfCloseableProtocol``). A client's endpoint puts a wrapper between transport and protocol,
    which must say so too. Where another layer is between them, nothing changes.
    """
    reporter = getattr(transport, "protocol", protocol)
    if can_half_close(transport) and hasattr(type(reporter), "readConnectionLost"):
        alsoProvides(reporter, IHalfCloseableProtocol)


def set_tcp_options(transport: Any) -> None:
    """Set the options of a new connection, where *transport* is TCP and does not have them."""
    bottom = transport_layers(transport)[-1]
    if getattr(bottom, "has_tcp_options", False):
        return
    set_no_delay(transport)
    set_keep_alive(transport)


def set_no_delay(transport: Any) -> None:
    """Set TCP_NODELAY where *transport* is TCP, so that small writes are sent at once."""
    set_tcp_no_delay = getattr(transport_layers(transport)[-1], "setTcpNoDelay", None)
    if set_tcp_no_delay is not None:
        set_tcp_no_delay(True)


def set_keep_alive(transport: Any) -> None:
    """Turn TCP keep-alive on where *transport* is TCP, so that a vanished peer is noticed.

    A Unix socket has no keep-alive: its peer cannot vanish without a notice of the kernel.
    """
    get_handle = getattr(transport_layers(transport)[-1], "getHandle", None)
    handle: Any = get_handle() if get_handle is not None else None
    if getattr(handle, "family", None) in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):  # macOS refuses options of a socket that the peer has reset
            for level, option, value in KEEP_ALIVE_OPTIONS:
                handle.setsockopt(level, option, value)
