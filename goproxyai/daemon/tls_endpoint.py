"""``ssl:`` endpoints, whose certificates can be read again while they listen.

Twisted reads the files of ``privateKey``, ``certKey`` and ``extraCertChain`` when it parses the
endpoint string. To renew them, the string is parsed again, and the context of the listening port is
replaced. Connections that exist keep the certificate that they began with. Sessions that clients
would resume end with the context, because the keys of their tickets do.

With a client CA (``TLS_CLIENT_CA``), clients must present a certificate that the CA has signed. The
handshake fails otherwise.

With ``haproxy:`` before ``ssl:``, the header of the PROXY protocol precedes the TLS handshake.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import attrs
from OpenSSL.SSL import Context
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLContextFactory,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from zope.interface import implementer

from goproxyai.daemon.proxy_protocol import PREFIX as PROXY_PROTOCOL
from goproxyai.http11.announced_peer import AnnouncedPeerFactory
from goproxyai.reactor.tls_tickets import issue_tickets
from goproxyai.reactor.tls_transport import TLSFactory

PREFIX = "ssl:"

_ARGUMENT = re.compile(r"((?:[^\\:]|\\.)+)(?::|$)")
_NAMED = re.compile(r"(\w+)=(.*)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_FILES = ("privateKey", "certKey", "extraCertChain", "dhParameters")

Version = tuple[int, int, int, int] | None
"""The device, inode, time and size of a file; ``None`` if it cannot be found."""

_HIDDEN: Version = (0, 0, 0, 0)
"""Of a file in a directory that the user of ``--uid`` cannot search: its changes are unknown."""


@implementer(IOpenSSLContextFactory)
@attrs.define(eq=False)
class RenewableContext:
    """Passes on *current*, which may be replaced."""

    current: Context

    def getContext(self) -> Context:
        return self.current


class _ParsingReactor:
    """Has the method that an ``ssl:`` endpoint calls to listen, and returns the context."""

    def listenSSL(
        self, port: int, factory: IProtocolFactory, contextFactory: IOpenSSLContextFactory, **_: Any
    ) -> IOpenSSLContextFactory:
        return contextFactory


class _ListeningReactor:
    """Listens with a context that can be renewed.

    :param prepare: returns the context of the endpoint; may raise.
    :param announced: the description of an endpoint with ``haproxy:``, or empty.
    :ivar context: that of the port that listens.
    """

    def __init__(
        self,
        reactor: Any,
        prepare: Callable[[IOpenSSLContextFactory], Context],
        announced: str,
    ) -> None:
        self._reactor = reactor
        self._prepare = prepare
        self._announced = announced
        self.context: RenewableContext | None = None

    def listenSSL(
        self,
        port: int,
        factory: Any,
        contextFactory: IOpenSSLContextFactory,
        **options: Any,
    ) -> IListeningPort:
        context = self._prepare(contextFactory)  # raises at the start, not in the first connection
        self.context = RenewableContext(context)
        outer: IProtocolFactory = TLSFactory(self.context, False, factory)
        if self._announced:
            outer = AnnouncedPeerFactory(outer, factory, self._announced)
        listening: IListeningPort = self._reactor.listenTCP(port, outer, **options)
        return listening


@implementer(IStreamServerEndpoint)
class TLSEndpoint:
    """An ``ssl:`` endpoint.

    :param client_ca: the PEM file of the CA that must have signed the certificates of clients;
        ``None`` where clients need no certificate.
    :raises Exception: where *description* is invalid, or a file cannot be read.
    """

    def __init__(self, reactor: Any, description: str, client_ca: str | None = None) -> None:
        self._description = description.removeprefix(PROXY_PROTOCOL)
        self._client_ca = client_ca
        announced = description if description.startswith(PROXY_PROTOCOL) else ""
        self._files = certificate_files(self._description) + ((client_ca,) if client_ca else ())
        self._loaded = self._seen = self._versions()
        self._reactor = _ListeningReactor(reactor, self._prepare, announced)
        self._endpoint: IStreamServerEndpoint = serverFromString(self._reactor, self._description)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return self._endpoint.listen(protocolFactory)

    def has_changed(self) -> bool:
        """Return whether the files differ from the used ones, and are as the last call found them.

        A program that writes the key and then the certificate is not interrupted, and files that
        could not be used are reported once.
        """
        versions = self._versions()
        stable, self._seen = versions == self._seen, versions
        return stable and versions != self._loaded and _HIDDEN not in versions

    def renew(self) -> None:
        """Read the files again, for later connections.

        :raises Exception: where a file cannot be used; the previous certificate stays in use.
        """
        context = self._reactor.context
        if context is None:  # not listening
            return
        self._loaded = self._versions()
        context.current = self.read()

    def read(self) -> Context:
        """Read the files.

        :raises Exception: where a file cannot be used.
        """
        endpoint = serverFromString(_ParsingReactor(), self._description)
        parsed: list[IOpenSSLContextFactory] = []
        endpoint.listen(Factory()).addCallback(parsed.append)  # fires at once
        return self._prepare(parsed[0])

    def _versions(self) -> tuple[Version, ...]:
        return tuple([_version(file) for file in self._files])

    def _prepare(self, factory: IOpenSSLContextFactory) -> Context:
        if self._client_ca is not None:
            require_client_certificate(factory, self._client_ca)
        else:  # a resumed session would not verify the certificate of the client again
            issue_tickets(factory)
        context: Context = factory.getContext()
        return context


def require_client_certificate(options: Any, path: str) -> None:
    """Let only clients connect that have a certificate of a CA in the PEM file *path*.

    :param options: the ``CertificateOptions`` of the endpoint, which have made no context yet.
    :raises OSError: the file cannot be read.
    :raises ValueError: the file has no certificate.
    :raises OpenSSL.crypto.Error: a certificate is invalid.
    """
    with open(path, "rb") as file:
        found = _CERTIFICATE.findall(file.read())
    if not found:
        raise ValueError(f"no certificate in {path}")
    options.trustRoot = trustRootFromCertificates([Certificate.loadPEM(pem) for pem in found])
    options.verify = options.requireCertificate = True


def certificate_files(description: str) -> tuple[str, ...]:
    """Return the paths that an ``ssl:`` endpoint string names, in Twisted's syntax."""
    positional, named = [], {"privateKey": "server.pem"}
    for argument in _ARGUMENT.findall(description):
        match = _NAMED.fullmatch(argument)
        if match is None:
            positional.append(_unescaped(argument))
        else:
            named[match[1]] = _unescaped(match[2])
    named |= dict(zip(_FILES, positional[2:4], strict=False))  # after ssl and the port
    return tuple([named[name] for name in _FILES if name in named])


def _unescaped(argument: str) -> str:
    return _ESCAPED.sub(r"\1", argument)


def _version(path: str) -> Version:
    try:
        status = os.stat(path)
    except PermissionError:
        return _HIDDEN
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
