"""The entries by the time at which they are removed: a timing wheel with slots of half a second."""

from __future__ import annotations

from typing import Any, Final

from goproxyai.cache.entry import Entry

SLOTS_PER_SECOND: Final = 2
"""An entry is removed at most 1/SLOTS_PER_SECOND seconds late."""

SLOT_OVERHEAD_BYTES: Final = 240


class ExpiryWheel:
    """Slots of entries; adding, removing and taking the next due entry take constant time.

    :param stale_seconds: time for which an expired entry is kept.
    """

    __slots__ = ("_first_slot", "_slots", "_stale_seconds")

    def __init__(self, stale_seconds: float) -> None:
        self._stale_seconds = stale_seconds
        self._slots: dict[int, set[Entry]] = {}
        self._first_slot = 0  # earlier slots are empty

    def _slot_of(self, entry: Entry) -> int:
        return int((entry.expires_at + self._stale_seconds) * SLOTS_PER_SECOND)

    def add(self, entry: Entry) -> int:
        """Add an entry; return the bytes of overhead that were added."""
        number = self._slot_of(entry)
        slot = self._slots.get(number)
        if slot is not None:
            slot.add(entry)
            return 0
        if number < self._first_slot or not self._slots:
            self._first_slot = number
        self._slots[number] = {entry}
        return SLOT_OVERHEAD_BYTES

    def remove(self, entry: Entry) -> int:
        """Remove an entry, which :meth:`next_due` may have taken; return the bytes freed."""
        number = self._slot_of(entry)
        slot = self._slots[number]
        slot.discard(entry)
        if slot:
            return 0
        del self._slots[number]
        return SLOT_OVERHEAD_BYTES

    def has_due(self, now: float) -> bool:
        """Whether slots before *now* are left to be visited."""
        return bool(self._slots) and self._first_slot < int(now * SLOTS_PER_SECOND)

    def next_due(self) -> Entry | None:
        """Take an entry out of the first slot, or go on to the next slot and return ``None``.

        The caller passes the entry to :meth:`remove`.
        """
        slot = self._slots.get(self._first_slot)
        if slot:
            return slot.pop()
        self._first_slot += 1
        return None

    def detach(self) -> list[Any]:
        """Become empty; return the containers that hold the entries."""
        slots, self._slots = self._slots, {}
        return [slots]
