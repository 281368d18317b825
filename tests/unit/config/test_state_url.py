"""The URL of the shared state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.config.settings import Settings
from goproxyai.config.state_url import StateURL, parse_state_url, show_state_url
from goproxyai.config.variable import SettingError

SECRET = "sixteen-characters"


@pytest.mark.parametrize(
    ("text", "url", "masked"),
    [
        ("redis://h", StateURL((("h", 6379),)), "redis://h:6379/0"),
        ("REDISS://H:1/2", StateURL((("h", 1),), secured=True, database=2), "rediss://h:1/2"),
        ("redis://[::1]:7/", StateURL((("::1", 7),)), "redis://[::1]:7/0"),
        (
            "redis://:p%40w@h",
            StateURL((("h", 6379),), password="p@w"),
            "redis://***:***@h:6379/0",
        ),
        (
            "redis://u:w@h/3",
            StateURL((("h", 6379),), database=3, username="u", password="w"),
            "redis://***:***@h:6379/3",
        ),
        ("unix:///run/a%20b", StateURL((), "/run/a b"), "unix:///run/a b"),
        (
            "unix://u:w@/run/r.sock?db=4",
            StateURL((), "/run/r.sock", database=4, username="u", password="w"),
            "unix://***:***@/run/r.sock?db=4",
        ),
        (
            "redis+sentinel://a,b:7/main/1",
            StateURL((("a", 26379), ("b", 7)), service="main", database=1),
            "redis+sentinel://a:26379,b:7/main/1",
        ),
        (
            "rediss+sentinel://:w@[::1]/main",
            StateURL((("::1", 26379),), service="main", secured=True, password="w"),
            "rediss+sentinel://***:***@[::1]:26379/main/0",
        ),
    ],
)
def test_valid_url(text: str, url: StateURL, masked: str) -> None:
    assert parse_state_url(text) == url
    assert show_state_url(text) == masked


def test_empty_url_has_no_value() -> None:
    assert parse_state_url("") is None
    assert show_state_url("") == ""


@pytest.mark.parametrize(
    "text",
    [
        "h:6379", "http://h", "redis://", "redis://h:0", "redis://h:65536", "redis://h/x",
        "redis://h/1/2", "redis://h/1?x=1", "redis://h/9999999", "redis://a,b", "redis://user@h",
        "redis://u:p/w@h", "redis://u:p w@h", "redis://h_/-:x", "redis+sentinel://h",
        "redis+sentinel://h/", "redis+sentinel://h/a%20b", "unix://", "unix://relative",
        "unix:///a?db=x", "unix:///a%00b", "unix+sentinel:///a", "redis://u:%ff@h",
        "redis://" + "h" * 3000, "redis+sentinel://" + ",".join(["h"] * 17) + "/main",
    ],
)  # fmt: skip
def test_invalid_url(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_state_url(text)


@given(word=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4, max_size=20))
def test_error_line_never_shows_a_password(word: str) -> None:
    password = f"Pw{word}Wp"
    for text in (f"redis://u:{password}@h:x", f"redis://:{password}@h/nodb"):
        with pytest.raises(SettingError) as caught:
            Settings.from_texts({"STATE_URL": text, "STATE_SECRET": SECRET})
        assert password not in str(caught.value)


def test_representation_has_no_credentials() -> None:
    assert "word" not in repr(parse_state_url("redis://user:word@h"))


def test_secret_is_required_and_never_shown() -> None:
    with pytest.raises(SettingError, match="STATE_SECRET is not set"):
        Settings.from_texts({"STATE_URL": "redis://h"})
    with pytest.raises(SettingError, match=r"STATE_SECRET is '\*\*\*', expected at least 16"):
        Settings.from_texts({"STATE_URL": "redis://h", "STATE_SECRET": "short"})
    settings = Settings.from_texts({"STATE_URL": "redis://h", "STATE_SECRET": SECRET})
    assert settings.state_secret == SECRET
    assert SECRET not in repr(settings)


def test_strict_and_prefix() -> None:
    settings = Settings.from_texts({"STATE_STRICT": "1", "STATE_PREFIX": "team/a:{x}."})
    assert (settings.state_strict, settings.state_prefix) == (True, "team/a:{x}.")
    for name, text in (("STATE_STRICT", "yes"), ("STATE_PREFIX", "a b"), ("STATE_PREFIX", "a*")):
        with pytest.raises(SettingError, match=name):
            Settings.from_texts({name: text})
