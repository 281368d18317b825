"""Where the Redis server is: at a fixed address, or where Sentinels say.

Sentinels are asked for each new connection, and every :data:`WATCH_SECONDS` for whether the master
has moved: a master that a failover has replaced may still answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from goproxyai.state.redis.connection import Argument, CommandFailed, RedisConnection, Reply

WATCH_SECONDS: Final = 2.0

SENTINEL_SECONDS: Final = 0.5
"""Deadline for the answer of one Sentinel, the connection included."""

Address = tuple[str, int]

EndpointTo = Callable[[str, int], IStreamClientEndpoint]
"""Returns the endpoint of a host and a port."""

_log = Logger(namespace="goproxyai.state")


class FixedServer:
    """A server at one endpoint."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def find(self) -> Deferred[IStreamClientEndpoint]:
        return succeed(self._endpoint)

    def start(self, moved: Callable[[str], None]) -> None:
        """Do nothing: the server does not move."""

    def stop(self) -> None:
        """Do nothing."""


class _Sentinel(Factory):
    """Asks one Sentinel.

    :ivar answer: fires with the reply.
    """

    noisy = False

    def __init__(self, clock: IReactorTime, service: str, password: tuple[Argument, ...]) -> None:
        self.answer: Deferred[Reply] = Deferred()
        self._clock = clock
        self._service = service
        self._password = password

    def buildProtocol(self, _: object) -> RedisConnection:
        return RedisConnection(self._clock, self, SENTINEL_SECONDS)

    def ask(self, connection: RedisConnection, authenticate: bool = False) -> None:
        """Ask, and once more with the password of the server if the Sentinel expects one."""

        def replied(reply: Reply) -> None:
            expects_password = isinstance(reply, Exception) and str(reply).startswith("NOAUTH")
            if expects_password and self._password and not authenticate:
                self.ask(connection, authenticate=True)
            elif not self.answer.called:
                connection.close()
                self.answer.callback(reply)

        if authenticate:
            connection.send(lambda _: None, "AUTH", *self._password)
        connection.send(replied, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)

    def connection_failed(self, _: RedisConnection, problem: str) -> None:
        if not self.answer.called:
            self.answer.callback(CommandFailed(problem, "lost"))

    def message(self, payload: bytes) -> None:
        """Do nothing: there is no subscription."""


class SentinelServers:
    """The master that Sentinels know.

    :param sentinels: their addresses; the one that answered last is asked first.
    :param service: the name of the master.
    :param password: arguments of ``AUTH``, for Sentinels that expect the password of the server.
    :param endpoint_to: makes the endpoints of the Sentinels and of the master.
    """

    def __init__(
        self,
        clock: IReactorTime,
        sentinels: tuple[Address, ...],
        service: str,
        password: tuple[Argument, ...],
        endpoint_to: EndpointTo,
    ) -> None:
        self._clock = clock
        self._sentinels = list(sentinels)
        self._service = service
        self._password = password
        self._endpoint_to = endpoint_to
        self._master: Address | None = None
        self._moved: Callable[[str], None] = lambda _: None
        self._timer: IDelayedCall | None = None
        self._asking: Deferred[None] | None = None

    def find(self) -> Deferred[IStreamClientEndpoint]:
        return Deferred.fromCoroutine(self._find())

    def start(self, moved: Callable[[str], None]) -> None:
        self._moved = moved
        self._timer = self._clock.callLater(WATCH_SECONDS, self._watch)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asking is not None:
            self._asking.cancel()

    async def _find(self) -> IStreamClientEndpoint:
        self._master = await self._ask_all()
        return self._endpoint_to(*self._master)

    async def _ask_all(self) -> Address:
        """Return the address of the master, from the first Sentinel that knows it.

        :raises CommandFailed: if none does.
        """
        problem = ""
        for sentinel in tuple(self._sentinels):
            try:
                reply = await self._ask(sentinel)
            except Exception as error:  # endpoints raise errors of many classes
                reply = error
            address = _address(reply)
            if address is not None:
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                return address
            problem = str(reply) if isinstance(reply, Exception) else "it does not know the service"
        raise CommandFailed(f"no Sentinel knows the master of {self._service}: {problem}", "lost")

    async def _ask(self, sentinel: Address) -> Reply:
        question = _Sentinel(self._clock, self._service, self._password)
        connecting: Deferred[Any] = self._endpoint_to(*sentinel).connect(question)
        connecting.addTimeout(SENTINEL_SECONDS, self._clock)
        connection: RedisConnection = await connecting
        question.ask(connection)
        try:
            return await question.answer
        finally:
            connection.close()

    def _watch(self) -> None:
        self._timer = self._clock.callLater(WATCH_SECONDS, self._watch)
        if self._asking is None:
            self._asking = Deferred.fromCoroutine(self._compare())
            self._asking.addBoth(self._asked)

    def _asked(self, _: object) -> None:
        self._asking = None

    async def _compare(self) -> None:
        master = await self._ask_all()
        if self._master not in (None, master):
            self._moved("Sentinel has another master")


def _address(reply: Reply) -> Address | None:
    if isinstance(reply, list) and len(reply) == 2 and all(isinstance(e, bytes) for e in reply):
        host, port = reply
        if port.isdigit() and 0 < int(port) < 65536:
            return host.decode("ascii", "replace"), int(port)
    return None
