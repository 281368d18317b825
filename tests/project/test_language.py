"""Technical text uses the field's terms; :mod:`.language` has the rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project.language import findings, findings_in, texts_of_other, texts_of_python

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
EXEMPT = {HERE / "language.py", HERE / "test_language.py"}

SCOPES = {
    "pages": ["*.md", "docs/**/*.md", ".github/**/*.md"],
    "project": [
        "Makefile", "*.ini", "*.toml", ".*.yaml", ".editorconfig", ".ci/run", "deploy/Dockerfile",
        "deploy/*.yml", "deploy/*.env", "deploy/*.service", "deploy/*.socket", "deploy/*.conf",
    ],
    "package": ["goproxyai/**/*.py", "twisted/**/*.py"],
    "tests": ["tests/**/*.py"],
    "bench": ["bench/**/*.py"],
    "examples": ["examples/**/*.py"],
    "docs": ["docs/*.py"],
}  # fmt: skip

INSTALLED = {"node_modules", ".build"}
"""Directories below which other projects' files are installed."""


def files(scope: str) -> list[Path]:
    found = {path for pattern in SCOPES[scope] for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(path for path in found - EXEMPT if not INSTALLED.intersection(path.parts))


def report(scope: str) -> list[str]:
    """Return one line for each finding in the files of *scope*."""
    lines = []
    for path in files(scope):
        name = str(path.relative_to(ROOT))
        for found in findings_in(path, messages=scope == "package"):
            lines.append(f"{name}:{found.line}: {found.words!r}: {found.advice}")
    return lines


@pytest.mark.parametrize("scope", SCOPES)
def test_text_uses_technical_language(scope: str) -> None:
    found = report(scope)
    assert found == [], "\n".join(found)


@pytest.mark.parametrize("scope", SCOPES)
def test_scope_is_not_empty(scope: str) -> None:
    assert files(scope)


@pytest.mark.parametrize(
    "source",
    [
        "# Nobody waits for it.",
        'def f() -> None:\n    """Whoever asks is answered."""',
        'A = 1\n"""Seconds for which the client rides along."""',
        "def test_who_comes_first() -> None: ...",
        "class Rider: ...",
        'def f() -> None:\n    """Begin."""',
        "# the answer behind it",
        'raise ValueError("that is none")',
    ],
)
def test_planted_word_is_reported(source: str) -> None:
    assert list(findings(texts_of_python(source, messages=True)))


def test_finding_has_the_line_of_the_word() -> None:
    source = '"""Title.\n\nFirst line.\nThen whoever\nreads.\n"""'
    assert [found.line for found in findings(texts_of_python(source))] == [4]


def test_code_in_backticks_is_not_prose() -> None:
    assert list(findings(texts_of_python('"""Calls ``nobody`` and `whom`."""'))) == []


def test_pages_may_speak_of_people() -> None:
    page = "Users who need more than that read on."
    assert list(findings(texts_of_other(page, ".md"))) == []
    assert len(list(findings(texts_of_other("Nobody reads on.", ".md")))) == 1
