"""``goproxyai run`` hands its arguments to twistd's classes."""

from __future__ import annotations

from typing import Any

import pytest

from goproxyai.cli import run_command
from goproxyai.cli.commands import BY_NAME
from goproxyai.cli.main import main
from goproxyai.cli.options import parse_settings
from goproxyai.cli.run_command import twistd_arguments
from goproxyai.plugin import Options


def arguments(*given: str) -> list[str]:
    return twistd_arguments(parse_settings(BY_NAME["run"], list(given), {"RATE_LIMIT": "5"}))


def test_settings_follow_the_options_of_twistd() -> None:
    assert arguments("--port", "1", "--listen", "tcp:1", "--listen=tcp:2", "--proxy-url=") == [
        "--nodaemon", "--pidfile=", "goproxyai",
        "--port=1", "--proxy-url=", "--listen=tcp:1", "--listen=tcp:2",
    ]  # fmt: skip


def test_log_file_is_an_option_of_twistd() -> None:
    assert arguments("--logfile=a.log")[:3] == ["--nodaemon", "--pidfile=", "--logfile=a.log"]


def test_run_starts_twistd_with_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN", "tcp:0")
    started: list[Any] = []
    monkeypatch.setattr(run_command, "runApp", started.append)
    assert main(["run", "--rate-limit=7"], {}) == 0
    (config,) = started
    assert (config["nodaemon"], config["pidfile"], config.subCommand) == (True, "", "goproxyai")
    assert isinstance(config.subOptions, Options)
    assert config.subOptions.settings.rate_limit == 7
    assert config.loadedPlugins["goproxyai"].module == "goproxyai.plugin"


def test_run_with_an_invalid_value_ends_as_twistd_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_command, "runApp", pytest.fail)
    with pytest.raises(SystemExit, match="goproxyai: RATE_LIMIT is 'x', expected a whole number"):
        main(["run", "--rate-limit=x"], {})
