"""The verdict on the traffic of the last minutes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.admin.failure_texts import advice_for, describe
from goproxyai.admin.situation import LastFailure, Level, Situation, Traffic
from goproxyai.admin.verdict import LONG_WINDOW_SLOTS, RECENT_INCIDENT_SLOTS, verdict
from goproxyai.telemetry.failure_cause import FailureCause
from goproxyai.upstream.breaker import CircuitState

C = FailureCause
GOOD = Traffic(100)


def failing(number: int = 37, cause: FailureCause = C.UNREACHABLE, requests: int = 100) -> Traffic:
    return Traffic(requests, {cause: number})


def situation(*slots: Traffic, **more: Any) -> Situation:
    return Situation([*[GOOD] * 60, *slots], **more)


def text(*slots: Traffic, **more: Any) -> str:
    return verdict(situation(*slots, **more)).text


def test_incident_is_told_with_share_duration_and_cause() -> None:
    last = {C.UNREACHABLE: LastFailure(502, "ConnectionRefusedError: 111: Connection refused")}
    found = verdict(situation(*[failing()] * 24, last=last))
    assert found.text == "37 % failing for 4 min: upstream refuses connections"
    assert (found.level, found.cause) == (Level.BAD, "upstream_unreachable")
    assert (found.share, found.seconds) == (0.37, 240.0)
    assert found.advice


def test_all_good_is_healthy() -> None:
    assert verdict(situation()) == verdict(situation(GOOD))
    found = verdict(situation())
    assert (found.level, found.text, found.advice, found.share) == (Level.GOOD, "Healthy", "", 0.0)


@pytest.mark.parametrize(
    ("cause", "status", "expected"),
    [
        (C.UPSTREAM_429, 429, "upstream answers 429 (rate limit or quota)"),
        (C.UPSTREAM_401, 401, "upstream answers 401 (API key refused)"),
        (C.UPSTREAM_5XX, 503, "upstream answers 503"),
        (C.TIMEOUT, 504, "upstream does not answer in time"),
        (C.TLS, 502, "TLS with upstream fails"),
        (C.EGRESS_PROXY, 502, "the egress proxy refuses connections"),
        (C.OVERLOADED, 503, "the proxy is overloaded"),
    ],
)
def test_every_cause_of_an_incident_is_in_words(
    cause: FailureCause, status: int, expected: str
) -> None:
    found = text(*[failing(cause=cause)] * 7, last={cause: LastFailure(status)})
    assert found == f"37 % failing for 1 min: {expected}"


def test_second_cause_is_named_if_it_is_frequent() -> None:
    both = Traffic(100, {C.UPSTREAM_429: 30, C.UPSTREAM_401: 10, C.TLS: 1})
    assert "429" in text(*[both] * 7)
    assert text(*[both] * 7).endswith("(rate limit or quota) and 401 (API key refused)")
    assert "TLS" not in text(*[both] * 7)
    other = Traffic(100, {C.UNREACHABLE: 30, C.UPSTREAM_401: 29})
    assert text(*[other] * 7).endswith(
        ": upstream cannot be reached and answers 401 (API key refused)"
    )
    other = Traffic(100, {C.OVERLOADED: 30, C.UPSTREAM_401: 29})
    assert text(*[other] * 7).endswith("overloaded and upstream answers 401 (API key refused)")
    rare = Traffic(100, {C.UPSTREAM_429: 30, C.UPSTREAM_401: 3})
    assert "401" not in text(*[rare] * 7)


def test_open_circuit_is_explained_by_the_failures_that_opened_it() -> None:
    opened, refused = failing(10, C.TIMEOUT), failing(100, C.CIRCUIT_OPEN)
    assert text(opened, *[refused] * 12).endswith("for 2 min: upstream does not answer in time")
    assert text(*[refused] * 12).endswith("circuit is open after repeated failures")
    with_wrong_key = Traffic(100, {C.CIRCUIT_OPEN: 90, C.UPSTREAM_401: 1})
    assert text(opened, with_wrong_key).endswith("for 20 s: upstream does not answer in time")
    mixed = Traffic(100, {C.CIRCUIT_OPEN: 90, C.UNREACHABLE: 2})
    assert text(*[mixed] * 12).endswith("92 % failing for 2 min: upstream cannot be reached")


def test_egress_proxy_may_be_what_cannot_be_reached() -> None:
    found = text(*[failing()] * 6, has_egress=True)
    assert found.endswith("upstream or the egress proxy cannot be reached")


@pytest.mark.parametrize(
    ("number", "level"),
    [(0, Level.GOOD), (2, Level.GOOD), (3, Level.WARNING), (14, Level.WARNING), (15, Level.BAD)],
)
def test_level_depends_on_the_share_of_the_last_half_minute(number: int, level: Level) -> None:
    slots = [*[GOOD] * 6, failing(number)]
    assert verdict(situation(*slots)).level is level


def test_outage_shows_within_a_slot_and_is_not_hidden_by_older_failures() -> None:
    background = failing(3, C.UPSTREAM_401)
    outage = Traffic(100, {C.UPSTREAM_401: 2, C.UNREACHABLE: 80})
    found = verdict(Situation([*[background] * 60, outage]))
    assert found.text == "29 % failing for 10 s: upstream cannot be reached"
    assert found.level is Level.BAD


def test_slow_traffic_is_judged_by_the_last_minute() -> None:
    slots = [*[Traffic(2)] * 30, Traffic(2, {C.TIMEOUT: 2}), Traffic(2)]
    assert verdict(Situation(slots)).text == (
        "2 of 14 requests failing for 10 s: upstream does not answer in time"
    )


def test_refused_requests_of_limited_clients_do_not_hide_an_incident() -> None:
    slot = Traffic(100, {C.RATE_LIMITED: 80, C.TIMEOUT: 10})
    assert text(*[slot] * 7).startswith("50 % failing")


def test_stale_answers_are_told_with_the_incident() -> None:
    slot = Traffic(100, {C.UNREACHABLE: 3}, stale=40)
    found = verdict(situation(*[slot] * 7, circuits=[CircuitState.OPEN]))
    assert found.text.endswith("upstream cannot be reached; 40 % answered from expired entries")
    assert found.level is Level.BAD, "no upstream is used"
    assert verdict(situation(*[slot] * 7)).level is Level.WARNING


def test_few_requests_are_told_in_numbers_over_a_longer_time() -> None:
    quiet = [Traffic()] * 30
    found = verdict(Situation([*quiet, failing(1, requests=1), *[Traffic()] * 12]))
    assert found.text == "1 of 1 requests failing for 10 s: upstream cannot be reached"
    assert found.level is Level.WARNING, "a single failure is not serious"
    found = verdict(Situation([*quiet, failing(3, requests=3), *[Traffic()] * 3]))
    assert found.level is Level.BAD


def test_incident_of_the_whole_history_lasts_for_over_its_length() -> None:
    assert " for over 1 h:" in verdict(Situation([failing()] * 361)).text
    assert " for 1 min:" in verdict(Situation([failing()] * 6)).text


def test_separate_incidents_are_not_joined() -> None:
    slots = [failing(), *[GOOD] * 12, *[failing()] * 18]
    assert " for 3 min:" in text(*slots)
    slots = [failing(), *[Traffic()] * 12, *[failing()] * 18]
    assert " for 5 min:" in text(*slots), "without requests in between, nothing has recovered"


def test_end_of_an_incident_is_told() -> None:
    slots = [*[failing()] * 18, *[GOOD] * 4]
    found = verdict(situation(*slots))
    assert (found.level, found.text) == (Level.GOOD, "Healthy")
    assert found.advice == "Recovered 40 s ago. Before, for 3 min: upstream cannot be reached."
    later = verdict(situation(*slots, *[GOOD] * RECENT_INCIDENT_SLOTS))
    assert later.advice == ""
    assert verdict(situation(failing(1), *[GOOD] * 4)).advice == "", "a single failure"


def test_ended_incident_lasted_as_long_as_its_cause() -> None:
    single = failing(1, C.UPSTREAM_401)
    found = verdict(situation(single, *[GOOD] * 3, *[failing()] * 2, *[GOOD] * 4))
    assert found.advice == "Recovered 40 s ago. Before, for 20 s: upstream cannot be reached."


OUTAGE = (*[failing()] * 2, *[failing(60, C.CIRCUIT_OPEN)] * 4)


def test_single_failure_of_another_cause_does_not_prolong_an_incident() -> None:
    found = verdict(situation(*OUTAGE, GOOD, failing(1, C.UPSTREAM_401)))
    assert (found.level, found.text) == (Level.GOOD, "Healthy")
    assert found.advice == "Recovered 20 s ago. Before, for 1 min: upstream cannot be reached."


def test_incident_after_another_one_has_a_share_and_a_duration_of_its_own() -> None:
    assert text(*OUTAGE, GOOD, failing(15, C.UPSTREAM_429)) == (
        "5.0 % failing for 10 s: upstream answers 429 (rate limit or quota)"
    )


def test_last_of_several_ended_incidents_is_told() -> None:
    found = verdict(situation(*OUTAGE, *[GOOD] * 7, failing(cause=C.UPSTREAM_429), *[GOOD] * 2))
    assert found.advice == (
        "Recovered 20 s ago. Before, for 10 s: upstream answers 429 (rate limit or quota)."
    )


def test_end_of_an_incident_is_told_with_other_verdicts_too() -> None:
    found = verdict(situation(*[failing()] * 18, *[failing(20, C.RATE_LIMITED)] * 4))
    assert found.text.startswith("Clients are limited")
    assert "client. Recovered 40 s ago." in found.advice


def test_single_failure_of_many_requests_is_not_told() -> None:
    slots = [Traffic(10)] * 60
    assert verdict(Situation([*slots, Traffic(10, {C.TIMEOUT: 1})])).text == "Healthy"
    assert "2 of" not in verdict(Situation([*slots, Traffic(10, {C.TIMEOUT: 2})])).text
    assert "failing" in verdict(Situation([*slots, Traffic(10, {C.TIMEOUT: 2})])).text


def test_open_slot_without_failures_does_not_end_an_incident() -> None:
    assert "failing" in text(*[failing()] * 6, GOOD)
    assert "failing" in text(*[failing()] * 6, Traffic(), Traffic(), Traffic())


def test_limited_clients_are_told_with_the_most_limited_one() -> None:
    slot = failing(23, C.RATE_LIMITED)
    found = verdict(situation(*[slot] * 7, limited_client="192.0.2.7"))
    assert found.level is Level.WARNING
    assert found.text == (
        "Clients are limited: 23 % exceed RATE_LIMIT, most of them from 192.0.2.7"
    )
    assert text(*[failing(1, C.RATE_LIMITED)] * 7) == "Healthy"


def test_invalid_requests_are_told_by_their_most_frequent_cause() -> None:
    slot = Traffic(100, {C.UPSTREAM_4XX: 30, C.REFUSED: 5})
    found = verdict(situation(*[slot] * 7, last={C.UPSTREAM_4XX: LastFailure(404)}))
    assert found.text == "Clients send invalid requests: 35 %, upstream answers 404"
    assert found.level is Level.WARNING
    assert text(*[failing(19, C.UPSTREAM_4XX)] * 7) == "Healthy"


def test_stale_answers_show_that_upstream_fails() -> None:
    found = verdict(situation(*[Traffic(100, stale=40)] * 7))
    assert found.level is Level.WARNING
    assert found.text == "Upstream is failing: 40 % answered from expired entries"


@pytest.mark.parametrize(
    ("circuits", "level", "start"),
    [
        ([CircuitState.OPEN], Level.BAD, "No upstream is used"),
        ([CircuitState.OPEN, CircuitState.CLOSED], Level.WARNING, "1 of 2 upstreams not used"),
        ([CircuitState.HALF_OPEN], Level.GOOD, "Healthy"),
    ],
)
def test_open_circuits_are_told_without_failing_requests(
    circuits: list[CircuitState], level: Level, start: str
) -> None:
    found = verdict(situation(circuits=circuits))
    assert found.level is level
    assert found.text.startswith(start)


def test_stop_and_silence_are_told() -> None:
    assert text(*[failing()] * 6, stopping=True).startswith("Stopping")
    found = verdict(situation(*[Traffic()] * LONG_WINDOW_SLOTS))
    assert (found.level, found.text) == (Level.IDLE, "No requests in the last 5 min")
    assert verdict(Situation([Traffic()])).level is Level.IDLE


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ("DNSLookupError: no such host", "the host name of upstream does not resolve"),
        ("ConnectionLost: reset", "upstream closes connections before it answers"),
        ("NoRouteError: 113", "there is no route to upstream"),
        ("", "upstream cannot be reached"),
    ],
)
def test_unreachable_upstream_is_described_by_its_detail(detail: str, expected: str) -> None:
    assert describe(C.UNREACHABLE, 502, detail) == expected


@pytest.mark.parametrize("cause", C)
def test_every_cause_has_a_text_and_advice(cause: FailureCause) -> None:
    assert "{" not in describe(cause, 418)
    assert advice_for(cause).endswith(".")


slots = st.builds(
    Traffic,
    st.integers(0, 30),
    st.dictionaries(st.sampled_from(C), st.integers(0, 9), max_size=3),
    st.integers(0, 3),
)


@given(
    st.lists(slots, min_size=1, max_size=80),
    st.booleans(),
    st.lists(st.sampled_from(CircuitState), max_size=3),
)
def test_every_situation_has_one_line(
    traffic: list[Traffic], stopping: bool, circuits: list[CircuitState]
) -> None:
    found = verdict(Situation(traffic, stopping=stopping, circuits=circuits))
    assert found.text
    assert "\n" not in found.text
    assert "{" not in found.text + found.advice
    assert found.share >= 0


def test_single_failure_is_no_second_cause() -> None:
    slot = Traffic(100, {C.UPSTREAM_401: 1, C.UNREACHABLE: 2})
    assert text(slot) == "1.0 % failing for 10 s: upstream cannot be reached"


def test_of_two_single_failures_the_later_one_is_named_first() -> None:
    slots = Traffic(50, {C.UPSTREAM_401: 1}), Traffic(50, {C.UNREACHABLE: 1})
    assert text(*slots) == (
        "1.0 % failing for 10 s: upstream cannot be reached and answers 401 (API key refused)"
    )
