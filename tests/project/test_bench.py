"""The evaluation of the benchmark's figures; the measurements themselves are not tested."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench import inside
from bench.growth import powers
from bench.inside import InMemoryDaemon
from bench.peers import PEERS
from bench.plot import Bar, Group, Scale, plot
from bench.report import PAGE, cell_text, figures, number, replaced, verdict
from bench.results import Cell, Measure, Results, Run
from bench.targets import TARGETS, Target
from bench.wrk import LARGE, LARGE_IN, LARGE_OUT, SMALL

RATE = Measure("miss", "miss", "req/s")
LATENCY = Measure("p50_1", "latency added", "µs", added=True)


def results(**rates: list[float]) -> Results:
    found = Results([("miss", RATE), ("latency", LATENCY)])
    for peer, values in rates.items():
        for value in values:
            found.add("miss", peer, Run({"miss": value}, busy=1.0))
    return found


def miss_target(bound: float) -> Target:
    return Target("miss", bound, lambda found: found.ratio("miss", "goproxyai", "original"))


def test_cell_is_median_with_half_the_spread() -> None:
    cell = results(original=[90.0, 100.0, 130.0]).cell("miss", "original")
    assert cell == Cell(value=100.0, spread=0.2, quiet=True, saturated=True)


def test_disturbed_run_is_left_out_if_there_is_a_quiet_one() -> None:
    found = results(original=[100.0])
    found.add("miss", "original", Run({"miss": 10.0}, others=0.5))
    assert found.value("miss", "original") == 100.0
    assert found.disturbed() == (1, 2, 0.5)


def test_cell_with_disturbed_runs_only_is_marked() -> None:
    found = results()
    found.add("miss", "original", Run({"miss": 10.0}, others=0.5))
    assert cell_text(found.cell("miss", "original"), failed=False) == "10 !"


def test_rate_of_unsaturated_daemon_is_a_lower_bound() -> None:
    found = results()
    found.add("miss", "nginx", Run({"miss": 70_123.0}, busy=0.6))
    assert cell_text(found.cell("miss", "nginx"), failed=False) == "≥ 70,100"


def test_failed_run_fails_the_cell() -> None:
    found = results(original=[100.0], goproxyai=[200.0])
    found.failures["miss", "goproxyai"] = "a different body was received"
    assert found.value("miss", "goproxyai") is None
    assert "| failed |" in figures(found, PEERS)
    assert miss_target(1.2).reached(found) is None


def test_added_latency_is_relative_to_no_proxy() -> None:
    found = results()
    found.add("latency", "goproxyai", Run({"p50_1": 250.0}))
    assert found.value("p50_1", "goproxyai") is None
    found.add("latency", "direct", Run({"p50_1": 100.0}))
    assert found.value("p50_1", "goproxyai") == 150.0
    assert "| (100) | 150 |" in figures(found, PEERS)


@pytest.mark.parametrize(("bound", "text"), [(1.2, "reached"), (2.5, "**not reached**")])
def test_target_is_compared_with_ratio_of_medians(bound: float, text: str) -> None:
    found = results(original=[90.0, 100.0, 110.0], goproxyai=[210.0, 190.0, 200.0])
    assert verdict(miss_target(bound), found) == f"| miss | at least {bound} | 2 | {text} |"


def test_unmeasured_target_has_no_verdict() -> None:
    for target in TARGETS:
        assert verdict(target, results()).endswith("|  | not measured |")


def test_upper_bound_is_reached_by_smaller_figure() -> None:
    lost = Target("lost", 0, lambda _found: 0.0, at_most=True)
    assert verdict(lost, results()) == "| lost | at most 0 | 0 | reached |"


@pytest.mark.parametrize(
    ("value", "text"),
    [(34_123.0, "34,100"), (999.6, "1,000"), (126.0, "126"), (12.34, "12.3"), (0.5123, "0.512")],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_chart_is_well_formed_and_its_bars_start_at_one() -> None:
    group = Group("miss <small>", [Bar("Go & co", 0.5), Bar("goproxyai", 2.0, ours=True)])
    root = ElementTree.fromstring(plot([group], "Go"))
    bars = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("y")]
    assert [bar.get("class") for bar in bars] == ["bar", "ours"]
    slow, fast = ((float(bar.get("x", "")), float(bar.get("width", ""))) for bar in bars)
    assert slow[1] == pytest.approx(fast[1], abs=0.1)
    assert slow[0] + slow[1] == pytest.approx(fast[0], abs=0.2)


def test_scale_contains_every_ratio() -> None:
    scale = Scale.over([0.005, 58.0])
    assert (scale.lowest, scale.highest) == (-3, 2)
    assert scale.x(0.005) < scale.x(1) < scale.x(58.0)


def test_only_the_part_between_the_markers_is_replaced() -> None:
    page = "a\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nz\n"
    assert replaced(page, "new\n") == page.replace("old", "new")
    assert replaced(PAGE.read_text("utf-8"), "new\n").startswith("# Performance")


def test_large_exchange_has_its_nominal_size() -> None:
    assert len(LARGE.body) == LARGE_IN
    assert len(LARGE.answer) == LARGE_OUT
    assert f"Content-Length: {len(SMALL.body)}\r\n" in SMALL.text()


def test_powers_of_ten_are_formatted() -> None:
    assert [powers(100), powers(1_000_000)] == ["10^2", "10^6"]


def test_in_memory_requests_are_misses_then_hits() -> None:
    measured = InMemoryDaemon()
    for question in (1, 1, 2, 1):
        measured.send(question)
    measured.flush_log()
    counters = measured.daemon.context.counters
    assert (counters.misses, counters.hits) == (3, 2)


def test_inside_reports_hits_and_misses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inside, "CHUNK", 300)
    inside.report(1)
    lines = capsys.readouterr().out.splitlines()
    names = [line[:10].rstrip() for line in lines]
    assert names == ["hit", "miss", "varied hit", "fresh hit", "fresh miss"]
    assert all("us per request, of which" in line for line in lines)
