"""Messages with records: they take their turn, so that small messages are not delayed.

1. At most :data:`WINDOW_BYTES` of records are on the way. The other end says what it has read. So
   they never fill the transport's buffer, where messages about tokens would be left out, and a
   small message waits for at most as many bytes.
2. A message of more than :data:`PART_BYTES` is sent in parts. Small messages, and announcements of
   writes too, may overtake parts: generations tell whether a record is outdated.
3. At most :data:`MAX_QUEUED_BYTES` wait; beyond them a record is not sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from goproxyai.state.messages import (
    EndClaim,
    Found,
    FrameError,
    Message,
    Part,
    Store,
    Taken,
    decode,
    encode,
)

PART_BYTES: Final = 32 * 1024

WINDOW_BYTES: Final = 96 * 1024
"""Below the size of a socket's buffer, 208 KB on Linux."""

TAKEN_BYTES: Final = 32 * 1024
"""Bytes of records after which the receiver says that it has read them."""

MAX_QUEUED_BYTES: Final = 4 * 1024 * 1024

MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
"""Of a message in parts. Bounds what the receiver collects."""

_OVERHEAD_BYTES = 200
"""What a small message is counted for besides its record."""


def _size(message: Message) -> int:
    """Return the bytes that *message* is counted for at both ends."""
    if isinstance(message, (Store, Found)):
        return len(message.record) + _OVERHEAD_BYTES
    if isinstance(message, Part):
        return len(message.data)
    assert isinstance(message, EndClaim), message
    return 0


class RecordQueue:
    """The sender's side.

    :param send: sends a message at once.
    """

    def __init__(self, send: Callable[[Message], object]) -> None:
        self._send = send
        self._queue: deque[Message] = deque()
        self._queued = 0
        self._on_the_way = 0

    def add(self, message: Found | Store) -> bool:
        """Send *message* when its turn comes; ``False`` if the queue is full."""
        size = _size(message)
        if size > MAX_MESSAGE_BYTES or self._queued + size > MAX_QUEUED_BYTES:
            return False
        if size <= PART_BYTES:
            self._enqueue(message)
        else:
            payload = encode(message)
            for begin in range(0, len(payload), PART_BYTES):
                end = begin + PART_BYTES
                self._enqueue(Part(payload[begin:end], end >= len(payload)))
        self._send_next()
        return True

    def add_last(self, message: EndClaim) -> None:
        """Send *message* after the records that wait."""
        self._enqueue(message)
        self._send_next()

    def taken(self, size: int) -> None:
        """The other end has read *size* more bytes."""
        self._on_the_way -= size
        self._send_next()

    def clear(self) -> None:
        """Drop what waits: the connection is lost."""
        self._queue.clear()
        self._queued = 0

    def _enqueue(self, message: Message) -> None:
        self._queue.append(message)
        self._queued += _size(message)

    def _send_next(self) -> None:
        while self._queue and self._on_the_way < WINDOW_BYTES - PART_BYTES:
            message = self._queue.popleft()
            size = _size(message)
            self._queued -= size
            self._on_the_way += size
            self._send(message)


class RecordReader:
    """The receiver's side.

    :param send: sends a message at once.
    """

    def __init__(self, send: Callable[[Message], object]) -> None:
        self._send = send
        self._parts = bytearray()
        self._taken = 0

    def add(self, message: Found | Store | Part) -> Message | None:
        """Return the message that *message* is or completes.

        :raises FrameError: the parts are too large, or are no message.
        """
        self._taken += _size(message)
        if self._taken >= TAKEN_BYTES:
            self._send(Taken(self._taken))
            self._taken = 0
        if not isinstance(message, Part):
            return message
        self._parts += message.data
        if len(self._parts) > MAX_MESSAGE_BYTES + PART_BYTES:
            raise FrameError(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
        if not message.last:
            return None
        parts, self._parts = self._parts, bytearray()
        return decode(parts)
