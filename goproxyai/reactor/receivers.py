"""The protocol that a transport delivers its input to.

Twisted's client endpoints put a wrapper between transport and protocol, and a tunnel its handshake.
Both pass each read on, long after they have done their work. Without them, a read takes one or two
calls less, and a connection through an HTTP proxy 1.8 KB less.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import endpoints

_WRAPPER: Any = getattr(endpoints, "_WrappingProtocol", None)


def receive_directly(transport: Any, protocol: Any, instead_of: Any = None) -> None:
    """Have *transport* deliver its input, and its end, to *protocol*.

    Changes nothing where *transport* delivers to something else than Twisted's wrapper around the
    receiver, or the receiver itself.

    :param instead_of: the present receiver; by default *protocol*, which has a wrapper.
    """
    receiver = protocol if instead_of is None else instead_of
    if getattr(transport, "wrappedProtocol", None) is receiver:  # a TLS layer
        transport.wrappedProtocol = protocol
        return
    present = getattr(transport, "protocol", None)
    if _WRAPPER is not None and type(present) is _WRAPPER:
        present = getattr(present, "_wrappedProtocol", None)
    if present is receiver and present is not None:
        transport.protocol = protocol
