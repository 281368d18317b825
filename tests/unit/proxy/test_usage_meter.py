"""The meter of responses that arrive in pieces, alone."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from goproxyai.proxy.usage_meter import GAPS_TOGETHER, UsageMeter
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.outcome import Ending


def measured_stream(frames: int) -> tuple[Counters, UsageMeter]:
    """Return a meter that has measured *frames* of a stream, one a second."""
    counters, clock = Counters(), Clock()
    meter = UsageMeter(counters, clock.seconds, True, None)
    for _ in range(frames):
        meter.add(b"data: x\n\n")
        clock.advance(1)
    return counters, meter


@pytest.mark.parametrize("frames", [1, 2, GAPS_TOGETHER, GAPS_TOGETHER + 1, 100])
@pytest.mark.parametrize("completes", [False, True])
def test_each_gap_of_a_stream_is_counted_once(frames: int, completes: bool) -> None:
    counters, meter = measured_stream(frames)
    if completes:
        meter.finish()
    meter.close(Ending.COMPLETE if completes else Ending.CLIENT_GONE)
    gaps = counters.durations.stream_gap
    assert (gaps.count, gaps.total) == (frames - 1, frames - 1)


def test_gaps_of_an_open_stream_are_counted_in_batches() -> None:
    counters, _ = measured_stream(2 * GAPS_TOGETHER)
    assert counters.durations.stream_gap.count == GAPS_TOGETHER
