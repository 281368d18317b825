"""One connection to Redis: commands are pipelined, and replies arrive in the same order.

Everything is bounded, because Redis and the network to it may be slow:

1. A command whose reply has not arrived within the deadline ends the connection, as the replies
   after it would be late as well.
2. At most :data:`MAX_IN_FLIGHT` commands, and :data:`MAX_IN_FLIGHT_BYTES` of them, wait for
   replies. Another one is refused at once. No command is sent twice, or kept for a later
   connection.
3. A reply has at most :data:`MAX_REPLY_BYTES`, and an array at most :data:`MAX_ELEMENTS`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from typing import Protocol as TypingProtocol

from hiredis import ProtocolError, Reader, pack_command
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from goproxyai.state.reply_timer import NEVER, ReplyTimer

MAX_IN_FLIGHT: Final = 1_000
MAX_IN_FLIGHT_BYTES: Final = 8 * 1024 * 1024
MAX_REPLY_BYTES: Final = 2 * 1024 * 1024
MAX_ELEMENTS: Final = 1_000

_ARRAY = b"*"
_MAX_DIGITS = len(str(MAX_ELEMENTS))

_log = Logger(namespace="goproxyai.state")


class CommandFailed(Exception):
    """There is no reply to a command; the text is the reason, without a secret.

    :ivar result: a label of :data:`.counts.RESULTS`.
    """

    def __init__(self, problem: str, result: str) -> None:
        super().__init__(problem)
        self.result = result


Reply = Any
"""``bytes``, ``int``, ``None``, a list of replies, an error reply, or :class:`CommandFailed`."""

Then = Callable[[Reply], None]

Argument = bytes | str | int | float


class ConnectionOwner(TypingProtocol):
    """The owner of a connection."""

    def connection_failed(self, connection: RedisConnection, problem: str) -> None:
        """The connection has ended; its commands fail after this call."""

    def message(self, payload: bytes) -> None:
        """A message was published to a channel that the connection has subscribed to."""


class _Pending(NamedTuple):
    """A command in flight.

    :ivar due: time at which the reply is late.
    """

    due: float
    size: int
    then: Then


class RedisConnection(Protocol):
    """Sends commands, and calls back with their replies.

    :ivar is_open: whether commands are sent.
    :param deadline: seconds within which a reply must arrive.
    """

    transport: Any

    def __init__(self, clock: IReactorTime, owner: ConnectionOwner, deadline: float) -> None:
        self.is_open = False
        self._deadline = deadline
        self._clock = clock
        self._owner = owner
        self._reader = Reader()
        self._pending: deque[_Pending] = deque()
        self._pending_bytes = 0
        self._incomplete_bytes = 0
        self._timer = ReplyTimer(clock, self._judge)

    def connectionMade(self) -> None:
        self.is_open = True

    def send(
        self, then: Then, *arguments: Argument, sent_at: float | None = None, seconds: float = 0.0
    ) -> None:
        """Send a command, and call *then* with its reply, or with :class:`CommandFailed`.

        :param sent_at: the time from which the deadline counts; ``None`` for now.
        :param seconds: a longer deadline than usual.
        """
        command = pack_command(arguments)  # type: ignore[arg-type]  # typed as of one argument
        size = len(command)
        if not self.is_open:
            then(CommandFailed("the connection to Redis is closed", "lost"))
            return
        if len(self._pending) >= MAX_IN_FLIGHT or self._pending_bytes + size > MAX_IN_FLIGHT_BYTES:
            then(CommandFailed("too many commands wait for Redis", "refused"))
            return
        now = self._clock.seconds()
        due = (now if sent_at is None else sent_at) + max(self._deadline, seconds)
        self._pending.append(_Pending(due, size, then))
        self._pending_bytes += size
        self._timer.expect(due)
        self.transport.write(command)

    def expect_within(self, seconds: float) -> None:
        """Change the deadline, for later commands."""
        self._deadline = seconds

    def fail(self, problem: str, result: str = "lost") -> None:
        """End the connection at once; all commands in flight fail."""
        if not self.is_open:
            return
        self._end()
        self.transport.abortConnection()
        self._owner.connection_failed(self, problem)
        self._fail_pending(CommandFailed(problem, result))

    def close(self) -> None:
        """Close the connection after what has been sent; replies are not waited for."""
        if self.is_open:
            self._end()
            self.transport.loseConnection()
            self._fail_pending(CommandFailed("the connection to Redis was closed", "lost"))

    def dataReceived(self, data: bytes) -> None:
        if not self.is_open:
            return
        if not self._incomplete_bytes and _has_long_array(data):
            self.fail("Redis sent an array that is too long")
            return
        self._incomplete_bytes += len(data)
        self._reader.feed(data)
        try:
            while self.is_open:
                reply = self._reader.gets()
                if reply is False:  # RESP2 has no booleans: there is no further reply
                    break
                self._incomplete_bytes = self._reader.len()
                self._received(reply)
        except ProtocolError:
            self.fail("the server does not speak the protocol of Redis")
            return
        if self._incomplete_bytes > MAX_REPLY_BYTES:
            self.fail("Redis sent a reply that is too large")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.is_open:
            self._end()
            problem = describe(reason)
            self._owner.connection_failed(self, problem)
            self._fail_pending(CommandFailed(problem, "lost"))

    def _received(self, reply: Reply) -> None:
        if isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message":
            _call(self._owner.message, reply[2])
        elif self._pending:
            pending = self._pending.popleft()
            self._pending_bytes -= pending.size
            _call(pending.then, reply)
        else:
            self.fail("Redis sent a reply to no command")

    def _judge(self, read_until: float) -> float:
        """End the connection if a reply is late; return when the next one is due."""
        due = min([each.due for each in self._pending], default=NEVER)
        if due > read_until:
            return due
        self.fail("Redis did not reply in time", "late")
        return NEVER

    def _end(self) -> None:
        self.is_open = False
        self._timer.stop()

    def _fail_pending(self, failed: CommandFailed) -> None:
        pending, self._pending = self._pending, deque()
        self._pending_bytes = 0
        for each in pending:
            _call(each.then, failed)


def describe(reason: Failure) -> str:
    """Return why a connection was lost, or not made, as a part of a line."""
    text = " ".join(reason.getErrorMessage().split()).rstrip(".")
    return (
        f"{reason.type.__name__ if reason.type else 'Error'}: {text}" if text else str(reason.type)
    )


def _has_long_array(data: bytes) -> bool:
    """Return whether *data*, the start of a reply, announces more than :data:`MAX_ELEMENTS`.

    The parser would make a list of that length before its elements arrive.
    """
    if not data.startswith(_ARRAY):
        return False
    digits = data[1 : _MAX_DIGITS + 3].partition(b"\r")[0]
    return len(digits) > _MAX_DIGITS or (digits.isdigit() and int(digits) > MAX_ELEMENTS)


def _call(then: Callable[[Any], None], argument: Any) -> None:
    try:
        then(argument)
    except Exception:  # the replies of other commands must be handled
        _log.failure("a reply of Redis was not handled")
