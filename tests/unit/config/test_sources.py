"""The sources of the settings and their precedence."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from goproxyai.config.settings import Settings
from goproxyai.config.sources import ConfigSources
from goproxyai.config.variable import SettingError


def sources(directory: Path, content: str, options: Any = (), **environ: str) -> ConfigSources:
    """Return sources with a configuration file of *content*."""
    (directory / "own.env").write_text(content)
    return ConfigSources(dict(options), {"CONFIG": "own.env", **environ}, str(directory))


def test_options_override_the_environment_which_overrides_the_file(tmp_path: Path) -> None:
    content = "RATE_LIMIT=1\nCACHE_TTL=1s\nDRAIN_TIMEOUT=1s\nIDLE_TIMEOUT=2s\n"
    config = sources(
        tmp_path, content, {"RATE_LIMIT": "3"}, RATE_LIMIT="2", CACHE_TTL="2s", IDLE_TIMEOUT="2s",
        PATH="/bin",
    ).read()  # fmt: skip
    settings = config.settings
    assert (settings.rate_limit, settings.cache_ttl, settings.drain_timeout) == (3, 2.0, 1.0)
    assert config.overridden == ("RATE_LIMIT", "CACHE_TTL")


def test_config_names_the_file(tmp_path: Path) -> None:
    assert ConfigSources({}, {}, str(tmp_path)).path is None
    blank = ConfigSources({}, {"CONFIG": " "}, str(tmp_path))
    assert blank.read().settings == Settings.from_texts({})
    assert ConfigSources({"CONFIG": "/b"}, {"CONFIG": "/a"}, str(tmp_path)).path == "/b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("RATE_LIMIT", r"CONFIG is '.*/own\.env', expected .* \(line 1 is not NAME=value\)"),
        (
            "CONFIG=a",
            r"CONFIG is '.*/own\.env', expected .* \(line 1: CONFIG is not a setting .*\)",
        ),
        ("RATE_LIMIT=x", "RATE_LIMIT is 'x', expected a whole number of .*"),
    ],
)
def test_invalid_file_is_refused_with_one_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        sources(tmp_path, content).read()
    assert re.fullmatch(message, str(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [("pipe", "Not a regular file"), ("none", "No such file"), ("", "a directory")],
)
def test_unreadable_file_is_refused_without_waiting(tmp_path: Path, name: str, reason: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingError, match=f"expected a file that can be read .*{reason}"):
        ConfigSources({"CONFIG": f"{tmp_path}/{name}"}, {}, "/").read()
