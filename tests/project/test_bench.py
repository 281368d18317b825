"""The evaluation of the benchmark's figures; the measurements themselves are not tested."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import statistics
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cryptography.x509 import DNSName, SubjectAlternativeName, load_pem_x509_certificate

from bench import inside, machine
from bench.__main__ import workloads
from bench.certificates import issue
from bench.cores import Sample
from bench.gateways import GATEWAYS
from bench.growth import powers
from bench.inside import InMemoryDaemon
from bench.inside_log import DiscardingWriter, LoggedDaemon
from bench.machine import HERE
from bench.peers import PEERS
from bench.plot import Bar, Group, Scale, plot
from bench.report import (
    PAGE,
    README,
    cell_text,
    figures,
    number,
    replaced,
    verdict,
    with_readme_figures,
)
from bench.results import Cell, Measure, Results, Run
from bench.sizes import ANSWERS, COUNT, QUESTIONS, Sizes, exchanges, sizes_file
from bench.targets import TARGETS, Figure, Target
from bench.workload import FULL
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
    (target,) = (each for each in TARGETS if each.title == "miss / Go original")
    return dataclasses.replace(target, title="miss", bound=bound)


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
    lost = Target("lost", 0, lambda _found: Figure(0.0), at_most=True)
    assert verdict(lost, results()) == "| lost | at most 0 | 0 | reached |"


@pytest.mark.parametrize(
    ("busy", "other_busy", "mark"),
    [(1.0, 1.0, ""), (0.5, 1.0, "≥ "), (1.0, 0.5, "≤ "), (0.5, 0.5, "~ ")],
)
def test_ratio_of_lower_bounds_is_marked(busy: float, other_busy: float, mark: str) -> None:
    found = results()
    found.add("miss", "goproxyai", Run({"miss": 300.0}, busy=busy))
    found.add("miss", "original", Run({"miss": 100.0}, busy=other_busy))
    assert verdict(miss_target(2), found) == f"| miss | at least 2 | {mark}3 | reached |"


def test_single_value_can_be_a_lower_bound() -> None:
    run = Run({"miss": 70.0, "hit": 80.0}, bounds=("miss",))
    assert [run.bounded(key) for key in ("miss", "hit")] == [True, False]


def test_count_is_no_lower_bound_if_the_daemon_is_unsaturated() -> None:
    found = Results([("clients", Measure("known", "clients with a bucket", "clients"))])
    found.add("clients", "goproxyai", Run({"known": 100.0}, busy=0.5))
    assert cell_text(found.cell("known", "goproxyai"), failed=False) == "100"


def test_raw_results_have_every_run_and_say_which_are_excluded() -> None:
    found = results(original=[100.0])
    found.add("miss", "original", Run({"miss": 10.0}, others=0.5))
    found.failures["miss", "nginx"] = "refused"
    raw = json.loads(json.dumps(found.raw()))
    assert [(run["values"], run["counted"]) for run in raw["runs"]] == [
        ({"miss": 100.0}, True),
        ({"miss": 10.0}, False),
    ]
    assert raw["failures"] == [["miss", "nginx", "refused"]]


def test_each_target_has_a_measure() -> None:
    measures = [(w.name, m) for w in workloads(FULL) for m in w.measures]
    found = Results(measures)
    for workload, peer in {(w.name, peer) for w in workloads(FULL) for peer in w.peers}:
        values = {m.key: 2.0 if peer == "direct" else 6.0 for w, m in measures if w == workload}
        found.add(workload, peer, Run(values))
    assert [target.title for target in TARGETS if target.figure(found) is None] == []


def test_every_peer_of_a_workload_is_known() -> None:
    assert {peer for each in workloads(FULL) for peer in each.peers} == {*PEERS, *GATEWAYS}


@pytest.mark.parametrize(("sizes", "mean"), [(QUESTIONS, 16_600), (ANSWERS, 5_320)])
def test_sizes_have_the_stated_distribution(sizes: Sizes, mean: int) -> None:
    drawn = sizes.draw(COUNT)
    assert (drawn[0], drawn[-1]) == (sizes.least, sizes.most)
    assert drawn == sorted(drawn)
    assert statistics.median(drawn) == pytest.approx(sizes.median, rel=0.01)
    assert statistics.mean(drawn) == pytest.approx(mean, rel=0.01)


def test_sizes_are_the_same_in_each_run_and_independent_of_each_other() -> None:
    pairs = exchanges()
    assert pairs == exchanges()
    assert len(pairs) == COUNT
    questions = [math.log(question) for question, _ in pairs]
    correlation = statistics.correlation(questions, [math.log(answer) for _, answer in pairs])
    assert abs(correlation) < 0.1
    assert sizes_file(pairs[:1]) == f"{pairs[0][0]} {pairs[0][1]}\n"


def test_certificate_is_signed_by_the_root_for_loopback(tmp_path: Path) -> None:
    files = issue(tmp_path)
    root = load_pem_x509_certificate(files.root.read_bytes())
    certificate = load_pem_x509_certificate(files.certificate.read_bytes())
    certificate.verify_directly_issued_by(root)
    names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    assert names.get_values_for_type(DNSName) == ["localhost"]


def test_speed_up_is_limited_by_the_largest_share_of_the_connections() -> None:
    assert Sample(serving=50.0, parent=1.0, share=0.6).limit == 31.0


def test_program_of_another_source_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "BUILD", tmp_path)
    (tmp_path / "gauge").touch()
    with pytest.raises(SystemExit, match="--build-only"):
        machine.built("gauge")
    (tmp_path / "gauge.sum").write_text(f"{machine.source_sum('gauge')}  -\n")
    assert machine.built("gauge") == str(tmp_path / "gauge")


@pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed")
def test_gauge_passes_its_own_tests() -> None:
    done = subprocess.run(
        ["go", "test", "."],
        cwd=HERE / "gauge",
        env={**os.environ, "GO111MODULE": "off", "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


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


def test_readme_gets_the_figures_of_a_complete_run_only() -> None:
    text = README.read_text("utf-8")
    found = Results([("hit", Measure("hit", "hit", "req/s")), ("miss", RATE)])
    found.add("hit", "goproxyai", Run({"hit": 12_345.0}))
    assert with_readme_figures(text, found) == text
    found.add("miss", "goproxyai", Run({"miss": 6_789.0}))
    changed = with_readme_figures(text, found)
    assert "**12,300 cache hits** or **6,790 forwarded requests**" in changed
    assert len(changed.splitlines()) == len(text.splitlines())


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


def test_logged_requests_are_formatted(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(DiscardingWriter, "write", lambda _, data: written.append(data))
    measured = LoggedDaemon()
    measured.send(1)
    measured.flush_log()
    assert [json.loads(line)["cache"] for line in b"".join(written).splitlines()] == ["MISS"]


def test_inside_reports_hits_and_misses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inside, "CHUNK", 300)
    inside.report(1)
    lines = capsys.readouterr().out.splitlines()
    names = [line[:10].rstrip() for line in lines]
    assert names == ["hit", "miss", "varied hit", "fresh hit", "fresh miss"]
    assert all("us per request, of which" in line for line in lines)
