"""The cache: entries in memory, bounded in bytes, least recently used first out.

1. Every structure is kept in step: an entry is in the recency order, in the expiry order and, for a
   GET, in the index of paths, or in none of them.
2. No call takes long: what could be a million steps is done in slices, with a budget.
3. The time to live is one constant, so the order of storing is the order of expiring.
4. Time has two faces here. Seconds (``now``, monotonic) say when an entry expires; a logical
   clock, which ticks at each write and each clearing, says whether an answer under way was
   overtaken. A request takes a ticket as it goes upstream; an answer whose ticket is older than a
   clearing, or than a write by the same credential, is refused. Writes are remembered in a fixed
   table that credentials share by hash: it may refuse too much, never too little.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from goproxyai.policy.headers import Headers, lines

_ENTRY_BYTES = 680  # measured: the objects, their slots in both orders, the allocator's rounding
_INDEX_BYTES = 320  # measured: a place of its own in the index
_SLOTS = 1024
_SLICE = 8

_NOT_STORED = frozenset(
    (b"set-cookie", b"set-cookie2", b"content-length", b"transfer-encoding", b"age")
)


class Entry:
    """A stored answer.

    Its header is kept once, as the bytes that go on the wire. ``Set-Cookie`` is not kept, and
    neither is what each reply says anew: ``Content-Length``, ``Transfer-Encoding``, ``Age``.

    :ivar key: 32 bytes, of :func:`~.cachekey.cache_key`.
    :ivar head: status line and header lines, without the blank line that ends them.
    :ivar body: whole, as received.
    :ivar stored_at: monotonic seconds.
    :ivar stored_wall: Unix time in seconds.
    :ivar expires_at: monotonic seconds, the time to live after ``stored_at``.
    :ivar initial_age: seconds, the ``Age`` that upstream gave.
    :ivar credential: 16 bytes, of :func:`~.cachekey.credential`.
    :ivar path: without the query.
    :ivar stream: whether it is a ``text/event-stream``.
    :ivar size: bytes that it is accounted for, our own overhead included.
    """

    __slots__ = (
        "body", "credential", "expires_at", "head", "initial_age", "is_get", "key", "path",
        "reason", "size", "status", "stored_at", "stored_wall", "stream",
    )  # fmt: skip

    def __init__(
        self,
        key: bytes,
        status: int,
        reason: bytes,
        headers: Headers,
        body: bytes,
        stored_at: float,
        stored_wall: float,
        expires_at: float,
        initial_age: int,
        credential: bytes,
        path: bytes,
        is_get: bool,
        stream: bool,
    ) -> None:
        self.key = key
        self.status = status
        self.reason = reason
        self.body = body
        self.stored_at = stored_at
        self.stored_wall = stored_wall
        self.expires_at = expires_at
        self.initial_age = initial_age
        self.credential = credential
        self.path = path
        self.is_get = is_get
        self.stream = stream
        kept = lines([pair for pair in headers if pair[0].lower() not in _NOT_STORED])
        self.head = head = b"HTTP/1.1 %d %b\r\n%b" % (status, reason, kept)
        size = len(body) + len(head) + len(key) + len(path) + len(reason) + _ENTRY_BYTES
        self.size = size + _INDEX_BYTES if is_get else size

    @property
    def headers(self) -> Headers:
        """The stored header, read back from :attr:`head`."""
        stored = self.head.split(b"\r\n")[1:-1]
        return [(name, value) for name, _, value in [line.partition(b": ") for line in stored]]

    def age(self, now: float) -> int:
        """Seconds since upstream made the answer (RFC 9111 §4.2.3)."""
        return self.initial_age + max(0, int(now - self.stored_at))


class Store:
    """The entries.

    :param most_bytes: the bound; 0 stores nothing.
    :param ttl: time to live in seconds; 0 stores nothing.
    :ivar bytes: accounted for by the entries.
    :ivar reserved: bytes of answers that are being collected.
    :ivar stores: entries put, since the start.
    :ivar evictions: entries dropped for want of room, since the start.
    :ivar expirations: entries dropped as expired, since the start.
    """

    __slots__ = (
        "_cleared", "_clock", "_entries", "_expiring", "_index", "_largest", "_retired",
        "_writes", "bytes", "evictions", "expirations", "most_bytes", "reserved", "stores", "ttl",
    )  # fmt: skip

    def __init__(self, most_bytes: int, ttl: float) -> None:
        self.most_bytes = most_bytes
        self.ttl = ttl
        self.bytes = 0
        self.reserved = 0
        self.stores = 0
        self.evictions = 0
        self.expirations = 0
        self._largest = most_bytes // 10 if ttl > 0 else 0
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()  # least recently used first
        self._expiring: dict[bytes, Entry] = {}  # first to expire first
        self._index: dict[tuple[bytes, bytes], set[bytes]] = {}
        self._retired: list[dict[bytes, Entry] | dict[tuple[bytes, bytes], set[bytes]]] = []
        self._clock = 0
        self._cleared = 0
        self._writes = [0] * _SLOTS

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> Entry | None:
        """The entry, now the most recently used; one that has expired is dropped instead."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires_at <= now:
            self._drop(entry)
            self.expirations += 1
            return None
        self._entries.move_to_end(key)
        return entry

    def ticket(self) -> int:
        """The logical time at which a request goes upstream, for :meth:`put`."""
        return self._clock

    def put(self, entry: Entry, ticket: int) -> bool:
        """Store an answer, in the place of one of the same key.

        :param ticket: what :meth:`ticket` gave when the request went upstream.
        :returns: whether it is stored; not if it is too large or was overtaken.
        """
        if (
            entry.size > self._largest
            or ticket < self._cleared
            or (entry.is_get and ticket < self._writes[_slot(entry.credential)])
        ):
            return False
        if self._retired:
            self.reclaim(_SLICE)  # what is freed keeps pace with what is added
        key = entry.key
        before = self._entries.get(key)
        if before is not None:
            self._drop(before)
        room = self.most_bytes - entry.size
        while self.bytes > room:
            self._drop(next(iter(self._entries.values())))
            self.evictions += 1
        self._entries[key] = self._expiring[key] = entry
        self.bytes += entry.size
        self.stores += 1
        if entry.is_get:
            self._index.setdefault(_place(entry), set()).add(key)
        return True

    def invalidate(self, credential: bytes, paths: Iterable[bytes]) -> int:
        """Note a successful write: drop the credential's GETs, refuse those under way.

        :param paths: as of :func:`~.freshness.parent_paths`.
        :returns: how many were dropped.
        """
        self._clock += 1
        self._writes[_slot(credential)] = self._clock
        dropped = 0
        for path in paths:
            for key in tuple(self._index.get((credential, path.rstrip(b"/")), ())):
                self._drop(self._entries[key])
                dropped += 1
        return dropped

    def evict_expired(self, now: float, budget: int = 1000) -> int:
        """Drop expired entries, at most ``budget`` of them.

        :returns: how many; as many as the budget means that there may be more.
        """
        expired: list[Entry] = []
        for entry in self._expiring.values():
            if entry.expires_at > now or len(expired) >= budget:
                break
            expired.append(entry)
        for entry in expired:
            self._drop(entry)
        self.expirations += len(expired)
        return len(expired)

    def clear(self) -> int:
        """Forget everything and refuse what is under way; :meth:`reclaim` frees the memory.

        :returns: how many entries there were.
        """
        count = len(self._entries)
        self._clock += 1
        self._cleared = self._clock
        if count:
            self._retired += (self._entries, self._expiring, self._index)
            self._entries, self._expiring, self._index = OrderedDict(), {}, {}
            self.bytes = 0
        return count

    def reclaim(self, budget: int = 1000) -> bool:
        """Free what was cleared, at most ``budget`` items of it.

        :returns: whether there is more to free.
        """
        retired = self._retired
        while retired and budget > 0:
            for _ in range(min(budget, len(retired[-1]))):
                retired[-1].popitem()
                budget -= 1
            if not retired[-1]:
                retired.pop()
        return bool(retired)

    def reserve(self, count: int) -> bool:
        """Ask to collect ``count`` more bytes of an answer; give them back with :meth:`release`.

        :returns: whether there is room: all that is being collected stays within ``most_bytes``.
        """
        if self.reserved + count > self.most_bytes:
            return False
        self.reserved += count
        return True

    def release(self, count: int) -> None:
        """Give back bytes that :meth:`reserve` granted."""
        self.reserved -= count

    def _drop(self, entry: Entry) -> None:
        key = entry.key
        del self._entries[key]
        del self._expiring[key]
        self.bytes -= entry.size
        if entry.is_get:
            place = _place(entry)
            keys = self._index[place]
            keys.remove(key)
            if not keys:
                del self._index[place]


def _slot(credential: bytes) -> int:
    return (credential[0] << 8 | credential[1]) % _SLOTS


def _place(entry: Entry) -> tuple[bytes, bytes]:
    return entry.credential, entry.path.rstrip(b"/")
