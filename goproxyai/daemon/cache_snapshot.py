"""The cache snapshot: written at a clean stop, restored and removed at the start.

1. A snapshot is restored once. The file is removed before its first entry is put into the store, so
   that a later crash does not restore entries that have been cleared or invalidated meanwhile.
2. The whole file is authenticated before its first entry is put. The file is read twice for that,
   rather than held in memory: reading and writing take the memory of some chunks of 1 MiB and one
   entry.
3. A failure costs the cache, never the start or the stop, and is logged as one line.
4. A file that is not empty and does not begin as a snapshot does is never changed. A snapshot of
   any version and key is replaced. A new snapshot takes its name only when all of it is on disk.

The file holds response bodies. Encrypted, it reveals its size and nothing else without the key. No
credential of a request is in the file: cache keys (:mod:`goproxyai.cache.key`) and owners are
digests. A process that may write to the directory can remove the file, or replace it by an older
snapshot; entries expire as they would have without a restart even so.

Reading and writing block the reactor: no request is served before the start and after the stop.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import BinaryIO, Protocol

import attrs
from twisted.logger import Logger

from goproxyai.cache import snapshot_format, snapshot_stream
from goproxyai.cache.record import Record, record_of, restored_entry
from goproxyai.cache.store import Store
from goproxyai.config.settings import Settings

_log = Logger(namespace="goproxyai.daemon.cache_snapshot")


class SavedRecords(Protocol):
    """The responses that a snapshot has."""

    def __iter__(self) -> Iterator[Record]:
        """The responses, without those that a restart would drop."""

    def restore(self, records: Iterator[Record]) -> int:
        """Store those of *records* that have not expired; return how many are stored then."""

    def clear(self) -> None:
        """Drop all responses."""


@attrs.frozen
class StoreRecords:
    """The entries of a store: :class:`SavedRecords`.

    :param seconds: the monotonic clock of the store.
    :param wall: the wall clock, unix seconds.
    """

    _store: Store
    _seconds: Callable[[], float]
    _wall: Callable[[], float] = time.time

    def __iter__(self) -> Iterator[Record]:
        now, stale = self._seconds(), self._store.stale_seconds
        shift = self._wall() - now
        return (record_of(entry, shift) for entry in self._store if entry.expires_at + stale > now)

    def restore(self, records: Iterator[Record]) -> int:
        now, wall, store = self._seconds(), self._wall(), self._store
        for record in records:
            entry = restored_entry(record, now, wall, store.stale_seconds)
            if entry is not None:
                store.put(entry, record.path, record.owner, store.generation())
        return len(store)

    def clear(self) -> None:
        self._store.clear()


@attrs.define(eq=False)
class CacheSnapshot:
    """Saves stored responses to a file, and restores them.

    :param path: of the file; ``.new`` is appended while the file is written.
    :param key: the passphrase.
    :param records: of a cache.
    :param upstream: the URL of the upstream; a snapshot of another upstream is refused.
    """

    path: str
    key: str = attrs.field(repr=False)
    records: SavedRecords = attrs.field(repr=False)
    upstream: str = ""

    def load(self) -> None:
        """Restore the snapshot into the empty cache, which stays empty after a failure."""
        path = self.path
        try:
            with _open_regular(path) as file:
                restored, count = self._restore(file, path)
        except FileNotFoundError:
            _log.debug("no cache snapshot at {path}", path=path)
        except (snapshot_stream.SnapshotError, OSError) as error:
            self.records.clear()
            _log.warn(
                "cannot restore the cache from {path}: {reason}", path=path, reason=_reason(error)
            )
        else:
            _log.info(
                "restored {restored} of {count} cache entries from {path}",
                restored=restored,
                count=count,
                path=path,
            )

    def save(self) -> None:
        """Write the responses; remove an old snapshot where there are none."""
        path = self.path  # a symbolic link is replaced, its target is not written to
        try:
            if _read_magic(path) not in (None, b"", snapshot_stream.MAGIC):
                raise snapshot_stream.SnapshotError(snapshot_stream.NOT_A_SNAPSHOT)
            records = iter(self.records)
            first = next(records, None)
            if first is None:
                _remove(path)
                return
            count, size = self._write(path, chain((first,), records))
        except (snapshot_stream.SnapshotError, OSError) as error:
            _log.warn("cannot save the cache to {path}: {reason}", path=path, reason=_reason(error))
        else:
            _log.info(
                "saved {count} cache entries to {path}, {size} bytes",
                count=count,
                path=path,
                size=size,
            )

    def _restore(self, file: BinaryIO, path: str) -> tuple[int, int]:
        """Fill the cache; return the numbers of responses in it and in the file."""
        header = file.read(snapshot_stream.HEADER_BYTES)
        if not header:
            return 0, 0  # an empty file, made by the operator
        key = self._key(header)
        count = sum(1 for _ in snapshot_format.read_records(file.read, header, key, self._context))
        _remove(path)
        file.seek(len(header))
        records = snapshot_format.read_records(file.read, header, key, self._context)
        return self.records.restore(records), count

    def _write(self, path: str, records: Iterable[Record]) -> tuple[int, int]:
        """Write the file under a temporary name, then rename it.

        :returns: the number of responses, and the size of the file in bytes.
        """
        temporary = f"{path}.new"
        magic = _read_magic(temporary)
        if magic is not None and snapshot_stream.MAGIC.startswith(
            magic
        ):  # of a process that was killed
            os.unlink(temporary)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:
                written = self._write_frames(file, records)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_directory(path)
        return written

    def _write_frames(self, file: BinaryIO, records: Iterable[Record]) -> tuple[int, int]:
        """Write the content to the disk; return what :meth:`_write` does."""
        count = 0

        def counted() -> Iterator[Record]:
            nonlocal count
            for record in records:
                count += 1
                yield record

        header = snapshot_stream.new_header(os.urandom(snapshot_stream.SALT_BYTES))
        for frame in snapshot_format.write_records(
            counted(), header, self._key(header), self._context
        ):
            file.write(frame)
        file.flush()
        os.fsync(file.fileno())
        return count, file.tell()

    def _key(self, header: bytes) -> bytes:
        return snapshot_stream.derive_key(header, self.key.encode())

    @property
    def _context(self) -> bytes:
        return self.upstream.encode()


def snapshot_of(settings: Settings, records: SavedRecords) -> CacheSnapshot | None:
    """Return the snapshot of *records*; ``None`` where the cache is not kept across restarts."""
    path, key = settings.cache_snapshot, settings.cache_snapshot_key
    if path is None or key is None:
        return None
    return CacheSnapshot(path, key, records, upstream=settings.openai_url)


@contextmanager
def _open_regular(path: str) -> Iterator[BinaryIO]:
    """Open the file at *path* for reading; refuse a pipe or a device."""

    def open_without_waiting(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NONBLOCK)  # opening a pipe would wait for a writer

    with open(path, "rb", opener=open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise snapshot_stream.SnapshotError(snapshot_stream.NOT_A_SNAPSHOT)
        yield file


def _read_magic(path: str) -> bytes | None:
    """Return as many bytes of the file as a snapshot's magic has; ``None`` without a file."""
    try:
        with _open_regular(path) as file:
            return file.read(len(snapshot_stream.MAGIC))
    except FileNotFoundError:
        return None


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
        _sync_directory(path)


def _sync_directory(path: str) -> None:
    """Write the directory of *path* to the disk (:manpage:`fsync(2)`)."""
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: snapshot_stream.SnapshotError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return str(error)
