"""The second level of the cache in Redis; see :mod:`goproxyai.state.second_level` for the rules.

1. A look-up is one script: it finds the response, or takes a claim, or says that another process
   has the claim. A look-up without an answer within :data:`.client.REQUEST_SECONDS` ends, and
   earlier where its request has waited for Redis before.
2. A response is sealed; its name and the epochs of its look-up are associated data. It is valid
   while the epochs are the present ones.
3. A claim expires after :data:`CLAIM_SECONDS` unless it is renewed, each second. Look-ups that wait
   for a claim are told of its end by a message. A process that has died sends none, and a message
   may be lost, so they ask again when the claim may have expired. They end if Redis is silent, see
   :mod:`.claim_watch`.
4. A look-up takes over a claim that a write or a clearing has overtaken.
5. While Redis is away, there is no second level: look-ups end at once, and those that wait end too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime

from goproxyai.cache.entry import Entry
from goproxyai.cache.record import Record, RecordError, decode_record, encode_record, record_of
from goproxyai.state.redis.claim_watch import ClaimWatch
from goproxyai.state.redis.client import (
    LEAST_SECONDS,
    TOTAL_SECONDS,
    RedisClient,
)
from goproxyai.state.redis.connection import Reply
from goproxyai.state.redis.lanes import Lane
from goproxyai.state.redis.look_up import FAILED, GAVE_UP, STORED, RedisClaim, RedisLookUp
from goproxyai.state.redis.names import Names, ValueInvalid
from goproxyai.state.redis.places import EPOCH_MILLISECONDS, Place, Places
from goproxyai.state.redis.scripts import END_CLAIM, LOOK_UP, RENEW, STORE
from goproxyai.state.reply_timer import NEVER, ReplyTimer
from goproxyai.state.second_level import Answer

MAX_RECORD_BYTES: Final = 1024 * 1024
"""Of a body. Larger responses stay in the memory of their process."""

CLAIM_SECONDS: Final = 4.0

MAX_LOOK_UPS: Final = 10_000
"""Look-ups in progress; others end at once."""

MAX_CLAIMS: Final = 10_000
"""Exclusive claims of this process; other look-ups get claims that are not exclusive."""

MAX_RENEWED: Final = 200
"""Claims that one command renews."""

_FOUND, _CLAIMED, _WAITS = 0, 1, 2

ONLY_EPOCHS: Final = 2
"""What a look-up tells the script instead of whether to claim: only the epochs are wanted."""


class RedisSecondLevel:
    """Responses in Redis: a :class:`~goproxyai.state.second_level.SecondLevel`.

    :param new_token: returns a text that no process has used.
    :param wall: returns unix seconds.
    :param channel: of messages about claims.
    :param usable: returns whether nothing in Redis is known to be outdated.
    :param replaced: tells the other processes that the response of a key was replaced.
    """

    max_record_bytes = MAX_RECORD_BYTES

    def __init__(
        self,
        clock: IReactorTime,
        client: RedisClient,
        names: Names,
        places: Places,
        new_token: Callable[[], bytes],
        wall: Callable[[], float],
        channel: bytes,
        usable: Callable[[], bool],
        replaced: Callable[[bytes], None],
    ) -> None:
        self._clock = clock
        self._client = client
        self._names = names
        self._places = places
        self._new_token = new_token
        self._wall = wall
        self._channel = channel
        self._usable = usable
        self._replaced = replaced
        self._look_ups: dict[bytes, dict[RedisLookUp, None]] = {}  # that claim, by claim
        self._count = 0
        self._unanswered: dict[RedisLookUp, None] = {}  # whose last question has no reply
        self._timer = ReplyTimer(clock, self._judge)
        self._watch: ClaimWatch[RedisLookUp] = ClaimWatch(clock, client, self._silent)
        self._claims: dict[bytes, Place] = {}  # exclusive ones, by token

    def __len__(self) -> int:
        """The number of look-ups in progress."""
        return self._count

    def claim_at_once(self, key: bytes, owner: bytes, path: bytes, claims: bool) -> None:
        """Return ``None``: only Redis knows."""

    def look_up(
        self,
        key: bytes,
        owner: bytes,
        path: bytes,
        claims: bool,
        then: Answer,
        waited: float = 0.0,
        replaces: bool = False,
    ) -> RedisLookUp:
        place = self._places.of(key, owner, path)
        seconds = max(LEAST_SECONDS, TOTAL_SECONDS - waited)
        look_up = RedisLookUp(self, place, claims, then, seconds, replaces)
        self._count += 1
        if not (self._client.up and self._usable()) or self._count > MAX_LOOK_UPS:
            look_up.end(None, None)
            return look_up
        if claims:
            self._look_ups.setdefault(place.claim, {})[look_up] = None
        self._ask(look_up)
        return look_up

    def forget(self, look_up: RedisLookUp) -> None:
        """A look-up has ended."""
        self._count -= 1
        if look_up in self._unanswered:
            del self._unanswered[look_up]
            self._client.count_wait("look_up", self._clock.seconds() - look_up.asked_at)
        self._watch.discard(look_up)
        same = self._look_ups.get(look_up.place.claim)
        if same is not None:
            same.pop(look_up, None)
            if not same:
                del self._look_ups[look_up.place.claim]

    def _ask(self, look_up: RedisLookUp) -> None:
        look_up.asked_at = self._clock.seconds()
        look_up.waits, look_up.told = False, b""
        self._watch.discard(look_up)
        self._unanswered[look_up] = None
        self._timer.expect(look_up.due)
        token = self._new_token()
        claims = int(look_up.claims and len(self._claims) < MAX_CLAIMS)
        if look_up.replaces:
            claims = ONLY_EPOCHS
        self._client.run(
            Lane.CACHE,
            LOOK_UP,
            look_up.place,
            (token, claims, int(CLAIM_SECONDS * 1000), EPOCH_MILLISECONDS),
            lambda reply: self._replied(look_up, token, reply),
        )

    def _judge(self, read_until: float) -> float:
        """End the look-ups that wait too long for Redis; return when the next one is to end."""
        for look_up in [each for each in self._unanswered if each.due <= read_until]:
            if not look_up.ended:
                self._overdue(look_up)
        return min([each.due for each in self._unanswered], default=NEVER)

    def _silent(self, look_up: RedisLookUp, seconds: float) -> None:
        """Redis has given no sign while *look_up* waited for another process."""
        self._client.count_wait("look_up", seconds)
        self._overdue(look_up)

    def _overdue(self, look_up: RedisLookUp) -> None:
        look_up.end(None, None)
        self._client.overdue("look_up")

    def _replied(self, look_up: RedisLookUp, token: bytes, reply: Reply) -> None:
        if not isinstance(reply, list):
            look_up.end(None, None)
            return
        value, epochs, state, milliseconds = reply
        if state == _CLAIMED:
            if look_up.ended:
                self.end_claim(look_up.place, token, GAVE_UP)
                return
            self._claims[token] = look_up.place
            look_up.end(None, RedisClaim(self, look_up.place, epochs, token))
        elif state == _WAITS and not look_up.ended:
            self._unanswered.pop(look_up, None)
            look_up.claimed_until = self._clock.seconds() + milliseconds / 1000
            self._wait(look_up, epochs)
        elif not look_up.ended:
            record = None if value is None else self._opened(look_up.place, epochs, value)
            claim = RedisClaim(self, look_up.place, epochs, b"") if record is None else None
            look_up.end(record, claim)

    def _wait(self, look_up: RedisLookUp, epochs: bytes) -> None:
        """Let *look_up* wait for another process, unless Redis is too slow for that.

        The end of the claim takes two round trips more: the response and the message of the other
        process, and the second question.
        """
        if not look_up.epochs:
            took = self._clock.seconds() - look_up.asked_at
            look_up.seconds = max(LEAST_SECONDS, look_up.seconds - took)
            if look_up.seconds < 2 * took:
                look_up.end(None, RedisClaim(self, look_up.place, epochs, b""))
                return
        self._watch.add(look_up, look_up.seconds)
        look_up.epochs, look_up.waits = epochs, True
        if look_up.told:
            self._go_on(look_up, look_up.told)

    def _opened(self, place: Place, epochs: bytes, value: bytes) -> Record | None:
        """Return the record of *value*, or ``None`` if it is invalid or has expired."""
        try:
            sealed = value[len(epochs) + 1 :]
            record = decode_record(self._names.opened(sealed, place.entry + epochs))
        except (ValueInvalid, RecordError):
            return None
        return record if record.expires > self._wall() else None

    # What claims ask.

    def store(self, claim: RedisClaim, entry: Entry, replaces: bool) -> bool:
        """Store *entry* and end *claim*, see :class:`.look_up.Level`."""
        record = record_of(entry, self._wall() - self._clock.seconds())
        milliseconds = int((record.expires - self._wall()) * 1000)
        place, epochs = claim.place, claim.epochs
        if len(record.body) > MAX_RECORD_BYTES or milliseconds <= 0:
            if replaces:
                dropped = self._client.call(Lane.CACHE, "store", "DEL", place.entry)
                dropped.addCallbacks(lambda _: self._replaced(record.key), lambda _: None)
            return False
        self._claims.pop(claim.token, None)
        sealed = self._names.seal(encode_record(record), place.entry + epochs)
        self._client.run(
            Lane.CACHE,
            STORE,
            place,
            (
                claim.token, self._channel, epochs, b"%b\n%b" % (epochs, sealed),
                min(milliseconds, EPOCH_MILLISECONDS), STORED + place.claim, GAVE_UP + place.claim,
            ),
            lambda reply: self._stored(claim, reply, record.key if replaces else None),
        )  # fmt: skip
        return True

    def _stored(self, claim: RedisClaim, reply: Reply, replaced: bytes | None) -> None:
        """End *claim* if the response could not be stored.

        :param replaced: the key, if the response has replaced another one.
        """
        if isinstance(reply, Exception):
            self.end_claim(claim.place, claim.token, FAILED)
        elif replaced is not None:
            self._replaced(replaced)

    def end_claim(self, place: Place, token: bytes, message: bytes) -> None:
        """End an exclusive claim; do nothing for one that is not exclusive."""
        if token:
            self._claims.pop(token, None)
            arguments = (token, self._channel, message + place.claim)
            self._client.run(Lane.CACHE, END_CLAIM, place, arguments, lambda _: None)

    # What the client tells.

    def claim_ended(self, message: bytes, claim: bytes) -> None:
        """A process has ended a claim for which others wait."""
        for look_up in tuple(self._look_ups.get(claim, ())):
            if look_up.waits:
                self._go_on(look_up, message)
            else:
                look_up.told = message

    def _go_on(self, look_up: RedisLookUp, message: bytes) -> None:
        if message == FAILED:
            look_up.end(None, RedisClaim(self, look_up.place, look_up.epochs, b""))
        else:
            self._ask(look_up)

    def beat(self) -> None:
        """Renew the claims of this process, and ask again where another's may have expired."""
        claims = list(self._claims.items())
        for start in range(0, len(claims), MAX_RENEWED):
            some = claims[start : start + MAX_RENEWED]
            keys = tuple([place.claim for _, place in some])
            tokens = [token for token, _ in some]
            milliseconds = int(CLAIM_SECONDS * 1000)
            self._client.run(Lane.CACHE, RENEW, keys, (milliseconds, *tokens), lambda _: None)
        now = self._clock.seconds()
        for same in tuple(self._look_ups.values()):
            for look_up in tuple(same):
                if look_up.waits and look_up.claimed_until <= now:
                    self._ask(look_up)

    def lost(self) -> None:
        """Redis is away: end all look-ups, and forget the claims."""
        self._timer.stop()
        self._watch.stop()
        self._claims.clear()
        for look_up in tuple(self._unanswered):
            look_up.end(None, None)
        for same in tuple(self._look_ups.values()):
            for look_up in tuple(same):
                look_up.end(None, None)
