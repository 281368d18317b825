"""The README says what the code does."""

from __future__ import annotations

from pathlib import Path

from goproxyai.config.variables import VARIABLES
from goproxyai.errors import STATUS

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


def settings_table() -> str:
    """The table of variables, as the README has it."""
    rows = ["| variable | default | |", "|---|---|---|"]
    for variable in VARIABLES:
        default = f"`{variable.default}`" if variable.default else "none"
        rows.append(f"| `{variable.name}` | {default} | {variable.help} |")
    return "\n".join(rows) + "\n"


def test_the_readme_lists_every_variable_with_its_default() -> None:
    text = README.read_text("utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == settings_table()


def test_the_readme_names_every_error_code() -> None:
    text = README.read_text("utf-8")
    assert [code for code in STATUS if f"`{code}`" not in text] == ["internal_error"]
