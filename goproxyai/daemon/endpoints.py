"""Endpoint strings, and listening sockets that systemd passes to the process.

``unix:`` replaces the socket of a process that was killed, see :mod:`goproxyai.reactor.unix_port`;
its argument ``lockfile`` has no effect.

``haproxy:`` before any of them expects the PROXY protocol, see :mod:`.proxy_protocol`.

A socket unit keeps its socket open while no daemon runs. Clients that connect meanwhile wait for
the next daemon, so a restart refuses no connection. ``systemd:domain=INET6:index=0`` in ``LISTEN``
adopts such a socket (``sd_listen_fds(3)``):

1. Twisted reads ``LISTEN_PID``, ``LISTEN_FDS`` and ``LISTEN_FDNAMES`` when it is imported, before
   twistd forks, and removes the first two from the environment. It duplicates the socket,
   close-on-exec.
2. Stopping closes the copy. Twisted does not shut the socket down. The path of a Unix socket must
   stay as well, see :mod:`goproxyai.reactor.unix_port`.
3. A socket that was not passed, has another domain, or does not listen is an error at the start.
   Twisted would report an error for each connection only.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer

from goproxyai.daemon import dual_stack, proxy_protocol, tls_endpoint
from goproxyai.daemon.dual_stack import DualStackEndpoint
from goproxyai.daemon.proxy_protocol import ProxyProtocolEndpoint
from goproxyai.daemon.tls_endpoint import TLSEndpoint
from goproxyai.reactor.unix_port import UnixListeningReactor, keep_socket_path

_TLS_EXAMPLE = "ssl:8443:privateKey=key.pem:certKey=cert.pem with PEM files"


class ListenError(SystemExit):
    """An address that cannot be listened on; ends the process with one line and status 1."""


def parse_endpoints(
    reactor: Any,
    descriptions: tuple[str, ...],
    variable: str = "LISTEN",
    client_ca: str | None = None,
) -> tuple[tuple[str, IStreamServerEndpoint], ...]:
    """Return each of *descriptions* with its endpoint.

    :param variable: the variable that has the descriptions.
    :param client_ca: the file of ``TLS_CLIENT_CA``, which applies to ``ssl:`` endpoints.
    :raises ListenError: with one line about the first description that is invalid.
    """
    return tuple(
        [
            (description, _endpoint(reactor, description, variable, client_ca))
            for description in descriptions
        ]
    )


def _endpoint(
    reactor: Any, description: str, variable: str, client_ca: str | None
) -> IStreamServerEndpoint:
    inner = description.removeprefix(proxy_protocol.PREFIX)
    announced = inner != description
    if inner.startswith(tls_endpoint.PREFIX):
        # TLS takes the header first, and listens by itself.
        return _parsed(partial(TLSEndpoint, reactor, description, client_ca), description, variable)
    endpoint = _parsed(partial(_plain_endpoint, reactor, inner), description, variable)
    if isinstance(endpoint, AdoptedStreamServerEndpoint):
        problem = _adoption_problem(endpoint)
        if problem:
            raise ListenError(f"goproxyai: cannot listen on {description}: {problem}")
        endpoint = InheritedEndpoint(endpoint)
    return ProxyProtocolEndpoint(endpoint, description) if announced else endpoint


def _plain_endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    """Return the endpoint of *description*, which has no TLS; raises various errors."""
    if description.startswith(proxy_protocol.PREFIX):
        raise ValueError("haproxy: twice")
    if description.startswith(dual_stack.PREFIX):
        return DualStackEndpoint.parse(reactor, description)
    endpoint: IStreamServerEndpoint = serverFromString(UnixListeningReactor(reactor), description)
    return endpoint


def _parsed(
    parse: Callable[[], IStreamServerEndpoint], description: str, variable: str
) -> IStreamServerEndpoint:
    """Return what *parse* returns.

    :raises ListenError: where it fails.
    """
    try:
        return parse()
    except Exception as error:  # each kind of endpoint raises errors of its own
        inner = description.removeprefix(proxy_protocol.PREFIX)
        if inner.startswith("systemd:") and isinstance(error, LookupError):
            problem = (
                "no such socket was passed to this process; start the process by its socket unit, "
                "which sets LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES"
            )
            raise ListenError(f"goproxyai: cannot listen on {description}: {problem}") from None
        example = _TLS_EXAMPLE if inner.startswith(tls_endpoint.PREFIX) else "tcp:8080"
        raise ListenError(
            f"goproxyai: {variable} is {description!r}, expected a Twisted endpoint such as "
            f"{example} ({describe_problem(error)})"
        ) from None


def describe_problem(error: BaseException) -> str:
    """Return the cause of *error*, which an endpoint raised, as a part of a line."""
    if isinstance(error, CannotListenError):
        error = error.socketError
    if isinstance(error, (SSL.Error, crypto.Error)) and error.args:
        # The argument is a list of tuples of library, function and reason.
        return f"OpenSSL: {', '.join([reason for *_, reason in error.args[0]])}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _adoption_problem(endpoint: AdoptedStreamServerEndpoint) -> str:
    """Return why the passed socket cannot be adopted, or an empty string."""
    try:
        with socket.socket(fileno=os.dup(endpoint.fileno)) as copy:
            domain = copy.family
            listens = copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        return f"the passed socket cannot be used ({error.strerror})"
    if domain != endpoint.addressFamily:
        name = getattr(domain, "name", str(domain)).removeprefix("AF_")
        return f"the passed socket is of domain={name}"
    if not listens:
        return "the passed socket does not listen; set Accept=no in its unit"
    return ""


@implementer(IStreamServerEndpoint)
@attrs.define(eq=False)
class InheritedEndpoint:
    """The endpoint of a listening socket that another process owns."""

    endpoint: AdoptedStreamServerEndpoint

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        listening: Deferred[IListeningPort] = self.endpoint.listen(protocolFactory)
        return listening.addCallback(keep_socket_path)
