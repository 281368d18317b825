"""The generated part of docs/explanation/performance.md: machine, figures, failures, targets."""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from bench.machine import CHECKOUT, first_line, processor, tool
from bench.peers import Peer
from bench.plot import Bar, Group, plot
from bench.results import BARE, Cell, Results
from bench.targets import OURS, TARGETS, Target

PAGE = CHECKOUT / "docs" / "explanation" / "performance.md"
README = CHECKOUT / "README.md"
RAW = CHECKOUT / "build" / "bench"
"""The directory of the raw results, which are not part of the repository."""
CHART = PAGE.with_suffix(".svg")
BEGIN, END = "<!-- bench: begin -->\n", "<!-- bench: end -->\n"
BASE = "original"
PLOTTED = (
    "hit",
    "hit_tls",
    "hit_fresh",
    "miss",
    "miss_plain",
    "miss_fresh",
    "connect",
    "mixed",
    "frames",
    "up",
    "down",
)
"""The measures in the chart, all rates."""


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """A run of the benchmark; the durations of preparation and measurement are in seconds."""

    command: str
    began: datetime.datetime
    set_up: float
    measured: float
    scale: str
    notes: Sequence[str]


def number(value: float) -> str:
    """*value* with three significant digits: 34,120 -> 34,100; 0.5123 -> 0.512."""
    if abs(value) >= 100:
        step = 10 ** max(0, len(str(int(abs(value)))) - 3)
        return f"{round(value / step) * step:,}"
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.2g}"


def cell_text(cell: Cell | None, failed: bool) -> str:
    """The median, half the spread and the marks of a cell."""
    if failed:
        return "failed"
    if cell is None:
        return ""
    spread = f" ±{cell.spread:.0%}" if cell.spread >= 0.005 else ""
    bound = "" if cell.saturated else "≥ "
    return f"{bound}{number(cell.value)}{spread}{'' if cell.quiet else ' !'}"


