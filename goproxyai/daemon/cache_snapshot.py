"""The cache survives a restart: written on a clean stop, restored and removed at the start.

1. A file is restored once. It is removed before its first answer is put into the store, so that a
   later crash does not bring back answers that were cleared, or that a write made wrong, meanwhile.
2. It is authentic to its end before its first answer is put: it is read twice, rather than held.
   Both ways take the memory of some frames, a megabyte each, and of the answer at hand.
3. Whatever is wrong with the file costs the cache, never the start or the stop, and is one line.
4. A file that holds something and does not begin as ours do is not touched, ever; one of ours, of
   whatever version and key, is replaced. What is written becomes the file when all of it is on the
   disk.

The file holds bodies, which are people's data; sealed, it gives away its size, and nothing else to
whoever has not the key. No request's credential is in it, whoever has the key: the keys of the
cache are digests (:mod:`~.policy.cachekey`), and so are owners. Whoever can write to the directory
can take the file away, or put back an older one of ours; no entry outlives its time even so.
Reading and writing block: nothing is served yet, or no longer.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

import attrs
from twisted.logger import Logger

from goproxyai.cache import snapshot_format, snapshot_stream
from goproxyai.cache.entry import Entry
from goproxyai.cache.store import Store

_log = Logger(namespace="goproxyai.daemon.cache_snapshot")


@attrs.define(eq=False)
class CacheSnapshot:
    """The file, and the store that it is of.

    :param path: where the file lies; ``.new`` is appended while it is written.
    :param key: the passphrase.
    :param seconds: the monotonic clock of the store.
    :param wall: the wall clock, unix seconds.
    :param upstream: whose answers these are; those of another are refused.
    """

    path: str
    key: str = attrs.field(repr=False)
    store: Store = attrs.field(repr=False)
    seconds: Callable[[], float]
    wall: Callable[[], float] = time.time
    upstream: str = ""

    def load(self) -> None:
        """Restore what there is, into a store that is empty; it stays so if anything is wrong."""
        path = self.path
        try:
            with _regular(path) as file:
                count = self._restore(file, path)
        except FileNotFoundError:
            _log.debug("no cache to restore from {path}", path=self.path)
        except (snapshot_stream.SnapshotError, OSError) as error:
            self.store.clear()
            _log.warn(
                "cannot restore the cache from {path}: {reason}",
                path=self.path,
                reason=_reason(error),
            )
        else:
            _log.info(
                "restored {restored} of {count} answers from {path}",
                restored=len(self.store),
                count=count,
                path=self.path,
            )

    def save(self) -> None:
        """Write what the store holds; remove a file of ours if that is nothing."""
        path = self.path  # a link there is replaced, and not written through
        try:
            if _start(path) not in (None, b"", snapshot_stream.MAGIC):
                raise snapshot_stream.SnapshotError(snapshot_stream.NOT_A_SNAPSHOT)
            now, wall = self.seconds(), self.wall()
            # What a restart would not revive is not written.
            kept = [one for one in self.store if one.expires_at + self.store.stale_seconds > now]
            if not kept:
                _remove(path)
                return
            size = self._write(path, kept, wall - now)
        except (snapshot_stream.SnapshotError, OSError) as error:
            _log.warn(
                "cannot keep the cache in {path}: {reason}", path=self.path, reason=_reason(error)
            )
        else:
            _log.info(
                "kept {count} answers in {path}, {size} bytes",
                count=len(kept),
                path=self.path,
                size=size,
            )

    def _restore(self, file: BinaryIO, path: str) -> int:
        """Fill the store; returns how many answers the file holds."""
        header = file.read(snapshot_stream.HEADER_BYTES)
        if not header:
            return 0  # somebody made room for it
        key = self._key(header)
        count = sum(1 for _ in snapshot_format.read_records(file.read, header, key, self._context))
        _remove(path)
        file.seek(len(header))
        now, wall, store = self.seconds(), self.wall(), self.store
        for record in snapshot_format.read_records(file.read, header, key, self._context):
            entry = snapshot_format.restored_entry(record, now, wall, store.stale_seconds)
            if entry is not None:
                store.put(entry, record.path, record.owner, store.generation())
        return count

    def _write(self, path: str, entries: list[Entry], shift: float) -> int:
        """Write the file beside its place, then put it there; returns its size."""
        beside = f"{path}.new"
        start = _start(beside)
        if start is not None and snapshot_stream.MAGIC.startswith(
            start
        ):  # we were killed as we wrote it
            os.unlink(beside)
        number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with open(number, "wb") as file:
                size = self._fill(file, entries, shift)
            os.replace(beside, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(beside)
            raise
        _sync_directory(path)
        return size

    def _fill(self, file: BinaryIO, entries: list[Entry], shift: float) -> int:
        header = snapshot_stream.new_header(os.urandom(snapshot_stream.SALT_BYTES))
        records = (snapshot_format.record_of(entry, shift) for entry in entries)
        for frame in snapshot_format.write_records(
            records, header, self._key(header), self._context
        ):
            file.write(frame)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()

    def _key(self, header: bytes) -> bytes:
        return snapshot_stream.derive_key(header, self.key.encode())

    @property
    def _context(self) -> bytes:
        return self.upstream.encode()


@contextmanager
def _regular(path: str) -> Iterator[BinaryIO]:
    """The file at *path*, open for reading; it is refused if it is a pipe, or a device."""

    def at_once(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NONBLOCK)  # a pipe would keep us waiting

    with open(path, "rb", opener=at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise snapshot_stream.SnapshotError(snapshot_stream.NOT_A_SNAPSHOT)
        yield file


def _start(path: str) -> bytes | None:
    """What would tell the file at *path* as one of ours; ``None`` where there is no file."""
    try:
        with _regular(path) as file:
            return file.read(len(snapshot_stream.MAGIC))
    except FileNotFoundError:
        return None


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
        _sync_directory(path)


def _sync_directory(path: str) -> None:
    """Have the disk know what the directory of *path* holds (:manpage:`fsync(2)`)."""
    number = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _reason(error: snapshot_stream.SnapshotError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return str(error)
