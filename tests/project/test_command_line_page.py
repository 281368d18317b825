"""docs/reference/command-line.md and docs/goproxyai.1 are generated from the tables."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from goproxyai.cli.commands import COMMANDS
from goproxyai.cli.man_page import man_page
from goproxyai.cli.reference import reference_page
from goproxyai.config.variables import VARIABLES

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_command_line_page_is_up_to_date() -> None:
    assert (DOCS / "reference" / "command-line.md").read_text("utf-8") == reference_page()


def test_manual_page_is_up_to_date() -> None:
    assert (DOCS / "goproxyai.1").read_text("utf-8") == man_page()


def test_manual_page_has_every_command_and_setting() -> None:
    page = man_page().replace("\\-", "-")
    for command in COMMANDS:
        assert f"\n.SH {command.name.upper()}\n" in page
        assert all(f"--{option.name}" in page for option in command.options)
    for variable in VARIABLES:
        assert f"\n.B --{variable.option}=" in page
        assert f"Variable: {variable.name}." in page


def test_manual_page_has_no_line_that_troff_would_misread() -> None:
    requests = {".TH", ".SH", ".SS", ".TP", ".B", ".BR", ".br", ".PP", ".RS", ".RE", ".nf", ".fi"}
    lines = man_page().splitlines()
    assert {line.split()[0] for line in lines if line.startswith((".", "'"))} <= requests


def test_manual_page_renders_without_warnings() -> None:
    mandoc = shutil.which("mandoc")
    if mandoc is None:
        pytest.skip("mandoc is not installed")
    done = subprocess.run(
        [mandoc, "-T", "lint", "-W", "warning", DOCS / "goproxyai.1"],
        capture_output=True,
        text=True,
        check=False,
    )
    findings = [line for line in done.stdout.splitlines() if "missing date" not in line]
    assert findings == []
