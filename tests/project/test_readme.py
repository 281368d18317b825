"""Checks of README.md against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from goproxyai.config.variables import VARIABLES

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
MAX_LINES = 150

DEFAULTS = {variable.name: variable.default for variable in VARIABLES}
STEPS = {
    "request_id", "handler", "admission", "request_plan", "cache_lookup", "forward",
    "single_flight", "flight", "subscriber", "resume", "upstream_request", "replay", "recorder",
    "error_response", "tunnel",
}  # fmt: skip
"""Modules of goproxyai/proxy/ that a request passes, as the diagrams name them."""

SETTING_ROW = re.compile(r"(?m)^\| `([A-Z_]+)` \| (?:`([^`]*)`|([^|]*)) \|")


def test_readme_has_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= MAX_LINES


def test_readme_lists_ten_settings_with_their_defaults() -> None:
    rows = SETTING_ROW.findall(README)
    assert len(rows) == 10
    wrong = [
        name
        for name, default, description in rows
        if name not in DEFAULTS
        or (default and default != DEFAULTS[name])
        or (description == "none" and DEFAULTS[name])
    ]
    assert wrong == []


@pytest.mark.parametrize("page", ["README.md", "docs/explanation/architecture.md"])
def test_request_path_diagram_names_the_steps_of_the_proxy_package(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    (diagram,) = re.findall(r"(?s)```text\n(client .*?)```", text)
    words = set(re.findall(r"\w+", diagram))
    assert words >= STEPS
    assert {word for word in words if "_" in word} <= STEPS
    missing = [step for step in STEPS if not (ROOT / f"goproxyai/proxy/{step}.py").exists()]
    assert missing == []


def test_readme_performance_figures_are_those_of_the_benchmark() -> None:
    page = (ROOT / "docs" / "explanation" / "performance.md").read_text("utf-8")
    measured = {}
    header = next(line for line in page.splitlines() if "| goproxyai |" in line).split("|")
    column = [cell.strip() for cell in header].index("goproxyai")
    for name in ("hit", "miss"):
        (row,) = re.findall(rf"(?m)^\| {name} \| req/s \|.*$", page)
        measured[name] = row.split("|")[column].removeprefix(" ≥").split()[0]
    assert f"**{measured['hit']} cache hits**" in README
    assert f"**{measured['miss']} forwarded requests**" in README
