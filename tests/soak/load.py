"""All clients of one deployment.

Every wait of a client is limited: a call that does not end within :data:`MAX_CALL_SECONDS` hangs,
which no fault may cause.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.soak.answers import identity
from tests.soak.audit import Audit
from tests.soak.connection import Call, Door, LoadConnection, connect
from tests.soak.faults import CLIENTS
from tests.soak.plan import Window, rng_for

MAX_CALL_SECONDS = 30.0
"""Far longer than every deadline of the daemon under test."""

CREDENTIALS = (b"Bearer sk-faults-one", b"Bearer sk-faults-two")
ADMIN_TOKEN = "the-token-of-the-operator"
"""Both send the same requests and must get different answers."""


class LoadClient:
    """One client: its random generator, its connection, its calls.

    :param kind: name of its kind.
    :param number: among the clients of its kind.
    :param ordinal: among all clients of the load; part of its address.
    """

    def __init__(self, load: Load, kind: str, number: int, ordinal: int) -> None:
        self.load = load
        self.kind = kind
        self.number = number
        self.rng = rng_for(load.seed, load.where, kind, number)
        self.connection: LoadConnection | None = None
        self.state: dict[str, Any] = {}
        self._ordinal = ordinal

    async def connected(
        self,
        fresh: bool = False,
        kind: type[LoadConnection] = LoadConnection,
        tls: bool = False,
    ) -> LoadConnection | None:
        """The reusable connection, or a new one; ``None`` if it is refused."""
        connection = self.connection
        if fresh or connection is None or not connection.reusable:
            if connection is not None:
                connection.close(orderly=True)
            connection = await connect(self.load.reactor, self.load.door, kind, tls)
            self.connection = connection
            if connection is None:
                self.load.audit.refused(self.load.reactor.seconds())
                await self.pause(0.2)
        return connection

    def begin(
        self,
        method: str,
        target: str,
        credential: bytes = CREDENTIALS[0],
        body: bytes = b"",
        json: bool = True,
        chunked: bool = False,
        more: str = "",
        min_version: int = 0,
    ) -> tuple[Call, bytes, bytes]:
        """A new call, and the head and body of its request."""
        number = next(self.load.numbers)
        address = ipaddress.IPv6Address((0xFD00 << 112) | (self._ordinal << 64) | number)
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: proxy.test\r\nX-Forwarded-For: {address}\r\n"
            f"X-Request-Id: {address}\r\n"
            f"Authorization: {credential.decode()}\r\n{more}"
        )
        if body:
            head += f"Content-Type: application/{'json' if json else 'octet-stream'}\r\n"
        if chunked:
            head += "Transfer-Encoding: chunked\r\n"
        elif body:
            head += f"Content-Length: {len(body)}\r\n"
        expected = identity(
            method.encode(), target.encode(), credential, hashlib.sha256(body).hexdigest()
        )
        now = self.load.reactor.seconds()
        call = Call(number, self.kind, method, target, expected, now, min_version)
        self.load.audit.begin(call)
        return call, head.encode() + b"\r\n", body

    async def request(self, *request: Any, **options: Any) -> Call | None:
        """Send one request, as :meth:`begin` makes it, and wait for its end."""
        connection = await self.connected()
        if connection is None:
            return None
        call, head, body = self.begin(*request, **options)
        connection.send(call, head + body)
        return await self.finish(call)

    async def finish(self, call: Call) -> Call:
        """Wait for the end of *call*, and have it judged."""
        if not call.end:
            waiting: Deferred[Call] = Deferred()
            call.done.chainDeferred(waiting)
            waiting.addTimeout(MAX_CALL_SECONDS, self.load.reactor)
            try:
                await waiting
            except Exception:
                self.load.audit.hung(call)
                raise
        self.load.audit.end(call)
        return call

    async def pause(self, seconds: float) -> None:
        """Wait 0.5 to 1.5 times *seconds*."""
        await deferLater(self.load.reactor, seconds * self.rng.uniform(0.5, 1.5))

    def draws_tls(self) -> bool:
        """Whether the next connection has TLS: half of them, where the daemon has it."""
        return bool(self.load.door.tls_port) and self.rng.random() < 0.5

    def disconnect(self) -> None:
        if self.connection is not None:
            self.connection.close()


Round = Callable[[LoadClient], Coroutine[Any, Any, None]]
"""What a client of a kind does, once."""


class Load:
    """The clients of the deployment at *door*.

    :param where: the deployment.
    :param versions: of the upstream's resources, by credential and path.
    :param kinds: the round of each kind, the number of its clients, the seconds between two rounds,
        and the fault during which alone it is active, if any.
    :param first: the number of the last request before the first one here.
    """

    def __init__(
        self,
        reactor: Any,
        seed: int,
        where: str,
        door: Door,
        audit: Audit,
        versions: dict[tuple[bytes, str], int],
        kinds: tuple[tuple[Round, int, float, str], ...],
        first: int = 0,
    ) -> None:
        self.reactor = reactor
        self.seed = seed
        self.where = where
        self.door = door
        self.audit = audit
        self.versions = versions
        self.numbers = itertools.count(first + 1)
        self.windows: tuple[Window, ...] = ()
        self.began = 0.0
        self._running = False
        self._clients = [
            (LoadClient(self, one_round.__name__, number, ordinal + 1), one_round, rest, fault)
            for ordinal, (one_round, number, rest, fault) in enumerate(
                (one_round, number, rest, fault)
                for one_round, count, rest, fault in kinds
                for number in range(count)
            )
        ]

    def operator(self, kind: str = "operator") -> LoadClient:
        """A client for requests to the daemon itself."""
        return LoadClient(self, kind, 0, 0)

    async def run(self, seconds: float, windows: tuple[Window, ...]) -> None:
        """Run all clients for *seconds*, then finish their calls and disconnect them."""
        self.windows, self.began, self._running = windows, self.reactor.seconds(), True
        clients = [Deferred.fromCoroutine(self._run_client(*each)) for each in self._clients]
        await deferLater(self.reactor, seconds)
        self._running = False
        await gatherResults(clients)
        for client, *_ in self._clients:
            client.disconnect()

    async def _run_client(
        self, client: LoadClient, one_round: Round, rest: float, fault: str
    ) -> None:
        await client.pause(rest)
        while self._running:
            if not fault or self._is_active(fault):
                try:
                    await one_round(client)
                except CancelledError:
                    raise
                except Exception as error:
                    self.audit.report(f"{client.kind}: {type(error).__name__}: {error}")
                    client.disconnect()
            await client.pause(rest)

    def _is_active(self, fault: str) -> bool:
        now = self.reactor.seconds() - self.began
        return any(
            window.fault.where == CLIENTS
            and window.fault.name == fault
            and window.begin <= now < window.end
            for window in self.windows
        )
