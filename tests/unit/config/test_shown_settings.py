"""Settings as `/stats` shows them."""

from __future__ import annotations

import pytest

from goproxyai.config.shown_settings import ShownSetting, shown_settings
from goproxyai.config.variables import VARIABLES


def shown(name: str, text: str | None = None) -> ShownSetting:
    texts = {} if text is None else {name: text}
    return shown_settings([("environment", texts)])[name]


def test_every_setting_is_shown_with_its_default() -> None:
    settings = shown_settings([])
    assert list(settings) == [variable.name for variable in VARIABLES]
    assert {setting.source for setting in settings.values()} == {"default"}
    assert settings["CACHE_TTL"].value == "5m"
    assert settings["ADMIN_TOKEN"].value == ""


def test_first_source_is_shown() -> None:
    sources = [("option", {"RATE_LIMIT": "7"}), ("environment", {"RATE_LIMIT": "8"})]
    assert shown_settings(sources)["RATE_LIMIT"] == ShownSetting("7", "option")
    assert shown_settings(sources[::-1])["RATE_LIMIT"] == ShownSetting("8", "environment")


@pytest.mark.parametrize(
    ("name", "text", "value", "source"),
    [
        ("CACHE_TTL", " 90s\n", "90s", "environment"),
        ("CACHE_TTL", " ", "5m", "default"),
        ("ADMIN_ALLOW", "", "", "environment"),
        ("ADMIN_TOKEN", "hunter2", "***", "environment"),
        ("CACHE_SNAPSHOT_KEY", "hunter2hunter2hunter2", "***", "environment"),
        ("PROXY_URL", "http://me:hunter2@proxy:1", "http://***:***@proxy:1", "environment"),
        ("PROXY_URL", "socks5h://me:hunter2@p", "socks5h://***:***@p", "environment"),
        ("PROXY_URL", "http://proxy:1", "http://proxy:1", "environment"),
        ("NO_PROXY", "a.example http://me:hunter2@b fd00::/8", "a.example,fd00::/8", "environment"),
        ("HEALTH_PROBE", "/v1/models?key=hunter2", "/v1/models?key", "environment"),
        (
            "OPENAI_API_URL",
            "https://a.example:8443/x, http://[::1]",
            "https://a.example:8443/x, http://[::1]",
            "environment",
        ),
    ],
)
def test_value_is_shown_as_text_without_secrets(
    name: str, text: str, value: str, source: str
) -> None:
    assert shown(name, text) == ShownSetting(value, source)


def test_default_of_generation_timeout_follows_request_timeout() -> None:
    settings = shown_settings([("file", {"REQUEST_TIMEOUT": "90s"})])
    assert settings["GENERATION_TIMEOUT"] == ShownSetting("90s", "default")
    settings = shown_settings([("file", {"REQUEST_TIMEOUT": "90s", "GENERATION_TIMEOUT": "5m"})])
    assert settings["GENERATION_TIMEOUT"] == ShownSetting("5m", "file")
