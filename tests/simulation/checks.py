"""What must hold, whatever happened.

1. Every request is answered or its client is gone; nothing is left behind of any; each has its one
   event, and nothing was logged that is a defect.
2. What ends as a whole answer is, to the byte, one that upstream gave to that question, by its
   framing and its end; what was cut off is the beginning of one, and does not pass for whole.
3. An answer that is one credential's is got by it alone, and one that may not be shared by one
   request alone; nobody gets another's cookies, nor learns in a shared namespace who asked.
4. A request is sent again only where that does no harm, and at most three times.
5. Upstream is read only while somebody takes what comes, and the store keeps to its bound.
6. What has expired is an answer only where upstream failed, or where the client takes it; what
   was asked before the cache was emptied is none to who comes later.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from goproxyai.http11.response import ResponseReceiver
from goproxyai.upstream.retries import MAX_ATTEMPTS, RetryCause
from tests.simulation.clients import Got
from tests.simulation.endings import WHOLE
from tests.simulation.messages import Answer, Wrong, read
from tests.simulation.plans import RETRY_STATUS
from tests.simulation.upstreams import Asked

if TYPE_CHECKING:
    from tests.simulation.world import World

TELLING = 40
"""Bytes of a body that is like no other: shorter ones may be equal by chance."""

_EXPIRED = re.compile(rb"ttl=-[1-9]")


def check_now(world: World) -> None:
    """At any time."""
    if world.store.bytes > world.store.max_bytes:
        raise Wrong(f"the store takes {world.store.bytes} bytes of {world.store.max_bytes}")


def check_step(world: World, asked: Asked) -> None:
    """Before upstream is read."""
    if asked.response is not None:
        if not any(client.takes(asked.target) for client in world.there()):
            raise Wrong("upstream is read, and nobody takes what comes")


def check(world: World) -> None:
    """At the end."""
    _nothing_is_left(world)
    for receiver, tries in world.tries.items():
        _no_harm(receiver, tries)
    answered = Answered(world)
    for client in world.clients:
        for got in client.got:
            answered.judge(got)


def _nothing_is_left(world: World) -> None:
    hanging = [client for client in world.clients if client.active is not None]
    for what, left in (
        ("requests without an answer", len(hanging)),
        ("flights that others may board", len(world.relay.flights)),
        ("bytes reserved in the store", world.store.reserved),
        ("timers", len(world.clock.getDelayedCalls())),
        ("upstream requests", sum(not asked.done for asked in world.asked)),
    ):
        if left:
            raise Wrong(f"{what} are left: {left}")
    if len(world.events) != world.exchanges:
        raise Wrong(f"{len(world.events)} events of {world.exchanges} requests")
    if world.counters.open_streams:
        raise Wrong(f"open streams are left: {world.counters.open_streams}")
    if world.failures:
        raise Wrong(world.failures[0]["log_failure"].getTraceback()[-1500:])


def _no_harm(receiver: ResponseReceiver, tries: list[Asked]) -> None:
    if len(tries) > MAX_ATTEMPTS:
        raise Wrong(f"{type(receiver).__name__} asked {len(tries)} times")
    for asked in tries[:-1]:
        if asked.response is None:
            safe = asked.cause is RetryCause.CONNECT or (
                asked.cause is RetryCause.RESET and asked.method == b"GET"
            )
        else:
            safe = asked.status in RETRY_STATUS and asked.method == b"GET"
        if not safe:
            raise Wrong(f"sent again: {asked.subject!r}, which had ended {asked.ending}")


class Answered:
    """What upstream answered in a world, and who got it.

    The question is what was asked and by whom; of an answer that credentials share, whoever asks.
    """

    def __init__(self, world: World) -> None:
        self._whole: dict[tuple[bytes, bytes], set[tuple[int, bytes, int]]] = {}
        self._begun: dict[tuple[bytes, bytes], set[tuple[int, bytes, int]]] = {}
        self._own = {a.body for a in world.asked if a.own and len(a.body) > TELLING}
        self._got: Counter[bytes] = Counter()
        self._shared = world.shared
        for asked in world.asked:
            question = (asked.subject, b"" if asked.everybodys else asked.key)
            answer = (asked.status, asked.body, asked.epoch)
            self._begun.setdefault(question, set()).add(answer)
            if asked.ending == WHOLE:
                self._whole.setdefault(question, set()).add(answer)

    def judge(self, got: Got) -> None:
        """What one request was answered."""
        answer = read(got.raw)
        if answer is None:
            if got.done:
                raise Wrong(f"an answer without a head to {got.ask}")
        elif answer.ours:
            if answer.status not in (502, 503, 504) or not (answer.complete or not got.done):
                raise Wrong(f"an error of our own: {answer}")
        else:
            self._judge_head(got, answer)
            self._judge_body(got, answer)

    def _judge_head(self, got: Got, answer: Answer) -> None:
        if b"x-hop" in answer.fields:
            raise Wrong("a field of one hop was relayed")
        status = answer.first(b"cache-status")
        if b"hit" in status or b"collapsed" in status:
            if b"set-cookie" in answer.fields:
                raise Wrong("a cookie of somebody else's")
        if answer.first(b"openai-organization") not in (b"", got.ask.key):
            raise Wrong("it says who else asked")
        if _EXPIRED.search(status) and b"stale-if-error" not in status:
            if (b"Cache-Control", b"max-stale=100") not in got.ask.more:
                raise Wrong(f"expired: {status!r}")

    def _judge_body(self, got: Got, answer: Answer) -> None:
        subject, body = got.ask.subject, answer.body
        known = self._whole if got.done else self._begun
        mine = [
            whole
            for key in (b"", got.ask.key)
            for code, whole, epoch in known.get((subject, key), ())
            if code == answer.status and epoch >= got.epoch
        ]
        if got.done:
            if not answer.complete or body not in mine:
                raise Wrong(f"{got.ask} was answered {answer}")
            self._got[body] += 1
            if body in self._own and self._got[body] > 1:
                raise Wrong(f"an answer for one was given to others: {answer}")
            return
        if answer.complete and b"transfer-encoding" in answer.fields:
            raise Wrong(f"a part passes for the whole: {answer}")
        if not any(whole.startswith(body) for whole in mine):
            raise Wrong(f"{got.ask} was answered, in part, {answer}")
