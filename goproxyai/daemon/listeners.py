"""The listening sockets."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from goproxyai.daemon.descriptor_limit import fit_descriptor_limit
from goproxyai.daemon.endpoints import ListenError, describe_problem
from goproxyai.daemon.tls_endpoint import TLSEndpoint
from goproxyai.http11.server_factory import ServerFactory
from goproxyai.reactor.accept import BoundedAccept

WATCH_SECONDS = 5.0
"""Between two looks at the files of certificates. A change is applied when a second look finds the
files as the first one did."""

_log = Logger(namespace="goproxyai")


@attrs.define(eq=False)
class Listeners(Service):
    """Listens on every endpoint.

    :param endpoints: of ``LISTEN``, each with its description.
    :param factory: makes the protocol of each connection that these accept.
    :param admin_endpoints: of ``ADMIN_LISTEN``.
    :param admin_factory: makes the protocol of each connection that these accept; has the same
        set of connections and the same limits as *factory*.
    :param may_accept: decides whether to accept a connection, where other processes accept from
        the same sockets. The parent process logs the addresses then.
    """

    clock: Any
    endpoints: tuple[tuple[str, IStreamServerEndpoint], ...]
    factory: ServerFactory
    admin_endpoints: tuple[tuple[str, IStreamServerEndpoint], ...] = ()
    admin_factory: ServerFactory | None = None
    may_accept: Callable[[float], bool] | None = None
    _ports: list[IListeningPort] = attrs.field(factory=list)
    _accepts: list[BoundedAccept] = attrs.field(factory=list)
    _watch: LoopingCall = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._watch = LoopingCall(self.renew_certificates, only_changed=True)
        self._watch.clock = self.clock

    @property
    def addresses(self) -> list[Any]:
        """The addresses of the open ports, with their port numbers; those of operators last."""
        return [port.getHost() for port in self._ports]

    def listen(self) -> None:
        """Listen on all endpoints; no connection is accepted before the reactor runs.

        To be called before twistd forks: an error line of the forked process would reach neither
        the terminal nor the waiting process. Ports below 1024 are bound before ``--uid`` applies.

        :raises ListenError: with one line about the first endpoint that fails.
        """
        for description, endpoint in self.endpoints:
            self._listen(description, endpoint, self.factory)
        for description, endpoint in self.admin_endpoints:
            assert self.admin_factory is not None
            self._listen(description, endpoint, self.admin_factory)

    def startService(self) -> None:
        """Listen, unless :meth:`listen` has been called, and prepare for connections.

        :raises ListenError: with one line about the first endpoint that fails.
        """
        super().startService()
        if not self._ports:
            self.listen()
        # No connection is accepted before the reactor's next turn.
        fit_descriptor_limit(self.factory.connection_limits.slots)
        if self.may_accept is None:
            log_addresses(self.addresses, len(self.endpoints))
        if any(isinstance(each, TLSEndpoint) for _, each in self.endpoints + self.admin_endpoints):
            self._watch.start(WATCH_SECONDS, now=False)

    def hold(self) -> None:
        """Accept no connection before :meth:`serve`; connections wait in the sockets."""
        for port in self._ports:
            port.stopReading()  # type: ignore[attr-defined]  # of all ports that are file descriptors

    def serve(self) -> None:
        """Accept connections after :meth:`hold`."""
        for port in self._ports:
            port.startReading()  # type: ignore[attr-defined]  # of all ports that are file descriptors

    def renew_certificates(self, only_changed: bool = False) -> None:
        """Read the certificates of ``ssl:`` endpoints again; log what fails.

        :param only_changed: leave out endpoints whose files have not changed.
        """
        for description, endpoint in (*self.endpoints, *self.admin_endpoints):
            if not isinstance(endpoint, TLSEndpoint):
                continue
            if only_changed and not endpoint.has_changed():
                continue
            try:
                endpoint.renew()
            except Exception as error:  # OpenSSL and Twisted raise errors of many classes
                _log.error(
                    "certificate not reloaded, the previous one stays in use: {problem} (in "
                    "{endpoint})",
                    problem=describe_problem(error),
                    endpoint=description,
                )
            else:
                _log.info("certificate reloaded for {endpoint}", endpoint=description)

    def limit_bodies(self, max_bytes: int) -> None:
        """Change the largest request body, for later requests."""
        self.factory.max_body_bytes = max_bytes
        if self.admin_factory is not None:
            self.admin_factory.max_body_bytes = max_bytes

    def keep_idle(self, seconds: float) -> None:
        """Change the time after which an idle connection is closed."""
        self.factory.keep_alive_seconds = seconds
        if self.admin_factory is not None:
            self.admin_factory.keep_alive_seconds = seconds

    def _listen(
        self, description: str, endpoint: IStreamServerEndpoint, factory: ServerFactory
    ) -> None:
        listening = endpoint.listen(factory)
        results: list[Any] = []
        listening.addBoth(results.append)  # listening endpoints fire at once
        if not results or isinstance(results[0], Failure):
            problem = _problem(results)
            raise ListenError(f"goproxyai: cannot listen on {description}: {problem}")
        self._ports.append(results[0])
        self._accepts.append(self._bounded(results[0]))

    def _bounded(self, port: IListeningPort) -> BoundedAccept:
        if self.may_accept is None:
            return BoundedAccept(port, self.clock, self._count_refused)
        return BoundedAccept(port, self.clock, self._count_refused, 1, self.may_accept)

    def _count_refused(self, count: int) -> None:
        self.factory.connection_limits.counts.refused["no_descriptor"] += count

    async def close(self) -> None:
        """Close the ports; returns when all are closed."""
        if self._watch.running:
            self._watch.stop()
        while self._accepts:
            self._accepts.pop().stop()
        ports, self._ports = self._ports, []
        for port in ports:
            stopping = port.stopListening()
            if stopping is not None:
                await stopping


def log_addresses(addresses: list[Any], public: int) -> None:
    """Log the address of each listener.

    :param public: number of the addresses at the beginning that are not for operators alone.
    """
    for number, address in enumerate(addresses):
        purpose = " for operators" if number >= public else ""
        _log.info(
            "listening on {address}{purpose}",
            address=shown_address(address),
            purpose=purpose,
            is_reported=True,
        )


def shown_address(address: Any) -> str:
    """Return the address of a listener as text, such as ``[::]:8080`` or ``unix:/run/it.sock``."""
    if isinstance(address, UNIXAddress):
        name = address.name
        return f"unix:{'' if name is None else os.fsdecode(name)}"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def _problem(results: list[Any]) -> str:
    if not results:
        return "the endpoint did not listen at once"
    return describe_problem(results[0].value)
