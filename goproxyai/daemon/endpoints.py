"""Where to listen: endpoint strings, and sockets that systemd made.

A socket unit keeps its socket while no daemon runs, and whoever connects meanwhile waits for the
next one: a restart refuses nobody. ``systemd:domain=INET6:index=0`` in ``LISTEN`` adopts such a
socket (``sd_listen_fds(3)``):

1. Twisted reads ``LISTEN_PID``, ``LISTEN_FDS`` and ``LISTEN_FDNAMES`` as it is imported, before
   twistd forks, and takes the first two out of the environment. It dups the socket, close-on-exec.
2. Stopping closes our copy. It must not shut the socket down, which is still systemd's: Twisted
   sees to that. Nor may it remove the path of a Unix socket: that we see to.
3. A socket that is not there, is of another domain than is said, or does not listen, stops the
   start; Twisted would fail at each connection only.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer


class ListenError(SystemExit):
    """An address cannot be listened on: ends the process with one line, status 1."""


def endpoints(
    reactor: Any, descriptions: tuple[str, ...]
) -> tuple[tuple[str, IStreamServerEndpoint], ...]:
    """What *descriptions* stand for, each with its description.

    :raises ListenError: with one line that says which is none.
    """
    return tuple([(description, _endpoint(reactor, description)) for description in descriptions])


def _endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except Exception as error:  # each kind of endpoint has errors of its own
        if description.startswith("systemd:") and isinstance(error, LookupError):
            why = (
                "no such socket was passed to this process; start it by its socket unit, which "
                "sets LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES"
            )
            raise ListenError(f"goproxyai: cannot listen on {description}: {why}") from None
        raise ListenError(
            f"goproxyai: LISTEN is {description!r}, expected a Twisted endpoint such as "
            f"tcp:8080 ({error})"
        ) from None
    if isinstance(endpoint, AdoptedStreamServerEndpoint):
        why = _unfit(endpoint)
        if why:
            raise ListenError(f"goproxyai: cannot listen on {description}: {why}")
        return InheritedEndpoint(endpoint)
    return endpoint


def _unfit(endpoint: AdoptedStreamServerEndpoint) -> str:
    """Why the socket cannot be adopted; empty where it can."""
    try:
        with socket.socket(fileno=os.dup(endpoint.fileno)) as copy:
            domain = copy.family
            listens = copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        return f"the socket that was passed cannot be used ({error.strerror})"
    if domain != endpoint.addressFamily:
        name = getattr(domain, "name", str(domain)).removeprefix("AF_")
        return f"the socket that was passed is of domain={name}"
    if not listens:
        return "the socket that was passed does not listen; its unit needs Accept=no"
    return ""


@implementer(IStreamServerEndpoint)
@attrs.define(eq=False)
class InheritedEndpoint:
    """A listening socket that outlives this process."""

    endpoint: AdoptedStreamServerEndpoint

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """As the interface has it."""
        listening: Deferred[IListeningPort] = self.endpoint.listen(protocolFactory)
        return listening.addCallback(_leave_path)


def _leave_path(port: Any) -> IListeningPort:
    """Keep *port*, if it is of a Unix socket, from removing its path when it is closed."""
    if hasattr(port, "_bindPath"):
        port._bindPath = b"\0"  # as of a socket that has no path
    return port  # type: ignore[no-any-return]
