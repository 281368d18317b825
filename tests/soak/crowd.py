"""All clients of one subject: they begin, behave as their kind does, and end when told.

Every wait of a client has a limit: a call without an end within :data:`PATIENCE` hangs, which is a
defect whatever struck it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.soak.accounts import Accounts
from tests.soak.plan import Window, dice
from tests.soak.table import CROWD
from tests.soak.truth import identity
from tests.soak.wire import Call, Line, dial

PATIENCE = 30.0
"""Seconds for a call; every deadline of the daemon under test is far shorter."""

CREDENTIALS = (b"Bearer sk-faults-one", b"Bearer sk-faults-two")
"""Whose requests are the same, and whose answers are not."""


class Client:
    """One client: its chance, its connection, its calls.

    :param name: of its kind.
    :param number: among those of the kind.
    """

    def __init__(self, crowd: Crowd, name: str, number: int, ordinal: int) -> None:
        self.crowd = crowd
        self.name = name
        self.number = number
        self.rng = dice(crowd.seed, crowd.where, name, number)
        self.line: Line | None = None
        self.state: dict[str, Any] = {}
        self._ordinal = ordinal

    async def connected(self, fresh: bool = False) -> Line | None:
        """A connection: the one that is there, or a new one."""
        line = self.line
        if fresh or line is None or line.closed:
            if line is not None:
                line.leave(orderly=True)
            line = self.line = await dial(self.crowd.reactor, self.crowd.port)
            if line is None:
                self.crowd.accounts.refused(self.crowd.reactor.seconds())
                await self.pause(0.2)
        return line

    def request(
        self,
        method: str,
        target: str,
        credential: bytes = CREDENTIALS[0],
        body: bytes = b"",
        json: bool = True,
        chunked: bool = False,
        more: str = "",
        least: int = 0,
    ) -> tuple[Call, bytes, bytes]:
        """A call, the head of its request, and its body as it goes on the wire."""
        number = next(self.crowd.numbers)
        address = ipaddress.IPv6Address((0xFD00 << 112) | (self._ordinal << 64) | number)
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: proxy.test\r\nX-Forwarded-For: {address}\r\n"
            f"Authorization: {credential.decode()}\r\n{more}"
        )
        if body:
            head += f"Content-Type: application/{'json' if json else 'octet-stream'}\r\n"
        if chunked:
            head += "Transfer-Encoding: chunked\r\n"
        elif body:
            head += f"Content-Length: {len(body)}\r\n"
        who = identity(
            method.encode(), target.encode(), credential, hashlib.sha256(body).hexdigest()
        )
        call = Call(number, self.name, method, target, who, self.crowd.reactor.seconds(), least)
        self.crowd.accounts.begun(call)
        return call, head.encode() + b"\r\n", body

    async def ask(self, *request: Any, **more: Any) -> Call | None:
        """One request on the connection at hand, and its end."""
        line = await self.connected()
        if line is None:
            return None
        call, head, body = self.request(*request, **more)
        line.ask(call, head + body)
        return await self.end(call)

    async def end(self, call: Call) -> Call:
        """The end of *call*, which is judged."""
        if not call.end:
            waiting: Deferred[Call] = Deferred()
            call.done.chainDeferred(waiting)
            waiting.addTimeout(PATIENCE, self.crowd.reactor)
            try:
                await waiting
            except Exception:
                self.crowd.accounts.hung(call)
                raise
        self.crowd.accounts.ended(call)
        return call

    async def pause(self, seconds: float) -> None:
        """Do nothing, for *seconds* about."""
        await deferLater(self.crowd.reactor, seconds * self.rng.uniform(0.5, 1.5))

    def hang_up(self) -> None:
        """Hold no connection."""
        if self.line is not None:
            self.line.leave()


Kind = Callable[[Client], Coroutine[Any, Any, None]]


class Crowd:
    """The clients of the subject at *port*.

    :param where: which subject that is.
    :param versions: of upstream's resources, by credential and path.
    :param kinds: one round of each kind, how many clients there are of it, the seconds between two
        rounds, and the fault that lets them loose, if one has to.
    :param first: number of a request, less one.
    """

    def __init__(
        self,
        reactor: Any,
        seed: int,
        where: str,
        port: int,
        accounts: Accounts,
        versions: dict[tuple[bytes, str], int],
        kinds: tuple[tuple[Kind, int, float, str], ...],
        first: int = 0,
    ) -> None:
        self.reactor = reactor
        self.seed = seed
        self.where = where
        self.port = port
        self.accounts = accounts
        self.versions = versions
        self.numbers = itertools.count(first + 1)
        self.windows: tuple[Window, ...] = ()
        self.began = 0.0
        self._open = False
        self._clients = [
            (Client(self, kind.__name__, number, ordinal + 1), kind, rest, fault)
            for ordinal, (kind, number, rest, fault) in enumerate(
                (kind, number, rest, fault)
                for kind, count, rest, fault in kinds
                for number in range(count)
            )
        ]

    def operator(self, name: str = "operator") -> Client:
        """Somebody who asks the daemon itself."""
        return Client(self, name, 0, 0)

    async def during(self, seconds: float, windows: tuple[Window, ...]) -> None:
        """Behave as clients do for *seconds*, then end everything begun and hang up."""
        self.windows, self.began, self._open = windows, self.reactor.seconds(), True
        running = [Deferred.fromCoroutine(self._live(*each)) for each in self._clients]
        await deferLater(self.reactor, seconds)
        self._open = False
        await gatherResults(running)
        for client, *_ in self._clients:
            client.hang_up()

    async def _live(self, client: Client, kind: Kind, rest: float, fault: str) -> None:
        await client.pause(rest)
        while self._open:
            if not fault or self._loose(fault):
                try:
                    await kind(client)
                except CancelledError:
                    raise
                except Exception as error:
                    self.accounts.complain(f"{client.name}: {type(error).__name__}: {error}")
                    client.hang_up()
            await client.pause(rest)

    def _loose(self, fault: str) -> bool:
        now = self.reactor.seconds() - self.began
        return any(
            window.fault.where == CROWD
            and window.fault.name == fault
            and window.begin <= now < window.end
            for window in self.windows
        )
