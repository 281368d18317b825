"""The settings that decide which requests are looked up in the cache."""

from __future__ import annotations

import pytest

from goproxyai.cache.post_paths import ALWAYS_CACHED
from goproxyai.config.settings import Settings
from goproxyai.config.variable import SettingError


def settings(**texts: str) -> Settings:
    return Settings.from_texts(texts)


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("", ()),
        ("embeddings", ()),
        ("responses", ("responses",)),
        ("images/generations, audio/speech", ("images/generations", "audio/speech")),
    ],
)
def test_cache_paths_are_added_to_the_standard_ones(text: str, added: tuple[str, ...]) -> None:
    assert settings(CACHE_PATHS=text).cache_paths == (*ALWAYS_CACHED, *added)


@pytest.mark.parametrize("text", ["/v1/responses", "v1/responses", "responses/", "a?b", "*"])
def test_invalid_cache_path_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"^CACHE_PATHS is "):
        settings(CACHE_PATHS=text)


def test_ignored_headers_are_names_and_prefixes_in_any_case() -> None:
    found = settings(CACHE_IGNORE_HEADERS="X-Team, x-corp-* x-team").cache_ignore_headers
    assert found == ("x-team", "x-corp-*")


def test_ignored_cookies_keep_their_case() -> None:
    assert settings(CACHE_IGNORE_COOKIES="AWSALB,incap_ses_*").cache_ignore_cookies == (
        "AWSALB",
        "incap_ses_*",
    )


@pytest.mark.parametrize(
    "text",
    [
        *("*", "x-*-team", "x team:", "x-ä", "a=b"),
        *("Authorization", "api-key", "X-API-Key", "Accept", "X-Cache-Namespace"),
        *("Cookie", "Range", "if-range", "x-stainless-poll-helper"),
    ],
)
def test_header_that_cannot_be_ignored_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"^CACHE_IGNORE_HEADERS is "):
        settings(CACHE_IGNORE_HEADERS=text)


@pytest.mark.parametrize("text", ["*", "a=b", "a;b", "a b=c"])
def test_invalid_cookie_name_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"^CACHE_IGNORE_COOKIES is "):
        settings(CACHE_IGNORE_COOKIES=text)
