"""A change of the rate limit while requests are admitted."""

from __future__ import annotations

from itertools import pairwise

from twisted.internet.task import Clock

from goproxyai.limits.addresses import TrustedProxies
from goproxyai.proxy.admission import Admission
from goproxyai.state.refilled_buckets import SWEEP_SLICE, TICK_SECONDS


def started(clock: Clock, per_minute: int) -> Admission:
    admission = Admission(clock, per_minute, TrustedProxies())
    admission.start()
    return admission


def pump(clock: Clock, seconds: float) -> None:
    clock.pump([TICK_SECONDS] * round(seconds / TICK_SECONDS))


def test_removed_limit_admits_all_and_drops_the_buckets_in_slices() -> None:
    clock = Clock()
    admission = started(clock, 2)
    clients = [f"192.0.{number >> 8}.{number & 255}" for number in range(SWEEP_SLICE + 100)]
    for client in clients:
        admission.take_token(client)
    admission.set_rate(0)
    assert [admission.take_token(clients[0]) for _ in range(5)] == [0.0] * 5
    counts = [len(admission.buckets)]
    for _ in range(1300):
        clock.advance(TICK_SECONDS)
        counts.append(len(admission.buckets))
    assert counts[-1] == 0
    assert max(early - late for early, late in pairwise(counts)) <= SWEEP_SLICE
    assert clock.getDelayedCalls() == []


def test_limit_that_is_set_again_holds_and_refills() -> None:
    clock = Clock()
    admission = started(clock, 0)
    admission.set_rate(6)
    assert [admission.take_token("192.0.2.1") for _ in range(7)][:6] == [0.0] * 6
    assert admission.take_token("192.0.2.1") > 0
    admission.set_rate(0)
    admission.set_rate(6)
    assert admission.take_token("192.0.2.1") > 0
    pump(clock, 10.1)
    assert admission.take_token("192.0.2.1") == 0
    admission.stop()
    assert clock.getDelayedCalls() == []


def test_limit_that_is_set_outside_of_the_run_starts_no_refills() -> None:
    clock = Clock()
    admission = Admission(clock, 0, TrustedProxies())
    admission.set_rate(6)
    assert clock.getDelayedCalls() == []
    admission.start()
    admission.stop()
    admission.set_rate(7)
    assert clock.getDelayedCalls() == []
