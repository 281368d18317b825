"""A list of records that a test can wait on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

T = TypeVar("T")
R = TypeVar("R")

TIMEOUT_SECONDS = 5.0
"""The default limit of a wait."""


class RecordList(Generic[T]):
    """An ordered list of mutable records, with waits for a condition on them.

    Code that alters a record, or anything else that a condition reads, calls :meth:`changed`.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._records: list[T] = []
        self._checks: list[Callable[[], None]] = []

    def __iter__(self) -> Iterator[T]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> T:
        return self._records[index]

    def add(self, record: T) -> None:
        self._records.append(record)
        self.changed()

    def changed(self) -> None:
        """Evaluate the conditions of all waits."""
        for check in list(self._checks):
            check()

    def wait_for(
        self, predicate: Callable[[T], bool], timeout: float = TIMEOUT_SECONDS
    ) -> Deferred[T]:
        """The first record that satisfies *predicate*, immediately if one does already.

        Fails with :class:`twisted.internet.defer.TimeoutError` after *timeout* seconds.
        """
        return self._wait(lambda: next(filter(predicate, self._records), None), timeout)

    def wait_until(
        self, condition: Callable[[], bool], timeout: float = TIMEOUT_SECONDS
    ) -> Deferred[bool]:
        """Fires when *condition* holds; fails as :meth:`wait_for` does."""
        return self._wait(lambda: condition() or None, timeout)

    def _wait(self, probe: Callable[[], R | None], timeout: float) -> Deferred[R]:
        done: Deferred[R] = Deferred(lambda _: self._checks.remove(check))

        def check() -> None:
            found = probe()
            if found is not None and check in self._checks:
                self._checks.remove(check)
                done.callback(found)

        self._checks.append(check)
        check()
        if not done.called:
            done.addTimeout(timeout, self._clock)
        return done
