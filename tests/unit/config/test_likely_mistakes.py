"""Warnings about settings that are valid and probably not intended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.config.likely_mistakes import likely_mistakes
from goproxyai.config.variables import VARIABLES

NAMES = frozenset(variable.name for variable in VARIABLES)


def warnings(**environ: str) -> list[str]:
    texts = {name: text for name, text in environ.items() if name in NAMES}
    return list(likely_mistakes(texts, environ))


def test_usual_settings_cause_no_warning() -> None:
    assert warnings() == []
    assert warnings(
        OPENAI_API_URL="https://api.openai.com https://proxy.example/openai",
        PROXY_URL="http://proxy:8080",
        HTTPS_PROXY="http://other:8080",
        NO_PROXY="localhost,.corp.example",
        no_proxy="localhost",
    ) == []  # fmt: skip


def test_dropped_version_is_reported() -> None:
    (line,) = warnings(OPENAI_API_URL="https://a.example https://b.example/openai/v1/")
    assert line == (
        "OPENAI_API_URL has https://b.example/openai/v1/, expected a URL without /v1, because the "
        "paths of requests begin with it; the /v1 is dropped"
    )


def test_skipped_entries_are_reported_in_one_line() -> None:
    (line,) = warnings(NO_PROXY="localhost,a..b,10.0.0.0/99")
    assert line == (
        "NO_PROXY has 'a..b', '10.0.0.0/99', expected hosts, .suffixes, addresses or networks; "
        "these entries are skipped"
    )
    (line,) = warnings(NO_PROXY=",".join("a..b" + "x" * n for n in range(100)))
    assert "and 95 more" in line


@pytest.mark.parametrize("entry", ["http://user:hunter2@host", "user:hunter2@host", "sk-hunter2/x"])
def test_warning_about_entry_has_no_credentials(entry: str) -> None:
    (line,) = warnings(NO_PROXY=entry)
    assert "hunter2" not in line


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_proxy_of_other_programs_is_reported_without_its_value(name: str) -> None:
    (line,) = warnings(**{name: "http://user:hunter2@proxy:8080"})
    assert line.startswith(f"{name} is set and has no effect: ")
    assert "PROXY_URL" in line
    assert "hunter2" not in line
    assert warnings(**{name: " "}) == []


def test_empty_proxy_url_asks_for_direct_connections() -> None:
    assert warnings(HTTPS_PROXY="http://proxy:8080", PROXY_URL="") == []


def test_near_miss_is_reported_without_its_value() -> None:
    (line,) = warnings(ADMINTOKEN="hunter2")
    assert line == "ADMINTOKEN is set and is not a setting of goproxyai; did you mean ADMIN_TOKEN?"


def test_base_url_of_clients_is_reported_as_such() -> None:
    (line,) = warnings(OPENAI_BASE_URL="http://localhost:8080/v1")
    assert line.startswith("OPENAI_BASE_URL is set and has no effect: it is for clients; ")
    assert line.endswith("OPENAI_API_URL sets the upstream")


def test_lower_case_no_proxy_is_reported_with_an_egress_proxy_only() -> None:
    assert warnings(no_proxy="localhost") == []
    (line,) = warnings(no_proxy="localhost", PROXY_URL="http://proxy:8080")
    assert "NO_PROXY" in line


@given(st.text(max_size=60))
def test_warning_is_one_printable_line(text: str) -> None:
    for line in warnings(NO_PROXY=text):
        assert line.isascii()
        assert line.isprintable()
