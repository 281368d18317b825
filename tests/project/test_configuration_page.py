"""docs/reference/configuration.md is the generated reference of all variables."""

from __future__ import annotations

from pathlib import Path

from goproxyai.config.reference import configuration_page
from goproxyai.config.topics import FIRST_VARIABLES, topics
from goproxyai.config.variables import VARIABLES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "configuration.md"


def test_configuration_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == configuration_page()


def test_configuration_page_has_a_section_for_each_variable() -> None:
    page = configuration_page()
    for variable in VARIABLES:
        assert f"\n## {variable.name}\n\n{variable.help}\n" in page
        assert f"`--{variable.option}`" in page


def test_configuration_page_has_no_broken_table_row() -> None:
    rows = [line for line in configuration_page().splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {3}


def test_every_topic_begins_with_a_variable_and_has_settings() -> None:
    assert [topic.title for topic in topics()] == [title for title, _ in FIRST_VARIABLES]
    listed = [variable for topic in topics() for variable in topic.variables]
    assert listed == list(VARIABLES)
