"""The documents name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
SECURITY = ROOT / "docs" / "security.md"

NAMED = re.compile(r"`([\w/]+/test_\w+\.py)::(test_\w+)`")
LINK = re.compile(r"\]\(([^)#:]+)\)")


def test_every_test_that_the_security_document_names_is_there() -> None:
    named = NAMED.findall(SECURITY.read_text("utf-8"))
    assert named
    missing = [
        f"{file}::{name}"
        for file, name in named
        if f"def {name}(" not in (TESTS / file).read_text("utf-8")
    ]
    assert missing == []


def test_every_row_of_the_security_document_names_a_test() -> None:
    rows = [line for line in SECURITY.read_text("utf-8").splitlines() if line.startswith("| ")]
    without = [row for row in rows if not row.startswith("| attempt") and not NAMED.search(row)]
    assert without == []


@pytest.mark.parametrize(
    "document", ["SECURITY.md", "docs/security.md", "docs/metrics.md", "README.md"]
)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    path = ROOT / document
    broken = [to for to in LINK.findall(path.read_text("utf-8")) if not (path.parent / to).exists()]
    assert broken == []
