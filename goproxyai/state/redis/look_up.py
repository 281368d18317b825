"""A look-up in Redis, and the claim that it may end with; see :mod:`.second_level`."""

from __future__ import annotations

from typing import Protocol

from goproxyai.cache.entry import Entry
from goproxyai.cache.record import Record
from goproxyai.state.redis.client import REQUEST_SECONDS
from goproxyai.state.redis.places import Place
from goproxyai.state.second_level import Answer

STORED, GAVE_UP, FAILED = b"s", b"g", b"f"
"""The first bytes of messages about the end of a claim, which the name of the claim follows."""


class Level(Protocol):
    """What carries out the requests of look-ups and claims."""

    def forget(self, look_up: RedisLookUp) -> None:
        """*look_up* has ended."""

    def store(self, claim: RedisClaim, entry: Entry, replaces: bool) -> bool:
        """Store *entry* and end *claim*; return ``False``, and do neither, if it is too large.

        Neither is done with an entry that has expired.

        :param replaces: no process, nor Redis, is to keep the older response.
        """

    def end_claim(self, place: Place, token: bytes, message: bytes) -> None:
        """End an exclusive claim; do nothing for one that is not exclusive."""


class RedisLookUp:
    """A look-up: a :class:`~goproxyai.state.second_level.LookUp`.

    :ivar ended: the answer was given, or is not wanted.
    :ivar told: the message that arrived before the reply that says to wait.
    :ivar asked_at: monotonic seconds of the last question.
    :ivar claimed_until: monotonic seconds at which the claim of the other process expires unless
        it is renewed, as of the last reply.
    :ivar waits: whether another process has the claim.
    :ivar seconds: the longest time for which its request waits for Redis.
    :ivar replaces: whether the stored response is refused.
    """

    __slots__ = (
        "_level", "_then", "asked_at", "claimed_until", "claims", "ended", "epochs", "place",
        "replaces", "seconds", "told", "waits",
    )  # fmt: skip

    def __init__(
        self,
        level: Level,
        place: Place,
        claims: bool,
        then: Answer,
        seconds: float,
        replaces: bool,
    ) -> None:
        self._level = level
        self._then = then
        self.place = place
        self.claims = claims
        self.seconds = seconds
        self.replaces = replaces
        self.ended = False
        self.waits = False
        self.told = b""
        self.asked_at = self.claimed_until = 0.0
        self.epochs = b""

    @property
    def due(self) -> float:
        """When the reply to the last question is overdue."""
        return self.asked_at + min(self.seconds, REQUEST_SECONDS)

    def cancel(self) -> None:
        if not self.ended:
            self.ended = True
            self._level.forget(self)

    def end(self, record: Record | None, claim: RedisClaim | None) -> None:
        """Give the answer, once."""
        if not self.ended:
            self.ended = True
            self._level.forget(self)
            self._then(record, claim)


class RedisClaim:
    """A claim: a :class:`~goproxyai.state.second_level.Claim`.

    :ivar token: identifies an exclusive claim; empty for one that is not exclusive.
    :ivar epochs: of the look-up.
    """

    __slots__ = ("_level", "ended", "epochs", "place", "token")

    def __init__(self, level: Level, place: Place, epochs: bytes, token: bytes) -> None:
        self._level = level
        self.place = place
        self.epochs = epochs
        self.token = token
        self.ended = False

    def store(self, entry: Entry, replaces: bool = False) -> None:
        if not self.ended and not self._level.store(self, entry, replaces):
            self.fail()
        self.ended = True

    def give_up(self) -> None:
        self._end(GAVE_UP)

    def fail(self) -> None:
        self._end(FAILED)

    def _end(self, message: bytes) -> None:
        if not self.ended:
            self.ended = True
            self._level.end_claim(self.place, self.token, message)
