"""The connections to Redis: opened together, used together, and given up together.

There are three :mod:`.lanes`, so that a large response does not delay the rate limit.
The first problem of any of them opens the circuit breaker: all are closed, all commands in flight
fail, and further commands fail at once. New connections are opened after the breaker's open time,
and used after a probe on each lane that sends commands.

Each second, every lane must answer a small command, so that a server that hangs is noticed without
requests, and so is a connection that is lost without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from hiredis import ReplyError
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeadlinePassed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from goproxyai.state.redis.breaker import StateBreaker
from goproxyai.state.redis.connection import (
    Argument,
    CommandFailed,
    RedisConnection,
    Reply,
    Then,
    describe,
)
from goproxyai.state.redis.counts import StateCounts
from goproxyai.state.redis.error_replies import is_lasting, problem_of
from goproxyai.state.redis.lanes import Lane, Login, Server, open_lanes
from goproxyai.state.redis.scripts import Script
from goproxyai.upstream.breaker import CircuitState

COMMAND_SECONDS: Final = 0.1
"""Deadline of a command, after which the circuit breaker opens."""

REQUEST_SECONDS: Final = 0.05
"""The longest time that a request waits for a command. A request needs at most two, one after the
other: for the rate limit and for the cache."""

TOTAL_SECONDS: Final = 0.09
"""The longest time that a request waits for Redis, so that the end of the wait is noticed within
100 ms. Where the process is late with the decision of the rate limit, the rest is left for the
look-up in the cache."""

LEAST_SECONDS: Final = 0.01
"""What is left at least: a process that stood still has used up the time without a fault of
Redis."""

SLOW_SECONDS: Final = 0.5
"""Time in which requests wait too long for commands, and none is answered in time, after which the
circuit breaker opens. A shorter one would open it whenever the machine is busy."""

SPEED_CHECKS: Final = 3
"""Commands of a probe, one of which must be answered in the time that requests wait."""

CONNECT_SECONDS: Final = 2.0
"""Deadline of the connections together, with TLS, authentication and probes; no request waits."""

BEAT_SECONDS: Final = 1.0
"""Between two checks of idle connections."""

CHECK_SECONDS: Final = 1.0
"""Deadline of a check, for which no request waits: a busy machine must not open the breaker while
there are no requests."""

PROBE_MILLISECONDS: Final = 1_000
"""After which the key of a probe expires."""

_log = Logger(namespace="goproxyai.state")


class Part(Protocol):
    """What uses the connections."""

    def connected(self) -> Deferred[None]:
        """Prepare for use. Commands may be sent. A failure gives the connections up."""

    def lost(self) -> None:
        """The connections are given up, or none were made; commands in flight fail afterwards."""

    def message(self, payload: bytes) -> None:
        """Another process has published *payload*."""

    def beat(self) -> None:
        """A second has passed."""


class RedisClient:
    """Sends commands to Redis, while it responds.

    :param probe_name: of the key that probes write.
    :param channel: that the events lane subscribes to.
    :param count_seconds: is called with the seconds of each command that got a reply.
    :param count_wait: is called with the seconds for which a request has waited for Redis, by a
        kind of :data:`.counts.OVERDUE`.
    :param send_buffered: sends what a transport has buffered, see :meth:`run`.
    :ivar up: whether commands are sent.
    :ivar part: assigned before :meth:`start`.
    """

    part: Part

    def __init__(
        self,
        clock: IReactorTime,
        server: Server,
        login: Login,
        probe_name: bytes,
        channel: bytes,
        counts: StateCounts,
        count_seconds: Callable[[float], None],
        count_wait: Callable[[str, float], None] = lambda _kind, _seconds: None,
        send_buffered: Callable[[Any], None] = lambda _transport: None,
    ) -> None:
        self.up = False
        self.count_wait = count_wait
        self.breaker = StateBreaker()
        self.counts = counts
        self._clock = clock
        self._server = server
        self._login = login
        self._probe_name = probe_name
        self._channel = channel
        self._count_seconds = count_seconds
        self._send_buffered = send_buffered
        self._lanes: dict[Lane, RedisConnection] = {}
        self._attempt: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._running = False
        self._said_away = False
        self._slow_since: float | None = None
        self._attempted = False
        self._after_attempt: list[Callable[[], None]] = []

    def start(self) -> None:
        """Connect, and stay connected."""
        self._running = True
        self._server.start(self._moved)
        self._connect()

    def stop(self) -> None:
        """Close the connections after what has been sent."""
        self._running = self.up = False
        self._server.stop()
        self._stop_timer()
        self._cancel_attempt()
        for connection in self._take_lanes():
            connection.close()
        self.part.lost()
        self._end_first_attempt()

    def after_first_attempt(self, then: Callable[[], None]) -> None:
        """Call *then* when the first attempt to connect has succeeded or failed."""
        if self._attempted:
            then()
        else:
            self._after_attempt.append(then)

    # Commands

    def run(
        self,
        lane: Lane,
        script: Script,
        keys: tuple[bytes, ...],
        arguments: tuple[Argument, ...],
        then: Then,
    ) -> None:
        """Run *script*; call *then* with its reply, or with an exception if there is none.

        A script that keeps the order is sent before this method returns: a client that has the
        answer to its write may ask another process at once. Other commands wait for the end of the
        reactor's turn, and are sent together.
        """
        started = self._clock.seconds()
        rest = (len(keys), *keys, *arguments)

        def replied(reply: Reply) -> None:
            if isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT"):
                finished = self._counted(script.kind, started, then)
                self._send(lane, finished, "EVAL", script.text, *rest, sent_at=started)
            else:
                self._finish(script.kind, started, reply, then)

        if script.keeps_order:
            self._send(lane, replied, "EVAL", script.text, *rest)
            connection = self._lanes.get(lane)
            if connection is not None:
                self._send_buffered(connection.transport)
        else:
            self._send(lane, replied, "EVALSHA", script.digest, *rest)

    def call(
        self, lane: Lane, kind: str, *arguments: Argument, seconds: float = 0.0
    ) -> Deferred[Reply]:
        """Send a command; the Deferred fails if there is no reply, or an error reply.

        :param seconds: a longer deadline than :data:`COMMAND_SECONDS`.
        """
        done: Deferred[Reply] = Deferred()

        def finished(reply: Reply) -> None:
            if isinstance(reply, Exception):
                done.errback(reply)
            else:
                done.callback(reply)

        then = self._counted(kind, self._clock.seconds(), finished)
        self._send(lane, then, *arguments, seconds=seconds)
        return done

    def check(self, lane: Lane, *arguments: Argument) -> Deferred[Reply]:
        """Send a command that shows whether the connection works."""
        return self.call(lane, "probe", *arguments, seconds=CHECK_SECONDS)

    def overdue(self, kind: str) -> None:
        """A request goes on without the reply to a command of *kind*."""
        self.counts.overdue[kind] += 1
        now = self._clock.seconds()
        if self._slow_since is None:
            self._slow_since = now
        elif self.up and now >= self._slow_since + SLOW_SECONDS:
            self._give_up("Redis responds too slowly")

    def _counted(self, kind: str, started: float, then: Then) -> Then:
        return lambda reply: self._finish(kind, started, reply, then)

    def _send(
        self,
        lane: Lane,
        then: Then,
        *arguments: Argument,
        sent_at: float | None = None,
        seconds: float = 0.0,
    ) -> None:
        connection = self._lanes.get(lane)
        if connection is None:
            then(CommandFailed("there is no connection to Redis", "refused"))
        else:
            connection.send(then, *arguments, sent_at=sent_at, seconds=seconds)

    def _finish(self, kind: str, started: float, reply: Reply, then: Then) -> None:
        """Count a reply, give the connections up if it says so, and pass the reply on."""
        result = "ok"
        if isinstance(reply, CommandFailed):
            result = reply.result
        else:
            seconds = self._clock.seconds() - started
            self._count_seconds(seconds)
            if seconds <= REQUEST_SECONDS:
                self._slow_since = None
            if isinstance(reply, ReplyError):
                result = "error"
                if is_lasting(reply):
                    self._give_up(problem_of(reply))
        self.counts.commands[kind, result] += 1
        then(reply)

    # ConnectionOwner

    def connection_failed(self, connection: RedisConnection, problem: str) -> None:
        if connection in self._lanes.values():
            self._give_up(problem)

    def message(self, payload: bytes) -> None:
        self.part.message(payload)

    # Connecting

    def _connect(self) -> None:
        self._timer = None
        self.breaker.attempt()
        self._attempt = Deferred.fromCoroutine(self._open())
        self._attempt.addTimeout(CONNECT_SECONDS, self._clock)
        self._attempt.addCallbacks(self._opened, self._not_opened)

    def _new_connection(self) -> RedisConnection:
        return RedisConnection(self._clock, self, CONNECT_SECONDS)

    async def _open(self) -> None:
        endpoint = await self._server.find()
        lanes = self._lanes = await open_lanes(endpoint, self._new_connection)
        await gatherResults([self._prepare(lane) for lane in Lane], consumeErrors=True)
        for connection in lanes.values():
            connection.expect_within(COMMAND_SECONDS)
        await self._check_speed()
        await self.part.connected()

    async def _check_speed(self) -> None:
        """Do not use a server that requests would not wait for.

        :raises CommandFailed: if it is too slow, whenever it is asked.
        """
        for _ in range(SPEED_CHECKS):
            sent_at = self._clock.seconds()
            await self.call(Lane.LIMITS, "probe", "PING")
            if self._clock.seconds() <= sent_at + REQUEST_SECONDS:
                return
        raise CommandFailed("Redis responds too slowly", "late")

    def _prepare(self, lane: Lane) -> Deferred[Any]:
        """Authenticate, and send the probe or the subscription."""
        commands = self._login.commands()
        if lane is Lane.EVENTS:
            commands.append(("SUBSCRIBE", self._channel))
        else:
            commands.append(("SET", self._probe_name, 1, "PX", PROBE_MILLISECONDS))
        sent = [self.call(lane, "connect", *arguments) for arguments in commands]
        return gatherResults(sent, consumeErrors=True)

    def _opened(self, _: None) -> None:
        self._attempt = None
        self._slow_since = None
        self.up = True
        self.breaker.succeed(self._clock.seconds())
        self._timer = self._clock.callLater(BEAT_SECONDS, self._beat)
        if self._said_away:
            self._said_away = False
            _log.info("the shared state in Redis is back")
        self._end_first_attempt()

    def _not_opened(self, failure: Failure) -> None:
        if self._attempt is not None:  # else given up for another reason, or stopped
            self._attempt = None
            self._give_up(_reason(failure))

    def _end_first_attempt(self) -> None:
        self._attempted = True
        waiting, self._after_attempt = self._after_attempt, []
        for then in waiting:
            then()

    # Giving up

    def _moved(self, reason: str) -> None:
        """The connections are to another server than the present master."""
        if self.up:
            self._give_up(reason)

    def _give_up(self, problem: str) -> None:
        """Close the connections, and open new ones after the breaker's open time."""
        self._cancel_attempt()
        was_closed = self.breaker.state is CircuitState.CLOSED
        self.up = False
        self._stop_timer()
        seconds = self.breaker.fail(self._clock.seconds())
        self.counts.opened += was_closed
        self._timer = self._clock.callLater(seconds, self._connect)
        lanes = self._take_lanes()
        self.part.lost()
        for connection in lanes:
            connection.fail(problem)
        if not self._said_away:
            self._said_away = True
            _log.warn("the shared state in Redis is away: {problem}", problem=problem)
        self._end_first_attempt()

    def _cancel_attempt(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()

    def _take_lanes(self) -> list[RedisConnection]:
        lanes, self._lanes = self._lanes, {}
        return list(lanes.values())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._timer = self._clock.callLater(BEAT_SECONDS, self._beat)
        for lane in (Lane.LIMITS, Lane.EVENTS):
            self.check(lane, "PING").addErrback(lambda _: None)
        if self.up:
            self.part.beat()


def _reason(failure: Failure) -> str:
    """Return why connecting failed, without a secret."""
    first = failure
    while isinstance(getattr(first.value, "subFailure", None), Failure):
        first = first.value.subFailure  # type: ignore[union-attr]
    if isinstance(first.value, ReplyError):
        return problem_of(first.value)
    if first.check(DeadlinePassed, CancelledError):
        return f"no connection within {CONNECT_SECONDS:g} s"
    return str(first.value) if first.check(CommandFailed) else describe(first)
