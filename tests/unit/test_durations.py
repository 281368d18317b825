"""Durations in Go's syntax, parsed and formatted."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.durations import MAX_NANOSECONDS, UNITS, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("+0", 0.0),
        ("0s", 0.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("300us", 0.0003),
        ("300\u00b5s", 0.0003),
        ("300\u03bcs", 0.0003),
        ("7ns", 7e-9),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("+2m", 120.0),
        ("1s1h", 3601.0),
        ("0.9ns", 0.0),
        ("2562047h47m16.854775807s", MAX_NANOSECONDS / 1e9),
    ],
)
def test_valid_duration_is_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "s",
        ".s",
        ".",
        "+",
        "-1s",
        "-0",
        "1 s",
        " 1s",
        "1s ",
        "1s\n",
        "1d",
        "1S",
        "1e3s",
        "1_0s",
        "1..5s",
        "++1s",
        "nan",
        "inf",
        "\u0661s",
        "1h-30m",
        "2562047h47m16.854775808s",
        "9223372036854775808ns",
        "9" * 5000 + "ns",
    ],
)
def test_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (300, "5m0s"),
        (5400, "1h30m0s"),
        (1.5, "1.5s"),
        (0.25, "250ms"),
        (0.0015, "1.5ms"),
        (0.0003, "300\u00b5s"),
        (7e-9, "7ns"),
        (1e-10, "0s"),
        (60, "1m0s"),
        (59.999, "59.999s"),
        (0.9999999999, "1s"),
        (8_640_000.1, "2400h0m0.1s"),
    ],
)
def test_duration_is_formatted_as_in_go(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("seconds", [-1, -1e-9, float("nan"), float("inf"), 1e10])
def test_invalid_duration_is_not_formatted(seconds: float) -> None:
    with pytest.raises(ValueError, match="duration"):
        format_duration(seconds)


@given(st.integers(0, MAX_NANOSECONDS))
def test_formatted_duration_is_parsed_to_the_same_value(nanoseconds: int) -> None:
    seconds = parse_duration(f"{nanoseconds}ns")
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 10**15 - 1))
def test_parsing_is_exact_to_the_nanosecond_within_eleven_days(nanoseconds: int) -> None:
    text = format_duration(nanoseconds / 1e9)
    assert parse_duration(text) == nanoseconds / 1e9
    assert format_duration(parse_duration(text)) == text


@given(st.lists(st.tuples(st.integers(0, 1000), st.sampled_from(sorted(UNITS))), min_size=1))
def test_parts_add_up_in_any_order(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{count}{unit}" for count, unit in parts)
    total = sum(count * UNITS[unit] for count, unit in parts)
    if len(text) <= 256:
        assert parse_duration(text) == total / 10**9


@given(st.text())
def test_any_text_is_parsed_or_raises_value_error(text: str) -> None:
    with suppress(ValueError):
        assert parse_duration(text) >= 0
