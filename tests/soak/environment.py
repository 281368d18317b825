"""Everything around the daemons: upstreams, egress proxy, name resolution and the current faults.

A fault of the connections to the upstream begins with the abortion of all of them, and lasts until
:meth:`Environment.end`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint

from tests.soak.faults import PLAIN, TUNNEL
from tests.soak.plan import Window
from tests.soak.upstream import FaultyProxy, FaultyUpstream, UpstreamState
from tests.support.authority import Authority, Identity, self_signed

HOST, PROXY = "api.openai.test", "proxy.test"
"""The names that the daemons resolve, by their file of names."""


class Environment:
    """The upstreams, the egress proxy and the daemons' files of names.

    :param directory: for the files of names.
    :param tls: both upstreams have TLS.
    :ivar state: of the upstreams.
    :ivar names: the file of names of each daemon.
    """

    def __init__(
        self, reactor: Any, seed: int, authority: Authority, directory: Path, tls: bool = False
    ) -> None:
        self.state = UpstreamState(reactor, seed)
        self.plain = FaultyUpstream(reactor, self.state)
        self.secure = FaultyUpstream(reactor, self.state)
        self.proxy = FaultyProxy(reactor, seed)
        self.plain_port = self.proxy_port = 0
        self.names = {PLAIN: directory / "names-plain", TUNNEL: directory / "names-tunnel"}
        self._reactor = reactor
        self._authority = authority
        self._tls = authority.issue(HOST) if tls else None
        self._tls_ports: dict[str, int] = {}
        self._faults: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "upstream down": (self._stop_upstream, self._start_upstream),
            "name unknown": (
                lambda: self._resolve_only(PLAIN, ""),
                lambda: self._resolve_only(PLAIN, HOST),
            ),
            "connections reset": (lambda: None, lambda: None),
            "proxy down": (self._stop_proxy, self._start_proxy),
            "proxy's name unknown": (
                lambda: self._resolve_only(TUNNEL, ""),
                lambda: self._resolve_only(TUNNEL, PROXY),
            ),
            "proxy refuses": (lambda: self._set_mode("refuse"), lambda: self._set_mode("")),
            "proxy sends garbage": (lambda: self._set_mode("garbage"), lambda: self._set_mode("")),
            "proxy stalls": (lambda: self._set_mode("stall"), lambda: self._set_mode("")),
            "name unknown to proxy": (self.proxy.names.clear, lambda: self._use_tls("valid")),
            "tunnels reset": (lambda: None, lambda: None),
            "certificate expired": self._tls_fault("expired"),
            "certificate of another host": self._tls_fault("other host"),
            "certificate self-signed": self._tls_fault("self-signed"),
            "no TLS": self._tls_fault("none"),
        }

    async def open(self) -> None:
        """Start all servers."""
        self._resolve_only(PLAIN, HOST)
        self._resolve_only(TUNNEL, PROXY)
        self.plain_port = await self.plain.listen(self._direct(0))
        self.proxy_port = await self.proxy.listen(self._tcp(0))
        certificates: dict[str, Identity] = {
            "valid": self._authority.issue(HOST),
            "expired": self._authority.expired(),
            "other host": self._authority.wrong_name(),
            "self-signed": self_signed(HOST),
        }
        for name, certificate in certificates.items():
            self._tls_ports[name] = await self.secure.listen(self._ssl(0, certificate))
        self._tls_ports["none"] = await self.secure.listen(self._tcp(0))
        self._use_tls("valid")

    async def close(self) -> None:
        """Stop all servers and close their connections."""
        for server in (self.plain, self.proxy, self.secure):
            await server.close()

    def _tcp(self, port: int) -> Any:
        return TCP4ServerEndpoint(self._reactor, port, backlog=500, interface="127.0.0.1")

    def _ssl(self, port: int, certificate: Identity) -> Any:
        return SSL4ServerEndpoint(
            self._reactor, port, certificate.options(), backlog=500, interface="127.0.0.1"
        )

    def _direct(self, port: int) -> Any:
        """The endpoint of the upstream that is connected to directly."""
        return self._tcp(port) if self._tls is None else self._ssl(port, self._tls)

    # Faults of the connections to the upstream.

    def begin(self, window: Window) -> None:
        """Begin the fault of *window*."""
        switch = self._faults.get(window.fault.name)
        if switch is not None:
            switch[0]()
            self.abort_connections(window.fault.where)

    def end(self, window: Window) -> None:
        """End the fault of *window*."""
        switch = self._faults.get(window.fault.name)
        if switch is not None:
            switch[1]()

    def abort_connections(self, where: str) -> None:
        """Abort every connection of that daemon to the upstream or the proxy."""
        servers = (self.plain,) if where == PLAIN else (self.proxy, self.secure)
        for server in servers:
            for connection in list(server.connections):
                connection.transport.abortConnection()

    def _resolve_only(self, where: str, name: str) -> None:
        """Make *name* the only one that the daemon can resolve; none if it is empty."""
        unfinished = self.names[where].with_suffix(".unfinished")
        unfinished.write_text(f"{name} 127.0.0.1\n" if name else "")
        unfinished.replace(self.names[where])

    def _set_mode(self, mode: str) -> None:
        self.proxy.mode = mode

    def _use_tls(self, certificate: str) -> None:
        """Let the proxy connect :data:`HOST` to the port that has *certificate*."""
        self.proxy.names[f"{HOST}:443"] = ("127.0.0.1", self._tls_ports[certificate])

    def _tls_fault(self, certificate: str) -> tuple[Callable[[], None], Callable[[], None]]:
        return lambda: self._use_tls(certificate), lambda: self._use_tls("valid")

    def _stop_upstream(self) -> Any:
        return Deferred.fromCoroutine(self.plain.stop_listening())

    def _start_upstream(self) -> Any:
        return Deferred.fromCoroutine(self.plain.listen(self._direct(self.plain_port)))

    def _stop_proxy(self) -> Any:
        return Deferred.fromCoroutine(self.proxy.stop_listening())

    def _start_proxy(self) -> Any:
        return Deferred.fromCoroutine(self.proxy.listen(self._tcp(self.proxy_port)))
