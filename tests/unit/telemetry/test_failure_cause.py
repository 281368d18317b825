"""The cause of a failed request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.errors import STATUS
from goproxyai.telemetry.failure_cause import INCIDENTS, PARTY, FailureCause, Party, cause_of
from goproxyai.telemetry.outcome import CacheOutcome, Ending

OK, CUT, MISS, NONE = Ending.COMPLETE, Ending.CUT, CacheOutcome.MISS, CacheOutcome.NONE


@pytest.mark.parametrize(
    ("status", "code", "cache", "ending", "cause"),
    [
        (200, "", MISS, OK, None),
        (499, "", MISS, Ending.CLIENT_GONE, None),
        (200, "", MISS, Ending.CLIENT_GONE, None),
        (429, "", MISS, OK, FailureCause.UPSTREAM_429),
        (429, "", CacheOutcome.COALESCED, OK, FailureCause.UPSTREAM_429),
        (429, "", NONE, OK, FailureCause.RATE_LIMITED),
        (401, "", CacheOutcome.HIT, OK, FailureCause.UPSTREAM_401),
        (403, "", CacheOutcome.BYPASS, OK, FailureCause.UPSTREAM_403),
        (404, "", MISS, OK, FailureCause.UPSTREAM_4XX),
        (529, "", MISS, OK, FailureCause.UPSTREAM_5XX),
        (502, "upstream_unreachable", MISS, OK, FailureCause.UNREACHABLE),
        (504, "upstream_timeout", MISS, OK, FailureCause.TIMEOUT),
        (502, "egress_proxy_refused", MISS, OK, FailureCause.EGRESS_PROXY),
        (200, "upstream_unreachable", MISS, CUT, FailureCause.CUT),
        (200, "", MISS, CUT, FailureCause.CUT),
        (200, "overloaded", MISS, CUT, FailureCause.OVERLOADED),
        (503, "circuit_open", MISS, OK, FailureCause.CIRCUIT_OPEN),
        (503, "overloaded", NONE, OK, FailureCause.OVERLOADED),
        (404, "not_found", NONE, OK, FailureCause.REFUSED),
        (504, "only_if_cached", MISS, OK, FailureCause.REFUSED),
    ],
)
def test_cause_depends_on_the_outcome(
    status: int, code: str, cache: CacheOutcome, ending: Ending, cause: FailureCause | None
) -> None:
    assert cause_of(status, code, cache, ending) is cause


@given(
    st.integers(100, 999),
    st.sampled_from(["", *STATUS]),
    st.sampled_from(CacheOutcome),
    st.sampled_from(Ending),
)
def test_every_error_has_a_cause(
    status: int, code: str, cache: CacheOutcome, ending: Ending
) -> None:
    cause = cause_of(status, code, cache, ending)
    failed = bool(code) or (status >= 400 and status != 499) or ending is CUT
    assert (cause is not None) is failed


def test_failures_of_single_clients_are_no_incidents() -> None:
    assert PARTY.keys() == set(FailureCause)
    calm = {cause for cause in FailureCause if PARTY[cause] in (Party.CLIENT, Party.LIMIT)}
    assert set(FailureCause) - INCIDENTS == calm
    assert {FailureCause.UPSTREAM_429, FailureCause.UPSTREAM_401} <= INCIDENTS
