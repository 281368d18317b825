"""Writes and clearings, which the caches of all processes must follow.

1. An announcement replaces an epoch in Redis, so that no process finds an older response there, and
   publishes a message, by which each process drops what it has in memory.
2. A message may be lost. Announcements are numbered, and Redis has the number of the last one. A
   process that missed one, or was not connected, clears its memory.
3. An announcement that cannot be made is *owed*: it is made before this process uses Redis again.
   Owed announcements are bounded; beyond that everything is cleared.
4. That a response was replaced is only a message: it has no number, and is not owed. Where it is
   lost, the older response remains until it expires.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from goproxyai.state.redis.client import RedisClient
from goproxyai.state.redis.connection import CommandFailed, Reply
from goproxyai.state.redis.lanes import Lane
from goproxyai.state.redis.names import Names, ValueInvalid
from goproxyai.state.redis.places import EPOCH_MILLISECONDS, Places
from goproxyai.state.redis.scripts import ANNOUNCE

KIND: Final = b"a"
"""The first byte of the messages."""

REPLACED: Final = b"r"
"""The first byte of messages about replaced responses."""

MAX_OWED: Final = 1_000

_WRITE, _PATH, _ALL = b"w", b"p", b"c"

_log = Logger(namespace="goproxyai.state")


class LocalCache(Protocol):
    """The cache in the memory of this process; see :class:`goproxyai.cache.store.Store`."""

    def drop(self, keys: Iterable[bytes]) -> None: ...
    def invalidate(self, owner: bytes) -> None: ...
    def clear(self, path: bytes | None = None) -> None: ...


class Announcements:
    """Makes announcements, and follows those of other processes.

    :param instance: identifies this process; ASCII.
    :param new_token: returns a text that no process has used.
    :param channel: of the messages.
    """

    def __init__(
        self,
        client: RedisClient,
        names: Names,
        places: Places,
        cache: LocalCache,
        instance: bytes,
        new_token: Callable[[], bytes],
        channel: bytes,
    ) -> None:
        self._client = client
        self._names = names
        self._places = places
        self._cache = cache
        self._instance = instance
        self._new_token = new_token
        self._channel = channel
        self._owed: dict[tuple[bytes, bytes], None] = {}  # an ordered set
        self._last = 0
        self._expected = 0
        self._was_connected = False

    @property
    def owes(self) -> bool:
        """Whether responses in Redis may be outdated, because of an owed announcement."""
        return bool(self._owed)

    def write(self, owner: bytes) -> None:
        """Announce a write of *owner*."""
        self._announce((_WRITE, owner))

    def clearing(self, path: bytes | None) -> Deferred[None]:
        """Announce that the responses of *path*, or all, are dropped.

        :returns: fires when Redis has answered, or cannot.
        """
        return self._announce((_ALL, b"") if path is None else (_PATH, path.rstrip(b"/")))

    def replaced(self, key: bytes) -> None:
        """Tell the other processes that the response of *key* in their memory is not the newest."""
        content = self._names.seal(self._instance + key, self._channel + REPLACED)
        told = self._client.call(
            Lane.CACHE, "announce", "PUBLISH", self._channel, REPLACED + content
        )
        told.addErrback(lambda _: None)  # the client has counted it

    def received_replaced(self, content: bytes) -> None:
        """A process has published *content*, which follows :data:`REPLACED`."""
        try:
            opened = self._names.opened(content, self._channel + REPLACED)
        except ValueInvalid:  # of a service with another secret
            return
        size = len(self._instance)
        if opened[:size] != self._instance:
            self._cache.drop([opened[size:]])

    async def catch_up(self) -> None:
        """Clear the memory if an announcement was missed, then make those that are owed."""
        number = await self._client.call(Lane.CACHE, "announce", "GET", self._places.announcements)
        if int(number or 0) != self._last:
            self._missed(int(number or 0))
        self._expected, self._was_connected = self._last, True
        for announcement in tuple(self._owed):
            await self._announce(announcement)
        if self._owed:
            raise CommandFailed("an announcement failed", "lost")

    def received(self, content: bytes) -> None:
        """A process has published *content*, which follows :data:`KIND`."""
        number, _, sealed = content.partition(b":")
        try:
            opened = self._names.opened(sealed, self._channel)
            count = int(number)
        except (ValueInvalid, ValueError):  # of a service with another secret
            return
        if count > self._last + 1:
            self._missed(count)
        self._last = max(self._last, count)
        size = len(self._instance)
        if opened[:size] != self._instance:
            self._follow(opened[size : size + 1], opened[size + 1 :])

    def beat(self) -> None:
        """Make announcements that are owed, and check that no message was lost."""
        for announcement in tuple(self._owed):
            self._announce(announcement)
        done = self._client.check(Lane.CACHE, "GET", self._places.announcements)
        done.addCallbacks(self._compare, lambda _: None, callbackArgs=(self._last,))

    def _compare(self, number: Reply, received: int) -> None:
        """Compare the number with that of a second ago, whose messages must have arrived.

        :param received: the last number when this one was asked for; a smaller one means that
            Redis has lost it.
        """
        count = int(number or 0)
        if self._last < self._expected or count < received:
            self._missed(count)
        self._expected = count

    def _missed(self, number: int) -> None:
        if self._was_connected:
            _log.info("announcements of other processes were missed; the cache is cleared")
        self._last = number
        self._cache.clear(None)

    def _follow(self, kind: bytes, material: bytes) -> None:
        if kind == _WRITE:
            self._cache.invalidate(material)
        else:
            self._cache.clear(material if kind == _PATH else None)

    def _announce(self, announcement: tuple[bytes, bytes]) -> Deferred[None]:
        done: Deferred[None] = Deferred()

        def replied(reply: Reply) -> None:
            if isinstance(reply, Exception):
                self._owe(announcement)
            else:
                self._owed.pop(announcement, None)
            done.callback(None)

        kind, material = announcement
        if kind == _WRITE:
            epoch = self._places.owner(material)
        else:
            epoch = self._places.path(material) if kind == _PATH else self._places.clearing
        content = self._names.seal(self._instance + kind + material, self._channel)
        self._client.run(
            Lane.CACHE,
            ANNOUNCE,
            (epoch, self._places.announcements),
            (self._new_token(), EPOCH_MILLISECONDS, self._channel, KIND, content),
            replied,
        )
        return done

    def _owe(self, announcement: tuple[bytes, bytes]) -> None:
        if len(self._owed) >= MAX_OWED:
            self._owed = {}
            announcement = (_ALL, b"")
        self._owed[announcement] = None
