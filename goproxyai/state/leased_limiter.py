"""The rate limit of a process that leases tokens, see :mod:`.leases`.

A request without a token waits for the grantor's answer. The parent answers by a round trip over a
socket pair. If there is no answer within :data:`ANSWER_SECONDS`, the request is refused, and so are
the client's requests of the next :data:`REFUSED_SECONDS`: the limit is rather too strict than
exceeded. For Redis, :mod:`.redis.limiter` decides otherwise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from goproxyai.state.leases import UNDECIDED, Grant, LeaseHolder
from goproxyai.state.reply_timer import NEVER, ReplyTimer
from goproxyai.state.shared_state import TokensLeft

ANSWER_SECONDS: Final = 1.0
"""The longest time that a request waits for the parent, which answers within a millisecond unless
the machine is overloaded. With 100 ms, some clients far below the limit were refused then."""

REFUSED_SECONDS: Final = 1.0

SWEEP_SECONDS: Final = 1.0
"""Between two searches for idle clients."""

SWEEP_SLICE: Final = 5_000

MAX_WAITING: Final = 10_000
"""Requests that wait for the grantor; others are decided at once, as without an answer."""


Then = Callable[[float], None]
"""Takes a decision: 0.0, or the seconds until the next token."""


@attrs.frozen
class LatePolicy:
    """What happens without an answer of the grantor.

    :ivar answer_seconds: the longest time that a request waits for answers.
    :ivar refused_seconds: time after a missing answer in which the client's requests are refused.
    :ivar decide: decides about a request that has waited too long.
    """

    answer_seconds: float
    refused_seconds: float
    decide: Callable[[str, Then], None]


REFUSE: Final = LatePolicy(ANSWER_SECONDS, REFUSED_SECONDS, lambda _, then: then(REFUSED_SECONDS))
"""The request is refused."""


_Waiting = deque[tuple[float, Then]]
"""A client's requests that wait for an answer, oldest first, with the times at which they have to
be decided."""


class LeasedLimiter:
    """Limits the rate of each client: a :class:`~.shared_state.RateLimiter`.

    :param per_minute: tokens per minute and client; 0 turns the limit off.
    :param ask: asks the grantor for tokens of a client.
    :param put_back: gives unused tokens back.
    """

    def __init__(
        self,
        clock: IReactorTime,
        per_minute: int,
        ask: Callable[[str, int], None],
        put_back: Callable[[list[tuple[str, int]]], None],
        late: LatePolicy = REFUSE,
    ) -> None:
        self.buckets = LeaseHolder(max(per_minute, 1))
        self._clock = clock
        self._seconds = clock.seconds
        self._ask = ask
        self._put_back = put_back
        self._late_policy = late
        self._waiting: dict[str, _Waiting] = {}
        self._timer = ReplyTimer(clock, self._judge)
        self._requests_waiting = 0
        self._sweep_call: IDelayedCall | None = None

    def start(self) -> None:
        self._sweep_call = self._clock.callLater(SWEEP_SECONDS, self._sweep)

    def stop(self) -> None:
        """Give back all tokens, and decide about what waits."""
        if self._sweep_call is not None:
            self._sweep_call.cancel()
            self._sweep_call = None
        self._timer.stop()
        self._end_all_waiting()
        self.buckets.drop_all()
        self._give_back()

    def grantor_lost(self) -> None:
        """Forget all tokens and questions, and decide about what waits: no answers will arrive."""
        self._timer.stop()
        self.buckets.forget_all()
        self._end_all_waiting()

    def _end_all_waiting(self) -> None:
        for client in tuple(self._waiting):
            self._end_waiting(client)

    def set_rate(self, per_minute: int) -> None:
        """Change the rate; 0 turns the limit off."""
        if per_minute:
            self.buckets.set_rate(per_minute)
        else:
            self.buckets.drop_all()
        self._give_back()

    def take(self, client: str) -> float:
        """Take a token; see :meth:`.LeaseHolder.take`. Ask for more ahead of need."""
        if client in self._waiting:
            return UNDECIDED
        now = self._seconds()
        decision = self.buckets.take(client, now)
        if not decision:
            wanted = self.buckets.wanted(client, now, waiting=False)
            if wanted:
                self._ask(client, wanted)
        return decision

    def tokens(self, client: str) -> TokensLeft:
        """Return the leased tokens of a client; see :class:`~.shared_state.RateLimiter`."""
        return TokensLeft(self.buckets.held(client), False)

    def when_decided(self, client: str, then: Then) -> None:
        """Call *then* with the decision."""
        if self._requests_waiting >= MAX_WAITING:
            self._late_policy.decide(client, then)
            return
        due = self._seconds() + self._late_policy.answer_seconds
        self._waiting.setdefault(client, deque()).append((due, then))
        self._requests_waiting += 1
        self._timer.expect(due)
        self._ask_for(client)

    def granted(self, client: str, grant: Grant) -> None:
        """The grantor has answered."""
        now = self._seconds()
        self.buckets.granted(client, grant, now)
        waiting = self._waiting.get(client)
        while waiting:
            decision = self.buckets.take(client, now)
            if decision == UNDECIDED:
                self._ask_for(client)
                break
            self._requests_waiting -= 1
            waiting.popleft()[1](decision)
        if self._waiting.get(client) == deque():
            del self._waiting[client]
        self._give_back()

    def not_answered(self, client: str) -> None:
        """The grantor will not answer the question about *client*."""
        self.buckets.unanswered(client, self._seconds(), self._late_policy.refused_seconds)
        self._end_waiting(client)

    def _ask_for(self, client: str) -> None:
        wanted = self.buckets.wanted(client, self._seconds(), waiting=True)
        if wanted:
            self._ask(client, wanted)

    def _judge(self, read_until: float) -> float:
        """Decide about clients without an answer; return when the next one is to be decided."""
        overdue = [
            client for client, waiting in self._waiting.items() if waiting[0][0] <= read_until
        ]
        for client in overdue:
            self.not_answered(client)
        return min([waiting[0][0] for waiting in self._waiting.values()], default=NEVER)

    def _end_waiting(self, client: str) -> None:
        waiting = self._waiting.pop(client, None)
        while waiting:
            self._requests_waiting -= 1
            self._late_policy.decide(client, waiting.popleft()[1])

    def _sweep(self) -> None:
        self._sweep_call = self._clock.callLater(SWEEP_SECONDS, self._sweep)
        self.buckets.drop_idle(self._seconds(), SWEEP_SLICE)
        self._give_back()

    def _give_back(self) -> None:
        given = self.buckets.given_back()
        if given:
            self._put_back(given)
