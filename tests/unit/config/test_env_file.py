"""A file of NAME=value lines."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.config.env_file import MAX_FILE_BYTES, EnvFileError, parse_env_file

NAMES = ("RATE_LIMIT", "ADMIN_TOKEN", "NO_PROXY")
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("RATE_LIMIT=60", "60"),
        ("  RATE_LIMIT = 60\t", "60"),
        ("RATE_LIMIT=60\r", "60"),
        ("RATE_LIMIT=", ""),
        ('RATE_LIMIT=""', ""),
        ("RATE_LIMIT='60'", "60"),
        ('RATE_LIMIT=" 60 "', " 60 "),
        ('RATE_LIMIT="it\'s"', "it's"),
        ("RATE_LIMIT=it's", "it's"),
        ("RATE_LIMIT=a=b", "a=b"),
        ("RATE_LIMIT=60 # a minute", "60 # a minute"),
        ("RATE_LIMIT=$HOME\\n", "$HOME\\n"),
        ("RATE_LIMIT='$HOME\\n'", "$HOME\\n"),
        ("RATE_LIMIT=\u00fc", "\u00fc"),
    ],
)
def test_line_is_parsed(line: str, value: str) -> None:
    assert parse_env_file(line.encode(), NAMES) == {"RATE_LIMIT": value}


def test_blank_lines_and_comments_are_ignored() -> None:
    text = "\ufeff# one\n\n   ; two\r\n\t# three=4\nRATE_LIMIT=1\n  \nNO_PROXY=a b"
    assert parse_env_file(text.encode(), NAMES) == {"RATE_LIMIT": "1", "NO_PROXY": "a b"}
    assert parse_env_file(b"", NAMES) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\nRATE_LIMIT", "line 2 is not NAME=value"),
        (b"=60", "line 1 is not NAME=value"),
        (b"export RATE_LIMIT=60", "line 1 is not NAME=value"),
        (b"RATE-LIMIT=60", "line 1 is not NAME=value"),
        (b"ADMIN_TOKEN: hunter2", "line 1 is not NAME=value"),
        (b"RATE_LIMT=60", "line 1: RATE_LIMT is not a setting for this file"),
        (b"rate_limit=60", "line 1: that name is not a setting for this file"),
        (b"%b=60" % (b"A" * 99), "line 1: that name is not a setting for this file"),
        (b"RATE_LIMIT=1\n#\nRATE_LIMIT=1", "line 3: RATE_LIMIT is set before"),
        (b"ADMIN_TOKEN='hunter2", "line 1: the quotes are not one pair around the value"),
        (b"ADMIN_TOKEN='", "line 1: the quotes are not one pair around the value"),
        (b"ADMIN_TOKEN='a'hunter2'", "line 1: the quotes are not one pair around the value"),
        (b'ADMIN_TOKEN="a" # hunter2', "line 1: the quotes are not one pair around the value"),
        (b"ADMIN_TOKEN=hunter2\xff", "it is not UTF-8"),
        (b"#" * (MAX_FILE_BYTES + 1), "it is larger than 64 KiB"),
    ],
)
def test_error_names_line_number_and_not_the_line(content: bytes, message: str) -> None:
    with pytest.raises(EnvFileError) as caught:
        parse_env_file(content, NAMES)
    assert str(caught.value) == message
    assert SECRET not in message
    assert caught.value.__context__ is None


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n'"), max_size=50))
def test_quoted_text_is_the_value(text: str) -> None:
    assert parse_env_file(f"RATE_LIMIT='{text}'\n".encode(), NAMES) == {"RATE_LIMIT": text}


@given(st.binary(max_size=200))
def test_any_content_is_parsed_or_refused(content: bytes) -> None:
    with suppress(EnvFileError):
        assert set(parse_env_file(content, NAMES)) <= set(NAMES)


def test_secret_on_a_line_of_its_own_is_not_in_the_error() -> None:
    with pytest.raises(EnvFileError) as caught:
        parse_env_file(b"ADMIN_TOKEN=\nc2VjcmV0c2VjcmV0c2VjcmV0==\n", NAMES)
    assert "c2Vj" not in str(caught.value)
