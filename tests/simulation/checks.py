"""The properties of every simulation.

1. Every request is answered, or its client has left. No request leaves anything behind, each has
   exactly one event, and no failure is logged.
2. A complete answer equals, byte for byte, one that an upstream sent to that question. A truncated
   answer is a prefix of one, and the client can tell that it is truncated.
3. An answer for one credential reaches only that credential. An answer that must not be shared
   reaches only one request. No client gets another's cookies or learns another's organization.
4. A request is sent again only if that is safe, and at most :data:`MAX_ATTEMPTS` times in all.
5. An upstream is read only while a client accepts its answer. The store keeps to its limit.
6. An expired answer is sent only if the upstream failed or the client accepts expired ones. A
   request sent after the cache was cleared gets no answer from before.
"""

from __future__ import annotations

import re
from collections import Counter

from goproxyai.http11.response import ResponseReceiver
from goproxyai.upstream.retries import MAX_ATTEMPTS, RetryCause
from tests.simulation.clients import Outcome
from tests.simulation.endings import WHOLE
from tests.simulation.messages import Answer, CheckFailed, parse
from tests.simulation.plans import RETRY_STATUS
from tests.simulation.simulation import Simulation
from tests.simulation.upstreams import Attempt

MIN_UNIQUE_BYTES = 40
"""The length from which on a body is unique; shorter bodies may be equal by coincidence."""

_EXPIRED = re.compile(rb"ttl=-[1-9]")


def check_invariants(simulation: Simulation) -> None:
    """Check what must hold at any time."""
    store = simulation.environment.store
    if store.bytes > store.max_bytes:
        raise CheckFailed(f"the store has {store.bytes} bytes, over its limit {store.max_bytes}")


def check_before_step(simulation: Simulation, attempt: Attempt) -> None:
    """Check what must hold before an upstream is read."""
    if attempt.response is not None:
        if not any(client.accepts(attempt.target) for client in simulation.live_clients()):
            raise CheckFailed("an upstream is read, but no client accepts its answer")


def check_at_end(simulation: Simulation) -> None:
    """Check what must hold at the end."""
    _check_leftovers(simulation)
    for receiver, attempts in simulation.attempts_by_receiver.items():
        _check_retries(receiver, attempts)
    answers = AnswerCheck(simulation)
    for client in simulation.clients:
        for outcome in client.outcomes:
            answers.check(outcome)


def _check_leftovers(simulation: Simulation) -> None:
    unanswered = [client for client in simulation.clients if client.active is not None]
    for what, left in (
        ("requests without an answer", len(unanswered)),
        ("flights", len(simulation.handler.single_flight)),
        ("bytes reserved in the store", simulation.environment.store.reserved),
        ("timers", len(simulation.environment.clock.getDelayedCalls())),
        ("upstream requests", sum(not attempt.done for attempt in simulation.attempts)),
    ):
        if left:
            raise CheckFailed(f"{what} are left: {left}")
    if len(simulation.events) != simulation.exchanges:
        raise CheckFailed(f"{len(simulation.events)} events of {simulation.exchanges} requests")
    if simulation.counters.open_streams:
        raise CheckFailed(f"open streams are left: {simulation.counters.open_streams}")
    if simulation.failures:
        raise CheckFailed(simulation.failures[0]["log_failure"].getTraceback()[-1500:])


def _check_retries(receiver: ResponseReceiver, attempts: list[Attempt]) -> None:
    if len(attempts) > MAX_ATTEMPTS:
        raise CheckFailed(f"{type(receiver).__name__} sent its request {len(attempts)} times")
    for attempt in attempts[:-1]:
        if attempt.response is None:
            safe = attempt.cause is RetryCause.CONNECT or (
                attempt.cause is RetryCause.RESET and attempt.method == b"GET"
            )
        else:
            safe = attempt.status in RETRY_STATUS and attempt.method == b"GET"
        if not safe:
            raise CheckFailed(f"unsafe retry of {attempt.question!r} after {attempt.ending}")


Question = tuple[bytes, bytes]
"""A request's question and its key; no key for an answer that credentials share."""

Sent = tuple[int, bytes, int]
"""The status, body and epoch of an answer."""


class AnswerCheck:
    """Compares the answers that clients received with those that upstreams sent."""

    def __init__(self, simulation: Simulation) -> None:
        self._complete: dict[Question, set[Sent]] = {}
        self._begun: dict[Question, set[Sent]] = {}
        self._unshareable = {
            attempt.body
            for attempt in simulation.attempts
            if attempt.unshareable and len(attempt.body) > MIN_UNIQUE_BYTES
        }
        self._received: Counter[bytes] = Counter()
        for attempt in simulation.attempts:
            question = (attempt.question, b"" if attempt.shared_by_all else attempt.key)
            answer = (attempt.status, attempt.body, attempt.epoch)
            self._begun.setdefault(question, set()).add(answer)
            if attempt.ending == WHOLE:
                self._complete.setdefault(question, set()).add(answer)

    def check(self, outcome: Outcome) -> None:
        """Check the answer to one request."""
        answer = parse(outcome.raw)
        if answer is None:
            if outcome.ended:
                raise CheckFailed(f"an answer without a head to {outcome.request}")
        elif answer.is_proxy_error:
            if answer.status not in (502, 503, 504) or not (answer.complete or not outcome.ended):
                raise CheckFailed(f"unexpected error of the proxy: {answer}")
        else:
            self._check_head(outcome, answer)
            self._check_body(outcome, answer)

    def _check_head(self, outcome: Outcome, answer: Answer) -> None:
        if b"x-hop" in answer.fields:
            raise CheckFailed("a hop-by-hop field was relayed")
        status = answer.first(b"cache-status")
        if b"hit" in status or b"collapsed" in status:
            if b"set-cookie" in answer.fields:
                raise CheckFailed("another client's cookie was sent")
        if answer.first(b"openai-organization") not in (b"", outcome.request.key):
            raise CheckFailed("another client's organization was sent")
        if _EXPIRED.search(status) and b"stale-if-error" not in status:
            if (b"Cache-Control", b"max-stale=100") not in outcome.request.more:
                raise CheckFailed(f"expired: {status!r}")

    def _check_body(self, outcome: Outcome, answer: Answer) -> None:
        request, body = outcome.request, answer.body
        sent = self._complete if outcome.ended else self._begun
        expected = [
            whole
            for key in (b"", request.key)
            for status, whole, epoch in sent.get((request.question, key), ())
            if status == answer.status and epoch >= outcome.epoch
        ]
        if outcome.ended:
            if not answer.complete or body not in expected:
                raise CheckFailed(f"the wrong answer to {request}: {answer}")
            self._received[body] += 1
            if body in self._unshareable and self._received[body] > 1:
                raise CheckFailed(f"an unshareable answer reached several requests: {answer}")
            return
        if answer.complete and b"transfer-encoding" in answer.fields:
            raise CheckFailed(f"a truncated answer looks complete: {answer}")
        if not any(whole.startswith(body) for whole in expected):
            raise CheckFailed(f"the wrong partial answer to {request}: {answer}")
