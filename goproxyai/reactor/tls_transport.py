"""TLS transports that write at once, and whose reads end without an exception.

Twisted's ``BufferingTLSTransport`` keeps what is written until the next reactor iteration. The
socket's transport then keeps the encrypted bytes until the reactor reports the socket as writable.
A read ends when OpenSSL has nothing more to give, which pyOpenSSL reports by two exceptions of 2 us
each. :class:`DirectTLS` encrypts and sends within the write, and looks whether a read has left
anything. The handshake, verification, backpressure and the close remain as in Twisted's
``TLSMemoryBIOProtocol``.

The methods that :class:`DirectTLS` replaces and the memory BIOs of pyOpenSSL are not public. Where
a release lacks one of them, Twisted's own transport is used.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.reactor.private_names import missing_names
from goproxyai.reactor.socket_write import write_through

PRIVATE_NAMES: Final = (
    "_aborted", "_flushReceiveBIO", "_flushSendBIO", "_lostTLSConnection", "_shutdownTLS",
    "_tlsShutdownFinished",
)  # fmt: skip
"""Attributes of the TLS transports in Twisted that :class:`DirectTLS` uses or replaces."""

BIO_NAMES: Final = ("_from_ssl", "_into_ssl")
"""Attributes of connections in pyOpenSSL: the memory BIOs of encrypted output and input."""

_MAX_READ_BYTES: Final = 2**15

_data_size: Any = None
with suppress(ImportError, AttributeError):  # another release of pyOpenSSL may lack them
    from OpenSSL._util import ffi, lib

    _data_size = lib.BIO_get_mem_data
    _data: Any = ffi.new("char **")  # each call sets it to the address of the bytes


def _is_empty(bio: Any) -> bool:
    """Return whether a memory BIO has no bytes to read."""
    return not _data_size(bio, _data)


class DirectTLS(TLSMemoryBIOProtocol):
    """A TLS transport that encrypts and sends within each write."""

    _tlsConnection: Any

    def _flushSendBIO(self) -> None:
        connection = self._tlsConnection
        if not _is_empty(connection._from_ssl):
            write_through(self.transport, connection.bio_read(_MAX_READ_BYTES))

    def _flushReceiveBIO(self) -> None:
        """Do what the replaced method does, without an attempt that must fail."""
        connection = self._tlsConnection
        while not self._lostTLSConnection:
            try:
                data = connection.recv(_MAX_READ_BYTES)
            except SSL.WantReadError:  # the rest of a record is missing
                break
            except SSL.ZeroReturnError:
                self._shutdownTLS()
                self._tlsShutdownFinished(None)
            except SSL.Error:
                self._tlsShutdownFinished(Failure())
            else:
                if not self._aborted:
                    ProtocolWrapper.dataReceived(self, data)
                if _is_empty(connection._into_ssl) and not connection.pending():
                    break
        self._flushSendBIO()


def is_supported(
    transport: object = TLSMemoryBIOProtocol,
    connection: Callable[[SSL.Context], object] = SSL.Connection,
) -> bool:
    """Return whether the installed Twisted and pyOpenSSL have the names that are used here."""
    probe = connection(SSL.Context(SSL.TLS_METHOD))
    missing = missing_names(transport, *PRIVATE_NAMES) + missing_names(probe, *BIO_NAMES)
    return _data_size is not None and not missing


class TLSFactory(TLSMemoryBIOFactory):
    """Adds TLS to the connections of a factory; the parameters are those of the base."""

    if is_supported():
        protocol = DirectTLS


@implementer(IStreamClientEndpoint)
class TLSClientEndpoint:
    """Connects through *endpoint* and adds TLS, as Twisted's ``wrapClientTLS`` does.

    :param creator: an ``IOpenSSLClientConnectionCreator``.
    """

    def __init__(self, creator: Any, endpoint: Any) -> None:
        self._creator = creator
        self._endpoint = endpoint

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Return the protocol that *factory* makes, once TCP is connected."""
        connecting: Deferred[Any] = self._endpoint.connect(TLSFactory(self._creator, True, factory))
        return connecting.addCallback(lambda tls: tls.wrappedProtocol)
