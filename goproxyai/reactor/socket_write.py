"""Write-through: the kernel first, the reactor's buffer second.

``transport.write`` parks every byte and asks the reactor for a writable event, which costs two
``epoll_ctl`` calls and one more turn for each response. Where nothing is parked yet, the socket
almost always has room, so the bytes go to it directly and only the remainder is parked.
"""

from __future__ import annotations

from select import POLLIN, POLLRDHUP, poll
from typing import Any

from twisted.internet.tcp import Client, Server

_PLAIN = (Server, Client)


def write_through(transport: Any, data: bytes) -> None:
    """Write *data*, in order, with as little parking as possible.

    Falls back to ``transport.write`` where bytes are parked already (order!), where the transport
    is no plain socket (TLS, in-memory), or where it is closing. A connection that turns out to be
    broken is left to the reactor, which reports it through ``connectionLost`` in a later turn.
    """
    if (
        type(transport) in _PLAIN
        and not transport.dataBuffer
        and not transport._tempDataBuffer
        and transport.connected
        and not transport.disconnecting
        and not transport._writeDisconnecting
        and not transport._writeDisconnected
        and not transport.TLS
    ):
        try:
            sent = transport.socket.send(data)
        except OSError:  # full, or broken
            sent = 0
        if sent == len(data):
            return
        data = data[sent:]
    transport.write(data)


def _layers(transport: Any) -> list[Any]:
    """*transport* and what lies below it: a TLS layer over a socket has two."""
    layers = [transport]
    while getattr(layers[-1], "_tlsConnection", None) is not None:
        layers.append(layers[-1].transport)
    return layers


def unsent_bytes(transport: Any) -> int:
    """Bytes that were written but that the kernel has not taken yet."""
    if type(transport) is Server and not transport.TLS:
        return len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    total = 0
    for layer in _layers(transport):
        total += sum(map(len, getattr(layer, "_appSendBuffer", ())))
        total += getattr(layer, "_tempDataLen", 0)
        total += len(getattr(layer, "dataBuffer", b"")) - getattr(layer, "offset", 0)
    return total


def peer_closed(transport: Any) -> bool:
    """Whether the peer has closed, asked of the kernel without reading.

    For connections whose reading is paused: the reactor does not watch those.
    """
    return bool(input_poll(transport, POLLRDHUP).poll(0))


def input_poll(transport: Any, events: int = POLLIN | POLLRDHUP) -> poll:
    """What tells whether the peer has closed, or sent anything that nobody has read yet.

    ``poll(0)`` on it is empty while neither is so; it may be asked again and again.
    """
    poller = poll()
    fileno = getattr(_layers(transport)[-1], "fileno", None)
    descriptor = fileno() if fileno is not None else -1
    if descriptor >= 0:
        poller.register(descriptor, events)  # POLLHUP and POLLERR are always told
    return poller


def can_half_close(transport: Any) -> bool:
    """Whether our side can be shut alone; below TLS that would cut what TLS still has to say."""
    return len(_layers(transport)) == 1 and hasattr(transport, "loseWriteConnection")


def set_no_delay(transport: Any) -> None:
    """Turn Nagle's algorithm off where the transport is TCP: frames leave as they come."""
    switch = getattr(transport, "setTcpNoDelay", None)
    if switch is not None:
        switch(True)
