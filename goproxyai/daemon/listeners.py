"""The listening sockets."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from goproxyai.daemon.descriptor_limit import fit_descriptor_limit
from goproxyai.daemon.endpoints import ListenError, describe_problem
from goproxyai.http11.server_factory import ServerFactory
from goproxyai.reactor.accept import BoundedAccept

_log = Logger(namespace="goproxyai")


@attrs.define(eq=False)
class Listeners(Service):
    """Listens on every endpoint.

    :param endpoints: each with its description.
    :param factory: makes the protocol of each accepted connection.
    """

    clock: Any
    endpoints: tuple[tuple[str, IStreamServerEndpoint], ...]
    factory: ServerFactory
    _ports: list[IListeningPort] = attrs.field(factory=list)
    _accepts: list[BoundedAccept] = attrs.field(factory=list)

    @property
    def addresses(self) -> list[Any]:
        """The addresses of the open ports, with their port numbers."""
        return [port.getHost() for port in self._ports]

    def listen(self) -> None:
        """Listen on all endpoints; no connection is accepted before the reactor runs.

        To be called before twistd forks: an error line of the forked process would reach neither
        the terminal nor the waiting process. Ports below 1024 are bound before ``--uid`` applies.

        :raises ListenError: with one line about the first endpoint that fails.
        """
        for description, endpoint in self.endpoints:
            listening = endpoint.listen(self.factory)
            results: list[Any] = []
            listening.addBoth(results.append)  # listening endpoints fire at once
            if not results or isinstance(results[0], Failure):
                problem = _problem(results)
                raise ListenError(f"goproxyai: cannot listen on {description}: {problem}")
            self._ports.append(results[0])
            self._accepts.append(BoundedAccept(results[0], self.clock, self._count_refused))

    def startService(self) -> None:
        """Listen, unless :meth:`listen` has been called, and prepare for connections.

        :raises ListenError: with one line about the first endpoint that fails.
        """
        super().startService()
        if not self._ports:
            self.listen()
        # No connection is accepted before the reactor's next turn.
        fit_descriptor_limit(self.factory.connection_limits.slots)
        for address in self.addresses:
            _log.info("listening on {address}", address=str(address))

    def _count_refused(self, count: int) -> None:
        self.factory.connection_limits.counts.refused["no_descriptor"] += count

    async def close(self) -> None:
        """Close the ports; returns when all are closed."""
        while self._accepts:
            self._accepts.pop().stop()
        ports, self._ports = self._ports, []
        for port in ports:
            stopping = port.stopListening()
            if stopping is not None:
                await stopping


def _problem(results: list[Any]) -> str:
    if not results:
        return "the endpoint did not listen at once"
    return describe_problem(results[0].value)
