"""The cache: entries in memory, bounded in bytes, least recently used first out.

1. An entry is in the order of use, on the wheel of expiry and in a place of the index, or in none
   of them.
2. ``bytes`` is what all of it takes, our own overhead included, and with what is being collected
   (:meth:`Store.reserve`) it never exceeds the bound, nor, where that was made smaller, what it was
   then: it shrinks in slices (:meth:`Store.shrink`). Room is made as an answer is collected, a
   little with each read, so that storing a large one never drops a thousand small ones at once.
3. No call takes long. What could be a million steps (clearing, a write to a path of many answers)
   takes effect at once and is done in slices, with a budget.
4. Time has two faces here. Seconds (``now``, monotonic) say when an entry expires; a logical
   clock, which ticks at each write and each clearing, says whether an answer under way was
   overtaken. A request takes a ticket as it goes upstream; an answer whose ticket is older than a
   clearing, or than a write by the same owner, is refused. Writes are remembered in a fixed table
   that owners share by hash: it may refuse too much, never too little.

The index has a shelf a path, and on it a place an owner: whose answers a write drops. A GET's owner
is its credential (:func:`~.cachekey.credential`); no write drops what was :data:`COMPUTED`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Final

COMPUTED: Final = b"computed"
"""The owner of answers that only compute: of POSTs, whoever sent them."""

SLOTS_A_SECOND: Final = 2
"""Of the wheel: an entry is swept that part of a second late, at the most."""

# Measured: see the test of what a full cache takes.
_ENTRY_BYTES = 580
_PLACE_BYTES = 310
_SHELF_BYTES = 230
_SLOT_BYTES = 240

_WRITES_REMEMBERED = 1024
_SLICE = 8
_AT_ONCE = 64


class Place(set["Entry"]):
    """The entries of one path and owner.

    :ivar gone: whether they were dropped; they are taken apart in slices then.
    """

    __slots__ = ("gone", "owner", "path")

    def __init__(self, path: bytes, owner: bytes) -> None:
        self.path = path
        self.owner = owner
        self.gone = False


class Entry:
    """A stored answer.

    Its header is kept once, as the bytes that go on the wire. ``Set-Cookie`` is not kept, and
    neither is what each reply says anew: ``Content-Length``, ``Transfer-Encoding``, ``Age``.

    :ivar key: 32 bytes, of :func:`~.cachekey.cache_key`.
    :ivar head: status line and header lines, without the blank line that ends them.
    :ivar body: whole, as received.
    :ivar stored_at: monotonic seconds.
    :ivar expires_at: monotonic seconds.
    :ivar initial_age: seconds, the ``Age`` that upstream gave.
    :ivar pace: of a stream: when its pieces came, as :class:`~.pace.Pace` packs it; ``None``: of
        no stream.
    :ivar place: where it lies in the index; ``None`` where it is not stored.
    :ivar size: bytes that it is accounted for, our own overhead included.
    """

    __slots__ = (
        "body", "expires_at", "head", "initial_age", "key", "pace", "place", "size", "status",
        "stored_at",
    )  # fmt: skip

    def __init__(
        self,
        key: bytes,
        status: int,
        head: bytes,
        body: bytes,
        stored_at: float,
        expires_at: float,
        initial_age: int,
        pace: bytes | None,
    ) -> None:
        self.key = key
        self.status = status
        self.head = head
        self.body = body
        self.stored_at = stored_at
        self.expires_at = expires_at
        self.initial_age = initial_age
        self.pace = pace
        self.place: Place | None = None
        self.size = len(body) + len(head) + len(key) + len(pace or b"") + _ENTRY_BYTES

    @property
    def stream(self) -> bool:
        """Whether it is a ``text/event-stream``."""
        return self.pace is not None

    def age(self, now: float) -> int:
        """Seconds since upstream made the answer (RFC 9111 §4.2.3)."""
        return self.initial_age + max(0, int(now - self.stored_at))


class Store:
    """The entries.

    :param most_bytes: the bound; 0 stores nothing.
    :param stale: seconds for which an entry is kept once it has expired.
    :ivar bytes: that the entries, and what leads to them, take.
    :ivar reserved: bytes of answers that are being collected.
    :ivar largest: bytes that an entry may take, all told.
    :ivar stores: entries put, since the start.
    :ivar evictions: entries dropped for want of room, since the start.
    :ivar expirations: entries dropped as expired, since the start.
    """

    __slots__ = (
        "_bound", "_cleared", "_clock", "_doomed", "_entries", "_index", "_retired", "_swept",
        "_wheel", "_writes", "bytes", "evictions", "expirations", "largest", "most_bytes",
        "reserved", "stale", "stores",
    )  # fmt: skip

    def __init__(self, most_bytes: int, stale: float = 0.0) -> None:
        self.most_bytes = most_bytes
        self._bound = most_bytes  # above it only while the store shrinks
        self.stale = stale
        self.bytes = 0
        self.reserved = 0
        self.largest = most_bytes // 10
        self.stores = 0
        self.evictions = 0
        self.expirations = 0
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()  # least recently used first
        self._wheel: dict[int, set[Entry]] = {}
        self._swept = 0  # no slot before this one holds anything
        self._index: dict[bytes, dict[bytes, Place]] = {}
        self._doomed: list[Place] = []
        self._retired: list[Any] = []  # dicts and sets, and dicts of them
        self._clock = 0
        self._cleared = 0
        self._writes = [0] * _WRITES_REMEMBERED

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> Entry | None:
        """The entry, now the most recently used; it may have expired, and still be kept."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires_at <= now and entry.expires_at + self.stale <= now:
            self._drop(entry)
            self.expirations += 1
            return None
        if self._doomed and _is_gone(entry):
            self._drop(entry)
            return None
        self._entries.move_to_end(key)
        return entry

    def ticket(self) -> int:
        """The logical time at which a request goes upstream, for :meth:`put`."""
        return self._clock

    def overtaken(self, owner: bytes, ticket: int) -> bool:
        """Whether a clearing or a write came after *ticket*, so that its answer may be outdated."""
        if ticket == self._clock:
            return False
        return ticket < self._cleared or (
            owner != COMPUTED and ticket < self._writes[_remembered(owner)]
        )

    def put(self, entry: Entry, path: bytes, owner: bytes, ticket: int) -> bool:
        """Store an answer, in the place of one of the same key.

        :param path: without the query and trailing slashes.
        :param ticket: what :meth:`ticket` gave when the request went upstream.
        :returns: whether it is stored; not if it is too large or was overtaken.
        """
        if entry.size > self.largest or self.overtaken(owner, ticket):
            return False
        if self._retired:
            self.reclaim(_SLICE)  # what is freed keeps pace with what is added
        before = self._entries.get(entry.key)
        if before is not None:
            self._drop(before)
        if not self._make_room(entry.size + len(path) + _PLACE_BYTES + _SHELF_BYTES + _SLOT_BYTES):
            return False
        self._entries[entry.key] = entry
        self._file(entry, path, owner)
        self.bytes += entry.size
        self.stores += 1
        return True

    def _make_room(self, count: int) -> bool:
        """Drop what was least recently used, until *count* more bytes find room."""
        room = self._bound - self.reserved - count
        entries = self._entries
        while self.bytes > room:
            if not entries:
                return False  # what is being collected takes all of it
            self._drop(next(iter(entries.values())))
            self.evictions += 1
        return True

    def _file(self, entry: Entry, path: bytes, owner: bytes) -> None:
        """Put *entry* on the wheel and into the index."""
        slot = self._slot(entry)
        on_wheel = self._wheel.get(slot)
        if on_wheel is None:
            if slot < self._swept or not self._wheel:
                self._swept = slot
            on_wheel = self._wheel[slot] = set()
            self.bytes += _SLOT_BYTES
        on_wheel.add(entry)
        shelf = self._index.get(path)
        if shelf is None:
            shelf = self._index[path] = {}
            self.bytes += _SHELF_BYTES
        place = shelf.get(owner)
        if place is None:
            place = shelf[owner] = Place(path, owner)
            self.bytes += _PLACE_BYTES + len(path)
        place.add(entry)
        entry.place = place

    def _slot(self, entry: Entry) -> int:
        return int((entry.expires_at + self.stale) * SLOTS_A_SECOND)

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self.bytes -= entry.size
        slot = self._slot(entry)
        on_wheel = self._wheel[slot]
        on_wheel.discard(entry)
        if not on_wheel:
            del self._wheel[slot]
            self.bytes -= _SLOT_BYTES
        place = entry.place
        assert place is not None, "what is in the order of use lies in a place"
        entry.place = None
        place.discard(entry)
        if not place:
            self.bytes -= _PLACE_BYTES + len(place.path)
            if not place.gone:
                shelf = self._index[place.path]
                del shelf[place.owner]
                if not shelf:
                    del self._index[place.path]
                    self.bytes -= _SHELF_BYTES

    def __iter__(self) -> Iterator[Entry]:
        """The entries, least recently used first."""
        return iter([entry for entry in self._entries.values() if not _is_gone(entry)])

    # What drops many.

    def invalidate(self, owner: bytes, paths: Iterable[bytes]) -> int:
        """Note a successful write: drop the owner's answers, refuse those under way.

        :param paths: as of :func:`~.freshness.parent_paths`.
        :returns: how many were dropped.
        """
        self._clock += 1
        self._writes[_remembered(owner)] = self._clock
        dropped = 0
        for path in [path.rstrip(b"/") for path in paths]:
            shelf = self._index.get(path)
            place = None if shelf is None else shelf.pop(owner, None)
            if place is not None:
                dropped += len(place)
                self._doom((place,))
                if not shelf:
                    del self._index[path]
                    self.bytes -= _SHELF_BYTES
        return dropped

    def clear(self, path: bytes | None = None) -> int:
        """Forget everything, or what lies under *path*, and refuse what is under way.

        :param path: without a query; whatever the query of an answer's request was.
        :returns: how many entries there were; :meth:`sweep` and :meth:`reclaim` free the memory.
        """
        self._clock += 1
        self._cleared = self._clock
        if path is not None:
            shelf = self._index.pop(path.rstrip(b"/"), None)
            if shelf is None:
                return 0
            self.bytes -= _SHELF_BYTES
            count = sum(map(len, shelf.values()))
            self._doom(shelf.values())
            return count
        count = len(self._entries)
        if count:
            self._retired += (self._entries, self._wheel, self._index)
            self._entries, self._wheel, self._index = OrderedDict(), {}, {}
            self._retired += self._doomed
            self._doomed = []
            self.bytes = 0
        return count

    def _doom(self, places: Iterable[Place]) -> None:
        for place in places:
            place.gone = True
            self._doomed.append(place)
        self._bury(_AT_ONCE)

    def _bury(self, budget: int) -> int:
        """Drop entries of places that are gone; returns what is left of the budget."""
        doomed = self._doomed
        while doomed and budget > 0:
            place = doomed[-1]
            while place and budget > 0:
                self._drop(place.pop())
                budget -= 1
            if not place:
                doomed.pop()
        return budget

    def sweep(self, now: float, budget: int = 100) -> bool:
        """Drop what is gone, and what has expired and is kept no longer.

        :param budget: steps, of some microseconds each.
        :returns: whether there is more to drop.
        """
        budget = self._bury(budget)
        wheel, due = self._wheel, int(now * SLOTS_A_SECOND)
        while budget > 0 and wheel and self._swept < due:
            expired = wheel.get(self._swept)
            while expired and budget > 0:
                self._drop(expired.pop())
                self.expirations += 1
                budget -= 1
            if not expired:
                self._swept += 1
                budget -= 1
        return bool(self._doomed or (wheel and self._swept < due))

    def reclaim(self, budget: int = 100) -> bool:
        """Free what was cleared, at most *budget* items of it.

        :returns: whether there is more to free.
        """
        retired = self._retired
        while retired and budget > 0:
            whole = retired[-1]
            if not whole:
                retired.pop()
                continue
            item = whole.pop() if isinstance(whole, set) else whole.popitem()[1]
            budget -= 1
            if isinstance(item, dict | set):
                retired.append(item)
        return bool(retired)

    def resize(self, most_bytes: int) -> None:
        """Have another bound from now on; where it is smaller, :meth:`shrink` drops the rest."""
        self.most_bytes = most_bytes
        self.largest = most_bytes // 10
        self._bound = max(most_bytes, self.bytes + self.reserved)

    def shrink(self, budget: int = 100) -> bool:
        """Drop what there is no room for since the bound was made smaller.

        :param budget: entries to drop, at most.
        :returns: whether there is more to drop.
        """
        if self._bound == self.most_bytes:
            return False
        entries, room = self._entries, self.most_bytes - self.reserved
        while entries and self.bytes > room and budget > 0:
            self._drop(next(iter(entries.values())))
            self.evictions += 1
            budget -= 1
        self._bound = max(self.most_bytes, self.bytes + self.reserved)
        return bool(entries) and self.bytes > room

    # What is being collected.

    def reserve(self, count: int) -> bool:
        """Ask to collect *count* more bytes of an answer; give them back with :meth:`release`.

        :param count: of one read, so that the room is made a little at a time.
        :returns: whether there is room: all that is being collected stays within half of
            ``most_bytes``, that a few large answers do not drive out all the others.
        """
        if self.reserved + count > self.most_bytes // 2 or not self._make_room(count):
            return False
        self.reserved += count
        return True

    def release(self, count: int) -> None:
        """Give back bytes that :meth:`reserve` granted."""
        self.reserved -= count


def _is_gone(entry: Entry) -> bool:
    return entry.place is None or entry.place.gone


def _remembered(owner: bytes) -> int:
    """Where in the table the writes of *owner* are remembered."""
    return (owner[0] << 8 | owner[1]) % _WRITES_REMEMBERED
