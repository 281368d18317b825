"""Holders and their grantor without a transport, and one process with the same requests."""

from __future__ import annotations

from goproxyai.limits.token_buckets import TokenBuckets
from goproxyai.state.leases import UNDECIDED, Grantor, LeaseHolder, lease_size

TICK_SECONDS = 0.1
CLIENT = "198.51.100.7"


class LeaseSimulation:
    """One client that sends requests to several holders.

    :ivar lost: tokens that holders had when they died.
    :ivar admitted: by the holders. :ivar admitted_by_one: by one process.
    :ivar questions: that the grantor was asked.
    """

    def __init__(self, per_minute: int, holders: int) -> None:
        self.per_minute = per_minute
        self.lease = lease_size(per_minute)
        self.buckets, self.reference = TokenBuckets(per_minute), TokenBuckets(per_minute)
        self.grantor = Grantor(self.buckets, holders)
        self.holders = [LeaseHolder(per_minute) for _ in range(holders)]
        self.ticks = 0
        self.lost = self.admitted = self.admitted_by_one = self.questions = 0

    @property
    def now(self) -> float:
        return self.ticks * TICK_SECONDS

    def tick(self) -> None:
        """Let time pass; idle clients are dropped as by the sweep."""
        self.ticks += 1
        for each in (self.buckets, self.reference):
            each.refill(TICK_SECONDS)
        for holder in self.holders:
            holder.drop_idle(self.now, 10)
            self._put_back(holder)

    def request(self, number: int) -> bool:
        """Send a request to a holder, and to the one process; return whether it was admitted."""
        self.admitted_by_one += not self.reference.take(CLIENT)
        holder = self.holders[number]
        decision = holder.take(CLIENT, self.now)
        if decision == UNDECIDED:
            self._ask(holder, waiting=True)
            decision = holder.take(CLIENT, self.now)
            assert decision != UNDECIDED, "the grantor has granted or refused"
        self._ask(holder, waiting=False)
        self.admitted += not decision
        return not decision

    def kill(self, number: int) -> None:
        """Replace a holder; what it had is lost."""
        dead = self.holders[number]
        dead.drop_all()
        self.lost += sum(tokens for _, tokens in dead.given_back())
        self.holders[number] = LeaseHolder(self.per_minute)

    def _ask(self, holder: LeaseHolder, waiting: bool) -> None:
        wanted = holder.wanted(CLIENT, self.now, waiting)
        if wanted:
            self.questions += 1
            grant = self.grantor.grant(CLIENT, wanted, self.lease)
            holder.granted(CLIENT, grant, self.now)
            self._put_back(holder)

    def _put_back(self, holder: LeaseHolder) -> None:
        for client, tokens in holder.given_back():
            self.grantor.put_back(client, tokens, self.lease)
