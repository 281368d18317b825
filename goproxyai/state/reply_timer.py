"""Deadlines of replies from another process, judged after the reactor has read.

A process that is busy reads replies late: their deadlines have passed, and the replies are in the
kernel. So a deadline that has passed is judged in the next iteration of the reactor, after a read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

NEVER: Final = float("inf")
"""The deadline where no reply is waited for."""


class ReplyTimer:
    """One timer for the deadlines of many replies.

    Times are seconds of the reactor's clock.

    :param judge: called with a time up to which the reactor has read: replies that were due by then
        are overdue. Returns the earliest deadline of the other replies, or :data:`NEVER`.
    """

    __slots__ = ("_call", "_clock", "_due", "_judge")

    def __init__(self, clock: IReactorTime, judge: Callable[[float], float]) -> None:
        self._clock = clock
        self._judge = judge
        self._call: IDelayedCall | None = None
        self._due = NEVER

    def expect(self, due: float) -> None:
        """Call ``judge`` soon after *due*, at the latest.

        A reply that arrives in time costs no more: the timer then finds that nothing is overdue.
        """
        if due < self._due:
            self.stop()
            self._due = due
            delay = max(0.0, due - self._clock.seconds())
            self._call = self._clock.callLater(delay, self._passed)

    def stop(self) -> None:
        """Forget the deadlines."""
        call, self._call, self._due = self._call, None, NEVER
        if call is not None:
            call.cancel()

    def _passed(self) -> None:
        """A deadline has passed: judge it after the read of this iteration."""
        self._call = self._clock.callLater(0, self._judge_until, self._clock.seconds())

    def _judge_until(self, read_until: float) -> None:
        self._call, self._due = None, NEVER
        self.expect(self._judge(read_until))
