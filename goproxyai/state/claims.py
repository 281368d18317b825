"""Which process asks upstream for a key, and which look-ups wait for it.

1. A key has at most one exclusive claim. A look-up that asks for a claim while there is one waits.
2. A claim notes the generation of the second level at the look-up (:mod:`.shared_write_log`). A
   claim that a write or a clearing has overtaken is replaced by the next look-up: its response will
   be refused. The look-ups that wait for the old claim wait for the new one.
3. A claim is identified by its number, so that a process whose claim was replaced, or was passed on
   because the process did not respond, ends no claim of another process.
4. A claim that is given up is passed on to the look-up that has waited the longest.
5. Where a process may have claimed the key without a question (:mod:`.claim_marks`), the look-up
   waits until the process has confirmed the claim. If it has none, or one that is overtaken, the
   next such process is asked, and then the look-up gets the claim.
6. Claims and waiting look-ups are bounded, by :data:`MAX_CLAIMS` and :data:`MAX_WAITING`.

Pure: what follows for the processes is returned, and sent by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import attrs

MAX_CLAIMS: Final = 50_000
"""A claim takes about 600 bytes."""

MAX_WAITING: Final = 50_000
"""Look-ups that wait, of all keys."""

NOT_EXCLUSIVE: Final = 0
"""Stands for the number of a claim that no look-up waits for."""

Holder = TypeVar("Holder")
"""Identifies a process; hashable."""


class Waiter(NamedTuple, Generic[Holder]):
    """A look-up that waits.

    :ivar holder: the process. :ivar number: identifies the look-up in its process.
    """

    holder: Holder
    number: int


class Passed(NamedTuple, Generic[Holder]):
    """A claim that was passed on: it has *number* now, and the look-up *to* has it."""

    to: Waiter[Holder]
    number: int


class Question(NamedTuple, Generic[Holder]):
    """Ask *holder* whether it has claimed *key*; the claim has *number* if so."""

    holder: Holder
    number: int
    key: bytes


class Marks(Protocol):
    """Learns which keys have claims; see :class:`.ClaimMarks`."""

    def begin(self, key: bytes) -> None: ...
    def end(self, key: bytes) -> None: ...


class NoMarks:
    """There are no processes that claim without a question."""

    def begin(self, key: bytes) -> None:
        """Do nothing."""

    def end(self, key: bytes) -> None:
        """Do nothing."""


def no_candidates() -> Sequence[Holder]:
    """Return no processes."""
    return ()


@attrs.define(eq=False)
class _Claim(Generic[Holder]):
    """An exclusive claim.

    :ivar generation: of the second level when the claim was made.
    :ivar waiters: in the order of their arrival.
    :ivar candidates: processes that are to be asked next.
    :ivar is_marked: whether the holder has, or may have, claimed the key without a question.
    """

    key: bytes
    number: int
    holder: Holder
    generation: int
    waiters: dict[Waiter[Holder], None] = attrs.field(factory=dict)
    candidates: Sequence[Holder] = ()
    is_marked: bool = False


class Claims(Generic[Holder]):
    """The claims of all processes.

    :param marks: learns which keys have claims.
    :ivar waiting: number of look-ups that wait.
    """

    def __init__(
        self,
        max_claims: int = MAX_CLAIMS,
        max_waiting: int = MAX_WAITING,
        marks: Marks | None = None,
    ) -> None:
        self._marks = marks or NoMarks()
        self._max_claims = max_claims
        self._max_waiting = max_waiting
        self._numbers = count(1)
        self._claims: dict[bytes, _Claim[Holder]] = {}  # by key
        self._numbered: dict[int, _Claim[Holder]] = {}
        self._waited_for: dict[Waiter[Holder], _Claim[Holder]] = {}

    def __len__(self) -> int:
        return len(self._claims)

    @property
    def unmarked(self) -> int:
        """The number of claims that were made here."""
        return sum([not claim.is_marked for claim in self._claims.values()])

    @property
    def waiting(self) -> int:
        return len(self._waited_for)

    def claim(
        self,
        key: bytes,
        waiter: Waiter[Holder],
        generation: int,
        is_overtaken: Callable[[int], bool],
        candidates: Callable[[], Sequence[Holder]] = no_candidates,
    ) -> int | Question[Holder] | None:
        """Return the number of a new claim; ``None`` if *waiter* waits for another process.

        :param generation: of the second level at present.
        :param is_overtaken: whether a response to a request of the given generation is outdated.
        :param candidates: returns the processes that may have claimed the key without a question.
        :returns: :data:`NOT_EXCLUSIVE` where a bound is reached; a question if *waiter* waits for
            the answer to it.
        """
        claim = self._claims.get(key)
        if claim is None:
            if len(self._claims) >= self._max_claims:
                return NOT_EXCLUSIVE
            claim = self._claims[key] = _Claim(key, 0, waiter.holder, generation)
            self._marks.begin(key)  # before the marks of the candidates are read
            claim.candidates = tuple(candidates())
            if claim.candidates and len(self._waited_for) < self._max_waiting:
                self._wait(claim, waiter)
                return self._ask_next(claim, generation)
        elif not is_overtaken(claim.generation):
            if len(self._waited_for) >= self._max_waiting:
                return NOT_EXCLUSIVE
            self._wait(claim, waiter)
            return None
        return self._hand_over(claim, waiter.holder, generation)

    def confirm(self, number: int, generation: int) -> None:
        """The process that was asked has the claim *number*, if it still exists.

        :param generation: of the second level at the look-up of that process.
        """
        claim = self._numbered.get(number)
        if claim is not None:
            claim.generation = generation
            claim.candidates = ()

    def end(self, number: int) -> list[Waiter[Holder]]:
        """End the claim *number*, if it still exists; return the look-ups that waited for it."""
        claim = self._numbered.get(number)
        if claim is None:
            return []
        self._remove(claim)
        return self._released(claim)

    def pass_on(self, number: int, generation: int) -> Passed[Holder] | Question[Holder] | None:
        """Give the claim *number*, if it still exists, to a look-up that waits; else end it.

        :returns: a question if there is one more process to ask first.
        """
        claim = self._numbered.get(number)
        if claim is None:
            return None
        if claim.candidates:
            return self._ask_next(claim, generation)
        if not claim.waiters:
            self._remove(claim)
            return None
        first = next(iter(claim.waiters))
        self.forget(first)
        return Passed(first, self._hand_over(claim, first.holder, generation))

    def forget(self, waiter: Waiter[Holder]) -> None:
        """The look-up no longer waits, if it did."""
        claim = self._waited_for.pop(waiter, None)
        if claim is not None:
            del claim.waiters[waiter]

    def held_by(self, holder: Holder) -> list[int]:
        """Return the numbers of the claims of a process."""
        return [number for number, each in self._numbered.items() if each.holder == holder]

    def forget_all(self, holder: Holder) -> None:
        """No look-up of the process waits any longer."""
        for waiter in [each for each in self._waited_for if each.holder == holder]:
            self.forget(waiter)

    def waiting_holders(self) -> set[Holder]:
        """Return the processes in which look-ups wait."""
        return {waiter.holder for waiter in self._waited_for}

    def _wait(self, claim: _Claim[Holder], waiter: Waiter[Holder]) -> None:
        claim.waiters[waiter] = None
        self._waited_for[waiter] = claim

    def _ask_next(self, claim: _Claim[Holder], generation: int) -> Question[Holder]:
        holder, *others = claim.candidates
        number = self._hand_over(claim, holder, generation)
        claim.candidates, claim.is_marked = others, True
        return Question(holder, number, claim.key)

    def _hand_over(self, claim: _Claim[Holder], holder: Holder, generation: int) -> int:
        self._numbered.pop(claim.number, None)
        claim.number, claim.holder, claim.generation = next(self._numbers), holder, generation
        self._numbered[claim.number] = claim
        claim.candidates, claim.is_marked = (), False
        return claim.number

    def _remove(self, claim: _Claim[Holder]) -> None:
        del self._claims[claim.key], self._numbered[claim.number]
        self._marks.end(claim.key)

    def _released(self, claim: _Claim[Holder]) -> list[Waiter[Holder]]:
        waiters = list(claim.waiters)
        claim.waiters.clear()
        for waiter in waiters:
            del self._waited_for[waiter]
        return waiters
