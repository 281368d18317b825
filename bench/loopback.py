"""A daemon whose clients open a connection for each request, over loopback sockets.

:data:`CLIENTS` clients connect and send a request each. When all have their response, they close
their connections. The upstream is in memory (:mod:`bench.inside`). What is measured includes the
system calls of the clients, which take about a tenth of the time of a hit.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from itertools import islice
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import CONNECTION_DONE
from twisted.python.failure import Failure

from bench.inside import BATCH, RESPONSE, MeasuredDaemon, NullTransport, imported, request

CLIENTS = 10
"""Connections at a time."""


class LoopbackDaemon(MeasuredDaemon):
    """A daemon that listens on a socket, and its connections to an upstream in memory."""

    def __init__(self) -> None:
        reactor: Any = EPollReactor()
        self._reactor = reactor
        self._connecting: list[Any] = []
        self._upstreams: list[tuple[NullTransport, Any]] = []
        reactor.connectTCP = self._connect_upstream
        imported("goproxyai.reactor.lean_loop:install_lean_poll")(reactor)
        super().__init__(reactor)
        (address,) = self.daemon.listeners.addresses
        self._address = address.host, address.port
        self._unflushed = 0  # requests since the last flush of the access log

    def _connect_upstream(self, _host: str, _port: int, factory: Any, **_: Any) -> None:
        self._connecting.append(factory)

    def close(self) -> None:
        """Close the listening socket and the reactor's pipe."""
        for reader in self._reactor.removeAll():
            reader.connectionLost(Failure(CONNECTION_DONE))

    def send_all(self, numbers: Iterable[int]) -> None:
        waiting = iter(numbers)
        while batch := list(islice(waiting, CLIENTS)):
            self._send_batch(batch)
            self._unflushed += len(batch)
            if self._unflushed >= BATCH:
                self._unflushed = 0
                self.flush_log()

    def _send_batch(self, numbers: list[int]) -> None:
        clients = [self._client(number) for number in numbers]
        for client in clients:
            self._await_response(client)
            client.close()
        while self.daemon.listeners.factory.connections:
            self._iterate()

    def _client(self, number: int) -> socket.socket:
        client = socket.socket()
        client.connect(self._address)
        client.send(request(number))
        return client

    def _await_response(self, client: socket.socket) -> None:
        while True:
            try:
                response = client.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._iterate()
            else:
                assert response.startswith(b"HTTP/1.1 200"), response
                return

    def _iterate(self) -> None:
        """Run an iteration of the reactor without its timers, and answer as the upstream."""
        self._reactor.doIteration(0)
        for factory in self._connecting:
            transport, protocol = NullTransport(), factory.buildProtocol(None)
            protocol.makeConnection(transport)
            self._upstreams.append((transport, protocol))
        self._connecting.clear()
        for transport, protocol in self._upstreams:
            if transport.written:
                transport.written.clear()
                protocol.dataReceived(RESPONSE)
