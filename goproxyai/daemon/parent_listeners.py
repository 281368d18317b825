"""The listening sockets of the parent process: it listens, and its workers accept."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.python.failure import Failure

from goproxyai.daemon.endpoints import ListenError, describe_problem
from goproxyai.daemon.listeners import log_addresses
from goproxyai.daemon.worker_process import listening_sockets
from goproxyai.state.messages import PassedSocket


class _NoFactory:
    """A factory for listening; no connection is accepted."""

    noisy = False

    def doStart(self) -> None: ...
    def doStop(self) -> None: ...


@attrs.define(eq=False)
class ParentListeners:
    """Listens on every endpoint, before twistd forks.

    :param endpoints: of ``LISTEN``, each with its description.
    :param admin_endpoints: of ``ADMIN_LISTEN``.
    """

    endpoints: tuple[tuple[str, IStreamServerEndpoint], ...]
    admin_endpoints: tuple[tuple[str, IStreamServerEndpoint], ...]
    _ports: list[Any] = attrs.field(factory=list)

    def listen(self) -> tuple[list[PassedSocket], list[PassedSocket]]:
        """Listen; return the sockets of ``LISTEN`` and of ``ADMIN_LISTEN``.

        :raises ListenError: with one line about the first endpoint that fails.
        """
        for description, endpoint in (*self.endpoints, *self.admin_endpoints):
            self._ports.append(_listen(description, endpoint))
        public = len(self.endpoints)
        return (
            listening_sockets([name for name, _ in self.endpoints], self._ports[:public]),
            listening_sockets([name for name, _ in self.admin_endpoints], self._ports[public:]),
        )

    @property
    def addresses(self) -> list[Any]:
        """The addresses of the sockets; those of operators last."""
        return [port.getHost() for port in self._ports]

    def log_addresses(self) -> None:
        """Log the address of each socket."""
        log_addresses(self.addresses, len(self.endpoints))

    def close(self) -> None:
        """Close the sockets, and remove the paths of Unix sockets."""
        ports, self._ports = self._ports, []
        for port in ports:
            port.stopListening()


def _listen(description: str, endpoint: IStreamServerEndpoint) -> Any:
    results: list[Any] = []
    factory: Any = _NoFactory()
    endpoint.listen(factory).addBoth(results.append)  # listening endpoints fire at once
    if not results or isinstance(results[0], Failure):
        problem = describe_problem(results[0].value) if results else "it did not listen at once"
        raise ListenError(f"goproxyai: cannot listen on {description}: {problem}")
    port = results[0]
    port.stopReading()  # the reactor does not run yet
    return port
