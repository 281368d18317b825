"""A short soak with one seed; and that the harness would notice what it is there to notice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import pytest_twisted

from goproxyai.errors import STATUS
from tests.soak.accounts import Accounts
from tests.soak.plan import make_plan, struck
from tests.soak.report import report
from tests.soak.soak import Soak
from tests.soak.table import EACH, FAULTS, HARNESS
from tests.soak.truth import Told, Truncated, Wrong, document, events, identity, read
from tests.soak.wire import Call
from tests.support.authority import Authority

pytestmark = pytest.mark.process

SEED, SECONDS = 1, 5.0
"""Of the short form; ``make soak`` is the long one."""

ASKED = identity(b"GET", b"/v1/models", b"Bearer one", "")


@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_a_short_soak_leaves_nothing_wrong_nothing_open_and_nothing_unaccounted(
    authority: Authority, tmp_path: Path
) -> None:
    from twisted.internet import reactor

    soak = Soak(reactor, make_plan(SEED, SECONDS), authority, tmp_path, strict=False)
    await soak.run()
    assert soak.complaints == [], report(soak)
    for deployment in soak.deployments:
        assert deployment.accounts.outcomes["ok"] > 100


# The plan.


def test_the_plan_is_a_function_of_the_seed() -> None:
    assert make_plan(7, 300) == make_plan(7, 300)
    assert str(make_plan(7, 300)) != str(make_plan(8, 300))


def test_a_long_plan_has_every_fault_in_it() -> None:
    plan = make_plan(1, 180)
    planned = {window.fault.name for cycle in plan.cycles for window in cycle.windows}
    assert planned == {fault.name for fault in FAULTS if fault.where != HARNESS}


def test_the_plan_lasts_as_long_as_it_was_told() -> None:
    for seconds in (6.0, 100.0, 600.0):
        plan = make_plan(3, seconds)
        assert sum(cycle.seconds for cycle in plan.cycles) == pytest.approx(seconds)
        for cycle in plan.cycles:
            assert all(window.end <= cycle.seconds for window in cycle.windows)


def test_chance_strikes_the_same_requests_again() -> None:
    windows = make_plan(1, 60).cycles[1].windows
    struck_once = [struck(1, number, 0, 9.0, windows) for number in range(2_000)]
    assert struck_once == [struck(1, number, 0, 9.0, windows) for number in range(2_000)]
    names = Counter(fault.where for fault in struck_once if fault is not None)
    assert set(names) == {EACH}


def test_the_table_knows_no_codes_but_the_proxys() -> None:
    others = {"cut", "lost", "refused", "left"}
    assert {code for fault in FAULTS for code in fault.excuses} <= others | set(STATUS)


# The judgement.


def judged(body: bytes, status: int = 200, least: int = 0, who: str = ASKED) -> Accounts:
    """The books behind one complete answer."""
    accounts = Accounts("plain", {})
    call = Call(1, "repeating", "GET", "/v1/models", who, 0.0, least)
    call.end, call.status, call.body, call.size = "answered", status, body, len(body)
    accounts.begun(call)
    accounts.ended(call)
    return accounts


RIGHT = document(Told(ASKED, 3), 500)


def test_a_right_answer_is_right() -> None:
    assert judged(RIGHT).complaints == []
    stream = b"".join(events(Told(ASKED), 5, 40))
    assert judged(stream).outcomes == {"ok": 1}
    assert read(stream) == Told(ASKED)


@pytest.mark.parametrize("cut", [1, 2, 80, 400, len(RIGHT)])
def test_a_part_that_passes_for_the_whole_is_a_hidden_truncation(cut: int) -> None:
    accounts = judged(RIGHT[:-cut])
    assert (accounts.hidden, len(accounts.complaints)) == (1, 1)


def test_a_stream_without_its_last_event_is_one_too() -> None:
    with pytest.raises(Truncated):
        read(b"".join(events(Told(ASKED), 5, 40)[:-1]))


def test_a_changed_byte_is_wrong() -> None:
    changed = RIGHT.replace(b'"version":3', b'"version":4')
    with pytest.raises(Wrong):
        read(changed)
    assert judged(changed).wrong == 1


@pytest.mark.parametrize(
    ("status", "least", "who"),
    [
        (200, 0, identity(b"GET", b"/v1/models", b"Bearer two", "")),
        (200, 4, ASKED),
        (201, 0, ASKED),
    ],
    ids=["of another credential", "from before a write", "with another status"],
)
def test_the_answer_to_another_question_is_wrong(status: int, least: int, who: str) -> None:
    assert judged(RIGHT, status, least, who).wrong == 1


REFUSAL = b'{"error":{"message":"No.","type":"proxy_error","code":"upstream_timeout"}}'


def test_an_error_that_no_fault_excuses_is_a_complaint() -> None:
    assert "nothing excuses" in judged(REFUSAL, 504).complaints[0]


def test_a_fault_excuses_what_the_table_says_and_nothing_else() -> None:
    for name, complaints in (("no head", 0), ("cut body", 1)):
        accounts = Accounts("plain", {1: [(0.0, name)]})
        call = Call(1, "repeating", "GET", "/v1/models", ASKED, 0.0)
        call.end, call.status, call.body = "answered", 504, REFUSAL
        accounts.ended(call)
        assert len(accounts.complaints) == complaints


LINE = {"client": "fd00::1:0:0:0:1", "status": 200, "cache": "MISS", "ended": "ok",
        "bytes_in": 0, "bytes_out": len(RIGHT)}  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([LINE], ""),
        ([], "no line"),
        ([LINE, LINE], "two lines"),
        ([{**LINE, "status": 502}], "the line says"),
        ([{**LINE, "ended": "cut"}], "the line says"),
        ([{**LINE, "bytes_out": 7}], "the line says"),
        ([LINE, {**LINE, "client": "fd00::1:0:0:0:2"}], "nobody sent"),
        ([LINE, {**LINE, "client": "127.0.0.1"}], "without a client"),
    ],
)
def test_the_log_must_say_what_was_seen(lines: list[dict[str, object]], complaint: str) -> None:
    accounts = judged(RIGHT)
    accounts.compare(lines)
    assert complaint in "".join(accounts.complaints)
    assert bool(accounts.complaints) == bool(complaint)
