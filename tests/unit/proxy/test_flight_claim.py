"""The claim of a flight ends once, whatever happens to the flight."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from goproxyai.proxy.flight_claim import MAX_PAUSED_SECONDS, FlightClaim
from tests.support.second_level import FakeClaim


class Fixture:
    def __init__(self) -> None:
        self.clock = Clock()
        self.claim = FakeClaim()
        self.flight_claim = FlightClaim(self.claim, self.clock, 100)


@pytest.mark.parametrize(
    ("storable", "length", "ends"),
    [(True, 100, []), (True, None, []), (True, 101, ["failed"]), (False, None, ["failed"])],
)
def test_response_that_will_not_be_stored_ends_the_claim(
    storable: bool, length: Any, ends: list[str]
) -> None:
    fixture = Fixture()
    fixture.flight_claim.response_began(storable, length)
    assert fixture.claim.ends == ends


def test_flight_whose_clients_do_not_read_gives_the_claim_up() -> None:
    fixture = Fixture()
    fixture.flight_claim.upstream_paused()
    fixture.flight_claim.upstream_paused()
    fixture.clock.advance(MAX_PAUSED_SECONDS / 2)
    fixture.flight_claim.upstream_resumed()
    fixture.clock.advance(MAX_PAUSED_SECONDS)
    assert fixture.claim.ends == []
    fixture.flight_claim.upstream_paused()
    fixture.clock.advance(MAX_PAUSED_SECONDS)
    assert fixture.claim.ends == ["given up"]


@pytest.mark.parametrize(("end", "expected"), [("abandon", "given up"), ("end", "failed")])
def test_end_of_a_paused_flight_leaves_no_timer(end: str, expected: str) -> None:
    fixture = Fixture()
    fixture.flight_claim.upstream_paused()
    getattr(fixture.flight_claim, end)()
    assert fixture.claim.ends == [expected]
    assert fixture.clock.getDelayedCalls() == []
