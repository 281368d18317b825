"""The cache: entries in memory, bounded in bytes, least recently used first out.

1. An entry is in its shard, on the wheel of expiry and in a place of the index, or in none of them.
2. ``bytes`` is what all of it takes, our own overhead included, and with what is being collected
   (:meth:`Store.reserve`) it never exceeds the bound, nor, where that was made smaller, what it was
   then: it shrinks in slices (:meth:`Store.evict_excess`). Room is made as an answer is collected, a
   little with each read, so that storing a large one never drops a thousand small ones at once.
3. No call takes long. What could be a million steps (clearing, a write to a path of many answers)
   takes effect at once and is done in slices, with a budget; and no table is so large that its
   growing is felt: there are shards of entries and of paths, and a place that is full is followed
   by another.
4. Each entry bears the number of its last use. A shard is in the order of use, so the least
   recently used of all is the first of one of them; a heap knows which.
5. Time has two faces here. Seconds (``now``, monotonic) say when an entry expires; a logical
   clock, which ticks at each write and each clearing, says whether an answer under way was
   overtaken. A request takes a ticket as it goes upstream; an answer whose ticket is older than a
   clearing, or than a write by the same owner, is refused. Writes are remembered in a fixed table
   that owners share by hash: it may refuse too much, never too little.

The index has a shelf a path, and on it a place an owner: whose answers a write drops. A GET's owner
is its credential (:func:`~.key.credential`); no write drops what was :data:`UNOWNED`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush, heapreplace
from typing import Any, Final

from goproxyai.usage.usage import UNKNOWN, UNREAD, Usage, plain_usage

UNOWNED: Final = b"computed"
"""The owner of answers that only compute: of POSTs, whoever sent them."""

SLOTS_PER_SECOND: Final = 2
"""Of the wheel: an entry is swept that part of a second late, at the most."""

SHARDS: Final = 256
"""Of the entries, by the first byte of their key, and of the paths."""

MAX_BUCKET_ENTRIES: Final = 4096
"""Entries, before another place follows."""

# Measured: see the test of what a full cache takes.
_ENTRY_BYTES = 600
_PLACE_BYTES = 320
_SHELF_BYTES = 330
_SLOT_BYTES = 240
_USAGE_BYTES = 200

_WRITES_REMEMBERED = 1024
_SLICE = 8
_AT_ONCE = 64


class PathIndex(dict[bytes, "OwnerBucket"]):
    """The places of one path, by owner; of each the newest.

    :ivar gone: whether all of them were dropped; they are taken apart in slices then.
    """

    __slots__ = ("gone", "path")

    def __init__(self, path: bytes) -> None:
        super().__init__()
        self.path = path
        self.gone = False


class OwnerBucket(set["Entry"]):
    """Entries of one path and owner.

    :ivar older: a place of the same that was full before.
    :ivar gone: whether they were dropped, as on a shelf.
    """

    __slots__ = ("gone", "older", "owner", "shelf")

    def __init__(self, shelf: PathIndex, owner: bytes, older: OwnerBucket | None) -> None:
        super().__init__()
        self.shelf = shelf
        self.owner = owner
        self.older = older
        self.gone = False

    @property
    def path(self) -> bytes:
        """Whose answers they are, without the query."""
        return self.shelf.path


class Entry:
    """A stored answer.

    Its header is kept once, as the bytes that go on the wire. ``Set-Cookie`` is not kept, and
    neither is what each reply says anew: ``Content-Length``, ``Transfer-Encoding``, ``Age``.

    :ivar key: 32 bytes, of :func:`~.key.cache_key`.
    :ivar head: status line and header lines, the last of them without its value: that of a
        reply's own id, see :func:`goproxyai.proxy.replay.stored_lines`.
    :ivar body: whole, as received.
    :ivar stored_at: monotonic seconds.
    :ivar expires_at: monotonic seconds.
    :ivar initial_age: seconds, the ``Age`` that upstream gave.
    :ivar timing: of a stream: when its pieces came, as :class:`~.stream_timing.StreamTiming` packs it; ``None``: of
        no stream.
    :ivar usage: see :meth:`token_usage`; may be :data:`~.usage.UNREAD`.
    :ivar bucket: where it lies in the index; ``None`` where it is not stored.
    :ivar size: bytes that it is accounted for, our own overhead included.
    :ivar last_use: the number of its last use.
    """

    __slots__ = (
        "body",
        "bucket",
        "expires_at",
        "head",
        "initial_age",
        "key",
        "last_use",
        "size",
        "status",
        "stored_at",
        "timing",
        "usage",
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
        timing: bytes | None,
        usage: Usage | None = None,
    ) -> None:
        self.key = key
        self.status = status
        self.head = head
        self.body = body
        self.stored_at = stored_at
        self.expires_at = expires_at
        self.initial_age = initial_age
        self.timing = timing
        self.bucket: OwnerBucket | None = None
        self.last_use = 0
        self.usage = usage
        self.size = len(body) + len(head) + len(key) + len(timing or b"") + _ENTRY_BYTES
        if usage is not None:
            self.size += _USAGE_BYTES

    def token_usage(self) -> Usage | None:
        """Those that it took, where it says so; read in the body when somebody first asks."""
        if self.usage is UNREAD:
            found = plain_usage(self.body)
            self.usage = None if found is UNKNOWN else found
        return self.usage

    @property
    def is_event_stream(self) -> bool:
        """Whether it is a ``text/event-stream``."""
        return self.timing is not None

    def age(self, now: float) -> int:
        """Seconds since upstream made the answer (RFC 9111 §4.2.3)."""
        return self.initial_age + max(0, int(now - self.stored_at))


class Store:
    """The entries.

    :param max_bytes: the bound; 0 stores nothing.
    :param stale_seconds: seconds for which an entry is kept once it has expired.
    :ivar bytes: that the entries, and what leads to them, take.
    :ivar reserved: bytes of answers that are being collected.
    :ivar max_entry_bytes: bytes that an entry may take, all told.
    :ivar stores: entries put, since the start.
    :ivar evictions: entries dropped for want of room, since the start.
    :ivar expirations: entries dropped as expired, since the start.
    """

    __slots__ = (
        "_bound",
        "_cleared",
        "_clock",
        "_count",
        "_heap",
        "_index",
        "_listed",
        "_pending_delete",
        "_pending_free",
        "_shards",
        "_swept",
        "_uses",
        "_wheel",
        "_writes",
        "bytes",
        "evictions",
        "expirations",
        "max_bytes",
        "max_entry_bytes",
        "reserved",
        "stale_seconds",
        "stores",
    )  # fmt: skip

    def __init__(self, max_bytes: int, stale_seconds: float = 0.0) -> None:
        self.max_bytes = max_bytes
        self._bound = max_bytes  # above it only while the store shrinks
        self.stale_seconds = stale_seconds
        self.bytes = 0
        self.reserved = 0
        self.max_entry_bytes = max_bytes // 10
        self.stores = 0
        self.evictions = 0
        self.expirations = 0
        self._shards = _shards()
        self._count = 0
        self._uses = 0
        self._heap: list[tuple[int, int]] = []  # of each shard: a use no later than its first's
        self._listed = bytearray(SHARDS)  # which shards are on the heap
        self._wheel: dict[int, set[Entry]] = {}
        self._swept = 0  # no slot before this one holds anything
        self._index = _index()
        self._pending_delete: list[OwnerBucket | PathIndex] = []
        self._pending_free: list[Any] = []  # dicts, sets and lists, and such of them
        self._clock = 0
        self._cleared = 0
        self._writes = [0] * _WRITES_REMEMBERED

    def __len__(self) -> int:
        """Entries, those among them that were dropped and are still to be taken apart."""
        return self._count

    def get(self, key: bytes, now: float) -> Entry | None:
        """The entry, now the most recently used; it may have expired, and still be kept."""
        shard = self._shards[key[0]]
        entry = shard.get(key)
        if entry is None:
            return None
        if entry.expires_at <= now and entry.expires_at + self.stale_seconds <= now:
            self._drop(entry)
            self.expirations += 1
            return None
        if self._pending_delete and _is_gone(entry):
            self._drop(entry)
            return None
        shard.move_to_end(key)
        self._uses = entry.last_use = self._uses + 1
        return entry

    def generation(self) -> int:
        """The logical time at which a request goes upstream, for :meth:`put`."""
        return self._clock

    def is_outdated(self, owner: bytes, generation: int) -> bool:
        """Whether a clearing or a write came after *ticket*, so that its answer may be outdated."""
        if generation == self._clock:
            return False
        return generation < self._cleared or (
            owner != UNOWNED and generation < self._writes[_remembered(owner)]
        )

    def put(self, entry: Entry, path: bytes, owner: bytes, generation: int) -> bool:
        """Store an answer, in the place of one of the same key.

        :param path: without the query and trailing slashes.
        :param generation: what :meth:`generation` gave when the request went upstream.
        :returns: whether it is stored; not if it is too large or was overtaken.
        """
        if entry.size > self.max_entry_bytes or self.is_outdated(owner, generation):
            return False
        if self._pending_free:
            self.free_cleared(_SLICE)  # what is freed keeps pace with what is added
        shard = self._shards[entry.key[0]]
        before = shard.get(entry.key)
        if before is not None:
            self._drop(before)
        if not self._make_room(entry.size + len(path) + _PLACE_BYTES + _SHELF_BYTES + _SLOT_BYTES):
            return False
        shard[entry.key] = entry
        self._uses = entry.last_use = self._uses + 1
        if not self._listed[entry.key[0]]:
            self._listed[entry.key[0]] = 1
            heappush(self._heap, (entry.last_use, entry.key[0]))
        self._count += 1
        self._file(entry, path, owner)
        self.bytes += entry.size
        self.stores += 1
        return True

    def _make_room(self, count: int) -> bool:
        """Drop what was least recently used, until *count* more bytes find room."""
        room = self._bound - self.reserved - count
        while self.bytes > room:
            entry = self._least_recently_used()
            if entry is None:
                return False  # what is being collected takes all of it
            self._drop(entry)
            self.evictions += 1
        return True

    def _least_recently_used(self) -> Entry | None:
        heap = self._heap
        while heap:
            last_use, number = heap[0]
            shard = self._shards[number]
            if not shard:
                heappop(heap)
                self._listed[number] = 0
                continue
            first = next(iter(shard.values()))
            if first.last_use == last_use:
                return first
            heapreplace(heap, (first.last_use, number))
        return None

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
        shelves = self._index[hash(path) % SHARDS]
        shelf = shelves.get(path)
        if shelf is None:
            shelf = shelves[path] = PathIndex(path)
            self.bytes += _SHELF_BYTES + len(path)
        bucket = shelf.get(owner)
        if bucket is None or len(bucket) >= MAX_BUCKET_ENTRIES:
            bucket = shelf[owner] = OwnerBucket(shelf, owner, bucket)
            self.bytes += _PLACE_BYTES
        bucket.add(entry)
        entry.bucket = bucket

    def _slot(self, entry: Entry) -> int:
        return int((entry.expires_at + self.stale_seconds) * SLOTS_PER_SECOND)

    def _drop(self, entry: Entry) -> None:
        del self._shards[entry.key[0]][entry.key]
        self._count -= 1
        self.bytes -= entry.size
        slot = self._slot(entry)
        on_wheel = self._wheel[slot]
        on_wheel.discard(entry)
        if not on_wheel:
            del self._wheel[slot]
            self.bytes -= _SLOT_BYTES
        bucket = entry.bucket
        assert bucket is not None, "what is in a shard lies in a place"
        entry.bucket = None
        bucket.discard(entry)
        if not bucket:
            self.bytes -= _PLACE_BYTES
            if not bucket.gone and not bucket.shelf.gone:
                self._take_away(bucket)

    def _take_away(self, empty: OwnerBucket) -> None:
        """Take an empty place off its shelf, and an empty shelf out of the index."""
        shelf, owner = empty.shelf, empty.owner
        newer = shelf[owner]
        if newer is not empty:
            while newer.older is not None and newer.older is not empty:
                newer = newer.older
            newer.older = empty.older
        elif empty.older is not None:
            shelf[owner] = empty.older
        else:
            del shelf[owner]
            self._take_down(shelf)

    def _take_down(self, shelf: PathIndex) -> None:
        """Take a shelf out of the index, if there is nothing on it."""
        if not shelf:
            del self._index[hash(shelf.path) % SHARDS][shelf.path]
            self.bytes -= _SHELF_BYTES + len(shelf.path)

    def __iter__(self) -> Iterator[Entry]:
        """The entries, least recently used first."""
        entries = [entry for shard in self._shards for entry in shard.values()]
        return iter(
            sorted([one for one in entries if not _is_gone(one)], key=lambda entry: entry.last_use)
        )

    # What drops many.

    def invalidate(self, owner: bytes, paths: Iterable[bytes]) -> None:
        """Note a successful write: drop the owner's answers, refuse those under way.

        :param paths: as of :func:`~.rules.parent_paths`.
        """
        self._clock += 1
        self._writes[_remembered(owner)] = self._clock
        for path in [path.rstrip(b"/") for path in paths]:
            shelf = self._index[hash(path) % SHARDS].get(path)
            bucket = None if shelf is None else shelf.pop(owner, None)
            if shelf is None or bucket is None:
                continue
            self._pending_delete.append(bucket)
            older: OwnerBucket | None = bucket
            while older is not None:
                older.gone = True
                older = older.older
            self._take_down(shelf)
        self._drop_pending(_AT_ONCE)

    def clear(self, path: bytes | None = None) -> None:
        """Forget everything, or the answers of *path*, and refuse what is under way.

        :meth:`remove_expired` and :meth:`free_cleared` free the memory.

        :param path: without a query; whatever the query of an answer's request was.
        """
        self._clock += 1
        self._cleared = self._clock
        if path is not None:
            path = path.rstrip(b"/")
            shelf = self._index[hash(path) % SHARDS].pop(path, None)
            if shelf is not None:
                shelf.gone = True
                self._pending_delete.append(shelf)
                self._drop_pending(_AT_ONCE)
        elif self._count:
            # The last is freed first: with the entries go their bodies.
            self._pending_free += (self._pending_delete, self._index, self._wheel, self._shards)
            self._pending_delete, self._index, self._wheel = [], _index(), {}
            self._shards, self._heap, self._listed = _shards(), [], bytearray(SHARDS)
            self._count = self.bytes = 0

    def _drop_pending(self, budget: int) -> int:
        """Take apart what is gone; returns what is left of the budget."""
        doomed = self._pending_delete
        while doomed and budget > 0:
            budget -= 1
            last = doomed[-1]
            if isinstance(last, PathIndex):
                if last:
                    doomed.append(last.popitem()[1])
                else:
                    doomed.pop()
                    self.bytes -= _SHELF_BYTES + len(last.path)
            elif last:
                self._drop(last.pop())
            else:
                doomed.pop()
                if last.older is not None:
                    doomed.append(last.older)
        return budget

    def remove_expired(self, now: float, budget: int = 100) -> bool:
        """Drop what is gone, and what has expired and is kept no longer.

        :param budget: steps, of some microseconds each.
        :returns: whether there is more to drop.
        """
        budget = self._drop_pending(budget)
        wheel, due = self._wheel, int(now * SLOTS_PER_SECOND)
        while budget > 0 and wheel and self._swept < due:
            expired = wheel.get(self._swept)
            while expired and budget > 0:
                self._drop(expired.pop())
                self.expirations += 1
                budget -= 1
            if not expired:
                self._swept += 1
                budget -= 1
        return bool(self._pending_delete or (wheel and self._swept < due))

    def free_cleared(self, budget: int = 100) -> bool:
        """Free what was cleared, at most *budget* items of it.

        :returns: whether there is more to free.
        """
        retired = self._pending_free
        while retired and budget > 0:
            budget -= 1
            whole = retired[-1]
            if not whole:
                retired.pop()
                if isinstance(whole, OwnerBucket) and whole.older is not None:
                    retired.append(whole.older)  # which else would go with it, in one go
                    whole.older = None
                continue
            item = whole.popitem()[1] if isinstance(whole, dict) else whole.pop()
            if isinstance(item, Entry):
                item.bucket = None
                item.head = item.body = b""
            elif item:
                retired.append(item)
        return bool(retired)

    def resize(self, max_bytes: int) -> None:
        """Have another bound from now on; where it is smaller, :meth:`evict_excess` drops the rest."""
        self.max_bytes = max_bytes
        self.max_entry_bytes = max_bytes // 10
        self._bound = max(max_bytes, self.bytes + self.reserved)

    def evict_excess(self, budget: int = 100) -> bool:
        """Drop what there is no room for since the bound was made smaller.

        :param budget: entries to drop, at most.
        :returns: whether there is more to drop.
        """
        if self._bound == self.max_bytes:
            return False
        room = self.max_bytes - self.reserved
        while self._count and self.bytes > room and budget > 0:
            entry = self._least_recently_used()
            assert entry is not None, "there are some"
            self._drop(entry)
            self.evictions += 1
            budget -= 1
        self._bound = max(self.max_bytes, self.bytes + self.reserved)
        return bool(self._count) and self.bytes > room

    # What is being collected.

    def reserve(self, count: int) -> bool:
        """Ask to collect *count* more bytes of an answer; give them back with :meth:`release`.

        :param count: of one read, so that the room is made a little at a time.
        :returns: whether there is room: all that is being collected stays within half of
            ``most_bytes``, that a few large answers do not drive out all the others.
        """
        if self.reserved + count > self.max_bytes // 2 or not self._make_room(count):
            return False
        self.reserved += count
        return True

    def release(self, count: int) -> None:
        """Give back bytes that :meth:`reserve` granted."""
        self.reserved -= count


def _is_gone(entry: Entry) -> bool:
    bucket = entry.bucket
    return bucket is None or bucket.gone or bucket.shelf.gone


def _shards() -> list[OrderedDict[bytes, Entry]]:
    """Of the entries; in each the least recently used first."""
    return [OrderedDict() for _ in range(SHARDS)]


def _index() -> list[dict[bytes, PathIndex]]:
    return [{} for _ in range(SHARDS)]


def _remembered(owner: bytes) -> int:
    """Where in the table the writes of *owner* are remembered."""
    return (owner[0] << 8 | owner[1]) % _WRITES_REMEMBERED
