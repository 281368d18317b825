"""Whether a response is outdated: did a write or a clearing happen during its upstream request?

A generation number counts the writes and clearings. A request notes the generation when it is sent.
Its response is outdated if a clearing, or a write of the same owner, has a later generation.

The last write of each owner is kept in a table of fixed size that owners share by hash. A collision
can refuse a response that is not outdated; an outdated response is always refused.
"""

from __future__ import annotations

from typing import Final

UNOWNED: Final = b"computed"
"""The owner of responses that no write outdates: those to completions and embeddings."""

_TABLE_SIZE = 1024


class WriteLog:
    """The generations of clearings and of each owner's last write.

    :ivar generation: the number of writes and clearings so far.
    """

    __slots__ = ("_last_clearing", "_last_writes", "generation")

    def __init__(self) -> None:
        self.generation = 0
        self._last_clearing = 0
        self._last_writes = [0] * _TABLE_SIZE

    def record_write(self, owner: bytes) -> None:
        """Count a successful write of *owner*."""
        self.generation += 1
        self._last_writes[_position(owner)] = self.generation

    def record_clearing(self) -> None:
        """Count a clearing, of one path or of all."""
        self.generation += 1
        self._last_clearing = self.generation

    def is_outdated(self, owner: bytes, generation: int) -> bool:
        """Whether the response to a request of *generation* is outdated."""
        if generation == self.generation:
            return False
        return generation < self._last_clearing or (
            owner != UNOWNED and generation < self._last_writes[_position(owner)]
        )


def _position(owner: bytes) -> int:
    return (owner[0] << 8 | owner[1]) % _TABLE_SIZE