def figures(results: Results, peers: Mapping[str, Peer]) -> str:
    """The table of figures, with a row for each measure and a column for each peer."""
    shown = [name for name in peers if any(name == peer for _, peer in _cells(results))]
    lines = [
        "| | " + " | ".join(["", *(peers[name].title for name in shown)]) + " |",
        "|---|---|" + "---:|" * len(shown),
    ]
    for measure in results.measures.values():
        cells = [
            cell_text(results.cell(measure.key, name), results.failed(measure.key, name))
            for name in shown
        ]
        if measure.added and BARE in shown:
            cells[shown.index(BARE)] = f"({cells[shown.index(BARE)]})"
        lines.append(f"| {measure.title} | {measure.unit} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cells(results: Results) -> set[tuple[str, str]]:
    return {*results.runs, *results.failures}


def verdict(target: Target, results: Results) -> str:
    """One row of the table of targets."""
    figure, reached = target.figure(results), target.reached(results)
    bound = f"{'at most' if target.at_most else 'at least'} {number(target.bound)} {target.unit}"
    text = {True: "reached", False: "**not reached**", None: "not measured"}[reached]
    measured = ""
    if figure is not None:
        measured = f"{figure.mark}{number(figure.value)} {target.unit}".rstrip()
    return f"| {target.title} | {bound.rstrip()} | {measured} | {text} |"


def targets(results: Results) -> str:
    """The table of targets."""
    rows = [verdict(target, results) for target in TARGETS]
    return "\n".join(["| goproxyai | target | measured | |", "|---|---|---:|---|", *rows]) + "\n"


def groups(results: Results, peers: Mapping[str, Peer]) -> list[Group]:
    """The bars of the chart: for each rate, the ratio of every proxy to the Go original."""
    found = []
    for key in PLOTTED:
        if key not in results.measures:
            continue
        ratios = {name: results.ratio(key, name, BASE) for name in peers}
        bars = [
            Bar(peers[name].title, ratio, name == OURS)
            for name, ratio in ratios.items()
            if ratio and name not in (BARE, BASE)
        ]
        if bars:
            found.append(Group(results.measures[key].title, bars))
    return found


def machine() -> list[str]:
    """The machine and the versions of all programs."""
    go, nginx = first_line("go", "version"), first_line(tool("nginx"), "-v")
    wrk = first_line(tool("wrk"), "-v").partition(" [")[0]
    names = ("twisted", "klein", "treq", "httptools")
    build = " of the distribution" if sys.base_prefix == "/usr" else ""
    packages = ", ".join(f"{n} {version(n)}" for n in names)
    python = f"Python {platform.python_version()}{build}, {packages}"
    commit = first_line("git", "rev-parse", "--short=12", "HEAD")
    changed = "" if not first_line("git", "status", "--porcelain", "goproxyai") else " and changes"
    release = f"Linux {platform.release()}"
    tools = [
        nginx.removeprefix("nginx version: "),
        re.sub(r"^go version (\S+).*", r"\1", go),
        wrk,
    ]
    return [
        f"Machine: {processor()}, {release}.",
        f"Versions: goproxyai {version('goproxyai')} (commit {commit}{changed}), {python}, "
        + ", ".join(filter(None, tools))
        + ".",
    ]


def remarks(results: Results, info: RunInfo) -> list[str]:
    """Disturbed runs, notes, absent peers and failures."""
    lines = []
    disturbed, runs, most = results.disturbed()
    if disturbed:
        lines.append(
            f"{disturbed} of {runs} runs were disturbed in every attempt: other processes used up"
            f" to {most:.0%} of a core. A figure without an undisturbed run is marked with `!`."
        )
    lines += info.notes
    lines += [f"{peer} is missing: {reason}" for peer, reason in results.absent.items()]
    lines += [
        f"Failed: {workload}, {peer}: {' '.join(reason.split())[:400]}"
        for (workload, peer), reason in results.failures.items()
    ]
    return lines


def page_part(results: Results, peers: Mapping[str, Peer], info: RunInfo) -> str:
    """The generated part of the page."""
    when = info.began.strftime("%Y-%m-%d %H:%M UTC")
    about = [
        f"Measured {when} with `{info.command}` ({info.scale}), in"
        f" {info.measured:.0f} s after {info.set_up:.0f} s of preparation.",
        *machine(),
    ]
    items = "".join(f"- {line}\n" for line in remarks(results, info))
    return (
        "\n".join(about)
        + "\n\n![Rates as multiples of the Go original]("
        + CHART.name
        + ")\n\n"
        + figures(results, peers)
        + "\n"
        + (items and items + "\n")
        + "### Targets\n\n"
        + targets(results)
    )


def replaced(page: str, part: str) -> str:
    """*page* with *part* as its generated part."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} has no markers {BEGIN.strip()} and {END.strip()}")
    return before + BEGIN + part + END + after


def write_raw(results: Results, info: RunInfo) -> Path:
    """Write the values of every run as JSON, and return the file."""
    RAW.mkdir(parents=True, exist_ok=True)
    path = RAW / f"{info.began:%Y-%m-%dT%H%M%SZ}.json"
    document = {
        "command": info.command,
        "began": info.began.isoformat(),
        "about": machine(),
        "notes": list(info.notes),
        **results.raw(),
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


README_FIGURES = re.compile(
    r"goproxyai \S+ serves \*\*[\d,]+ cache hits\*\* or \*\*[\d,]+ forwarded requests\*\*"
)


def with_readme_figures(text: str, results: Results) -> str:
    """The README with the figures of this run; unchanged if they were not measured."""
    hit, miss = results.value("hit", OURS), results.value("miss", OURS)
    if hit is None or miss is None:
        return text
    figures = f"**{number(hit)} cache hits** or **{number(miss)} forwarded requests**"
    return README_FIGURES.sub(f"goproxyai {version('goproxyai')} serves {figures}", text)


def write_readme(results: Results) -> None:
    """Write the figures of the README."""
    README.write_text(with_readme_figures(README.read_text("utf-8"), results), "utf-8")


def write(part: str, chart: list[Group]) -> None:
    """Write the generated part into the page, and the chart next to the page."""
    PAGE.write_text(replaced(PAGE.read_text("utf-8"), part), "utf-8")
    CHART.write_text(plot(chart, "the Go original"), "utf-8")
