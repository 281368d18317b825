"""Checks of the documentation against the repository."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from goproxyai.errors import STATUS

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
DOCS = ROOT / "docs"

PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob(".github/**/*.md"))
)

NAMED_TEST = re.compile(r"`([\w/]+/test_\w+\.py)::(test_\w+)`")
LINK = re.compile(r"\]\(([^)\s:]+)\)")
HEADING = re.compile(r"(?m)^#+ (.*)$")
MODULE = re.compile(
    r"`(?:goproxyai/)?((?:admin|cache|cli|config|daemon|demo|egress|http11|limits|messages|proxy|reactor"
    r"|telemetry|upstream|usage)/\w+\.py|errors\.py|durations\.py|plugin\.py)`"
)
MAKE = re.compile(r"`make ([a-z]+)|(?m:^\$ (?:sudo )?make ([a-z]+))")


def read(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of *text*."""
    kept = (re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in HEADING.findall(text))
    return {heading.replace(" ", "-") for heading in kept}


def broken_links(page: str) -> list[str]:
    here = ROOT / page
    broken = []
    for link in LINK.findall(read(page)):
        name, _, anchor = link.partition("#")
        target = here.parent / name if name else here
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target.read_text("utf-8"))
        ):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_of_page_exist(page: str) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES)
def test_modules_named_on_page_exist(page: str) -> None:
    named = MODULE.findall(read(page))
    assert [name for name in named if not (ROOT / "goproxyai" / name).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_named_on_page_exist(page: str) -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", read("Makefile")))
    named = {first or second for first, second in MAKE.findall(read(page))}
    assert named <= targets


def test_classes_named_on_architecture_page_exist() -> None:
    package = "".join(path.read_text("utf-8") for path in (ROOT / "goproxyai").rglob("*.py"))
    named = re.findall(
        r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)(?:\.\w+)?`", read("docs/explanation/architecture.md")
    )
    assert named
    assert [name for name in named if not re.search(rf"(?m)^class {name}\b", package)] == []


@pytest.mark.parametrize("page", ["docs/explanation/security.md", "docs/reference/cache-rules.md"])
def test_tests_named_on_page_exist(page: str) -> None:
    named = NAMED_TEST.findall(read(page))
    assert named
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (TESTS / file).exists() or f"def {name}(" not in (TESTS / file).read_text("utf-8")
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("page", "heading"),
    [("docs/explanation/security.md", "| attack"), ("docs/reference/cache-rules.md", "| rule")],
)
def test_every_row_of_page_names_a_test(page: str, heading: str) -> None:
    rows = [line for line in read(page).splitlines() if line.startswith("| ")]
    without = [row for row in rows if not row.startswith(heading) and not NAMED_TEST.search(row)]
    assert without == []


def test_errors_page_lists_every_code_with_its_status() -> None:
    table = re.findall(r"(?m)^\| (\d{3}) \| `(\w+)` \|", read("docs/reference/errors.md"))
    listed = {code: int(status) for status, code in table}
    assert listed == STATUS | {"RATE_LIMIT_EXCEEDED": 429}


def test_llms_txt_lists_every_page() -> None:
    command = [sys.executable, str(DOCS / "llms_txt.py")]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert read("docs/llms.txt") == made, "run `python docs/llms_txt.py > docs/llms.txt`"
    listed = {link.partition("/")[0] + "/" for link in LINK.findall(made)}
    assert listed == {"tutorial/", "how-to/", "reference/", "explanation/", "adr/"}
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.name != "index.md"}
    assert pages <= set(LINK.findall(made))


def test_adr_index_lists_every_record() -> None:
    records = {path.name for path in (DOCS / "adr").glob("[0-9]*.md")}
    assert set(re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", read("docs/adr/README.md"))) == records
