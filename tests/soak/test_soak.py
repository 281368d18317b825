"""A short soak, and tests that the soak detects what it is meant to detect."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from pathlib import Path

import pytest
import pytest_twisted

import goproxyai
from goproxyai.daemon.memory import collect_and_trim
from goproxyai.errors import STATUS
from tests.soak.answers import Info, Truncated, WrongAnswer, document, events, identity, verify
from tests.soak.audit import Audit
from tests.soak.connection import Call
from tests.soak.fault_history import FaultHistory
from tests.soak.faults import ANSWER, FAULTS, HARNESS
from tests.soak.instrumentation.sitecustomize import SHORT_LIVED
from tests.soak.lateness import Lateness
from tests.soak.log_check import check_log
from tests.soak.plan import fault_for, make_plan
from tests.soak.report import report
from tests.soak.soak import Soak
from tests.support.authority import Authority

pytestmark = pytest.mark.process

SEED, SECONDS = 1, 5.0
"""Of the short soak."""

REQUEST = identity(b"GET", b"/v1/models", b"Bearer one", "")


@pytest.mark.soak
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_short_soak_has_no_problems(authority: Authority, tmp_path: Path, tls: bool) -> None:
    from twisted.internet import reactor

    soak = Soak(reactor, make_plan(SEED, SECONDS), authority, tmp_path, strict=False, tls=tls)
    await soak.run()
    assert soak.problems == [], report(soak)
    for deployment in soak.deployments:
        assert deployment.audit.outcomes["ok"] > 20  # hundreds on an idle machine


def test_counted_classes_exist() -> None:
    names: set[str] = set()
    for module in pkgutil.walk_packages(goproxyai.__path__, "goproxyai."):
        names |= vars(importlib.import_module(module.name)).keys()
    assert set(SHORT_LIVED) <= names
    assert callable(collect_and_trim)  # called by name, by the instrumentation


# The plan.


def test_plan_depends_on_seed_only() -> None:
    assert make_plan(7, 300) == make_plan(7, 300)
    assert str(make_plan(7, 300)) != str(make_plan(8, 300))


def test_long_plan_has_every_fault() -> None:
    plan = make_plan(1, 180)
    planned = {window.fault.name for cycle in plan.cycles for window in cycle.windows}
    assert planned == {fault.name for fault in FAULTS if fault.where != HARNESS}


def test_plan_has_requested_duration() -> None:
    for seconds in (6.0, 100.0, 600.0):
        plan = make_plan(3, seconds)
        assert sum(cycle.seconds for cycle in plan.cycles) == pytest.approx(seconds)
        for cycle in plan.cycles:
            assert all(window.end <= cycle.seconds for window in cycle.windows)


def test_injection_is_reproducible() -> None:
    windows = make_plan(1, 60).cycles[1].windows
    faults = [fault_for(1, number, 0, 9.0, windows) for number in range(2_000)]
    assert faults == [fault_for(1, number, 0, 9.0, windows) for number in range(2_000)]
    kinds = Counter(fault.where for fault in faults if fault is not None)
    assert set(kinds) == {ANSWER}


def test_fault_table_has_known_outcomes_only() -> None:
    connection_outcomes = {"cut", "lost", "refused", "left"}
    outcomes = {outcome for fault in FAULTS for outcome in fault.outcomes}
    assert outcomes <= connection_outcomes | set(STATUS)


# The audit.


@pytest.mark.parametrize(
    ("intervals", "stalls"),
    [([0.1] * 50, False), ([0.1, 0.8], True), ([0.2] * 12, True), ([0.1, 0.5] + [0.1] * 50, False)],
    ids=["on time", "once", "again and again", "short"],
)
def test_harness_that_is_late_is_noticed(intervals: list[float], stalls: bool) -> None:
    lateness, now, noticed = Lateness(0.0), 0.0, []
    for each in intervals:
        now += each
        noticed.append(lateness.pulse(now))
    assert any(noticed) == stalls


def test_stalls_that_overlap_are_one() -> None:
    faults = FaultHistory()
    for end in range(3, 100):
        faults.stalled(end - 3.0, float(end))
    assert faults.recent() == "0.00-99.00 harness stalled"
    assert faults.cause("upstream_timeout", 50.0, 52.5, ()) == "harness stalled"
    assert faults.cause("upstream_timeout", 200.0, 202.5, ()) is None


def audited(body: bytes, status: int = 200, min_version: int = 0, name: str = REQUEST) -> Audit:
    """The audit after one complete answer."""
    audit = Audit("plain", {})
    call = Call(1, "repeating", "GET", "/v1/models", name, 0.0, min_version)
    call.end, call.status, call.body, call.size = "answered", status, body, len(body)
    audit.begin(call)
    audit.end(call)
    return audit


CORRECT = document(Info(REQUEST, 3), 500)


def test_correct_answer_is_ok() -> None:
    assert audited(CORRECT).problems == []
    stream = b"".join(events(Info(REQUEST), 5, 40))
    assert audited(stream).outcomes == {"ok": 1}
    assert verify(stream) == Info(REQUEST)


@pytest.mark.parametrize("missing", [1, 2, 80, 400, len(CORRECT)])
def test_truncated_answer_that_looks_complete_is_reported(missing: int) -> None:
    audit = audited(CORRECT[:-missing])
    assert (audit.hidden, len(audit.problems)) == (1, 1)


def test_stream_without_last_event_is_truncated() -> None:
    with pytest.raises(Truncated):
        verify(b"".join(events(Info(REQUEST), 5, 40)[:-1]))


def test_changed_byte_is_wrong() -> None:
    changed = CORRECT.replace(b'"version":3', b'"version":4')
    with pytest.raises(WrongAnswer):
        verify(changed)
    assert audited(changed).wrong == 1


@pytest.mark.parametrize(
    ("status", "min_version", "name"),
    [
        (200, 0, identity(b"GET", b"/v1/models", b"Bearer two", "")),
        (200, 4, REQUEST),
        (201, 0, REQUEST),
    ],
    ids=["of another credential", "from before a write", "with another status"],
)
def test_answer_to_another_request_is_wrong(status: int, min_version: int, name: str) -> None:
    assert audited(CORRECT, status, min_version, name).wrong == 1


TIMEOUT = b'{"error":{"message":"No.","type":"proxy_error","code":"upstream_timeout"}}'


def test_error_without_fault_is_reported() -> None:
    assert "no fault explains" in audited(TIMEOUT, 504).problems[0]


def test_fault_explains_its_outcomes_only() -> None:
    for name, problems in (("no head", 0), ("cut body", 1)):
        audit = Audit("plain", {1: [(0.0, name)]})
        call = Call(1, "repeating", "GET", "/v1/models", REQUEST, 0.0)
        call.end, call.status, call.body = "answered", 504, TIMEOUT
        audit.end(call)
        assert len(audit.problems) == problems


LINE = {"client": "fd00::1:0:0:0:1", "status": 200, "cache": "MISS", "ended": "ok",
        "bytes_in": 0, "bytes_out": len(CORRECT)}  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([LINE], ""),
        ([], "no line"),
        ([LINE, LINE], "two lines"),
        ([{**LINE, "status": 502}], "the line has"),
        ([{**LINE, "ended": "cut"}], "the line has"),
        ([{**LINE, "bytes_out": 7}], "the line has"),
        ([LINE, {**LINE, "client": "fd00::1:0:0:0:2"}], "without a request"),
        ([LINE, {**LINE, "client": "127.0.0.1"}], "without a client"),
    ],
)
def test_log_that_differs_from_answers_is_reported(
    lines: list[dict[str, object]], problem: str
) -> None:
    audit = audited(CORRECT)
    check_log(audit, lines)
    assert problem in "".join(audit.problems)
    assert bool(audit.problems) == bool(problem)
