"""The content of a cache snapshot: the stored responses, one record each.

:mod:`.record` has the format of a record, and :mod:`.snapshot_stream` authenticates the bytes
before they are parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from goproxyai.cache.record import Record, read_record, record_parts
from goproxyai.cache.snapshot_stream import DAMAGED, SnapshotError, decrypt, encrypt


def write_records(
    records: Iterable[Record], header: bytes, key: bytes, context: bytes
) -> Iterator[bytes]:
    """Yield the parts of a snapshot file.

    :param records: in the order in which :func:`read_records` yields them.
    :param header: made by :func:`~.snapshot_stream.new_header`, and not used before.
    :param key: made by :func:`~.snapshot_stream.derive_key`.
    :param context: see :mod:`.snapshot_stream`.
    """
    parts = (part for record in records for part in record_parts(record))
    yield header
    yield from encrypt(parts, header, key, context)


def read_records(
    read: Callable[[int], bytes], header: bytes, key: bytes, context: bytes
) -> Iterator[Record]:
    """Yield the records of a snapshot file.

    Each record is authentic when it is yielded. Whether the file is complete is known at the end.

    :param read: returns the given number of bytes that follow the header, fewer at the end.
    :raises SnapshotError: if the file is not what :func:`write_records` made.
    """
    content = _Content(decrypt(read, header, key, context))
    while not content.at_end():
        yield read_record(content.take)


class _Content:
    """Reads chunks as one sequence of bytes."""

    __slots__ = ("_chunk", "_chunks", "_position")

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._position = 0

    def at_end(self) -> bool:
        """Whether no byte is left; reads the next chunk if the current one is used up."""
        while self._position == len(self._chunk):
            chunk = next(self._chunks, None)
            if chunk is None:
                return True
            self._chunk, self._position = chunk, 0
        return False

    def take(self, count: int) -> bytes:
        """Return the next *count* bytes; never allocates more than the content has.

        :raises SnapshotError: if there are fewer bytes.
        """
        start, end = self._position, self._position + count
        if end <= len(self._chunk):
            self._position = end
            return self._chunk[start:end]
        parts = []
        while count:
            if self.at_end():
                raise SnapshotError(DAMAGED)
            part = self._chunk[self._position : self._position + count]
            self._position += len(part)
            count -= len(part)
            parts.append(part)
        return b"".join(parts)
