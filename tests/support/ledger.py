"""What a double has seen so far, and a way to wait for more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 5.0
"""Seconds that a wait lasts at most, unless told otherwise."""


class Ledger(Generic[T]):
    """An ordered list of records that change, and those who wait for a change.

    Whoever alters a record, or anything that a wait may look at, calls :meth:`changed`.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._records: list[T] = []
        self._waits: list[Callable[[], None]] = []

    def __iter__(self) -> Iterator[T]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> T:
        return self._records[index]

    def add(self, record: T) -> None:
        """Write *record* down."""
        self._records.append(record)
        self.changed()

    def changed(self) -> None:
        """Look again whether somebody's wait is over."""
        for look in list(self._waits):
            look()

    def wait_for(self, predicate: Callable[[T], bool], timeout: float = PATIENCE) -> Deferred[T]:
        """The first record that satisfies *predicate*, at once if there is one.

        Fails with :class:`twisted.internet.defer.TimeoutError` after *patience* seconds.
        """
        return self._wait(lambda: next(filter(predicate, self._records), None), timeout)

    def wait_until(
        self, condition: Callable[[], bool], timeout: float = PATIENCE
    ) -> Deferred[bool]:
        """Fires when *condition* holds; fails as :meth:`wait_for` does."""
        return self._wait(lambda: condition() or None, timeout)

    def _wait(self, probe: Callable[[], R | None], timeout: float) -> Deferred[R]:
        done: Deferred[R] = Deferred(lambda _: self._waits.remove(look))

        def look() -> None:
            found = probe()
            if found is not None and look in self._waits:
                self._waits.remove(look)
                done.callback(found)

        self._waits.append(look)
        look()
        if not done.called:
            done.addTimeout(timeout, self._clock)
        return done
