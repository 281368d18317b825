"""The commands within this process: output, exit status, and mistakes in the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from goproxyai import __version__
from goproxyai.cli.commands import COMMANDS
from goproxyai.cli.main import main
from goproxyai.config.topics import topics
from goproxyai.config.variables import VARIABLES

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: str, **environ: str) -> tuple[int, str, str]:
    """Return the exit status, the output and the error output of a command."""
    try:
        status = main(list(arguments), environ)
    except SystemExit as end:
        status = 0 if end.code is None else int(end.code)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",), ("help", "odd")])
def test_help_lists_every_command(capsys: Capture, arguments: tuple[str, ...]) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, err) == (0, "")
    for command in COMMANDS:
        assert f"\n  {command.name} " in out
        assert command.summary in out


@pytest.mark.parametrize("arguments", [("--version",), ("config", "--version")])
def test_version_is_printed(capsys: Capture, arguments: tuple[str, ...]) -> None:
    assert run(capsys, *arguments) == (0, f"goproxyai {__version__}\n", "")


@pytest.mark.parametrize("arguments", [("run", "--help"), ("help", "run")])
def test_help_of_run_has_every_setting_by_topic(
    capsys: Capture, arguments: tuple[str, ...]
) -> None:
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    places = [out.index(f"\n{topic.title}:\n") for topic in topics()]
    assert places == sorted(places)
    for variable in VARIABLES:
        assert f"\n  --{variable.option}=" in out
    assert "--coalesce=off|deterministic|all\n" in out
    assert "[RATE_LIMIT, default 60]" in " ".join(out.split())


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_help_of_each_command_has_its_options(capsys: Capture, command: str) -> None:
    status, out, _ = run(capsys, command, "--help")
    assert (status, out.splitlines()[0].split()[:3]) == (0, ["Usage:", "goproxyai", command])
    for option in next(each for each in COMMANDS if each.name == command).options:
        assert f"\n  --{option.name}" in out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rum", "goproxyai: unknown command rum; did you mean run?"),
        ("serve", "goproxyai: unknown command serve; see goproxyai --help"),
        ("a\x1b[2J", "goproxyai: unknown command that name; see goproxyai --help"),
        ("--versoin", "goproxyai: unknown option --versoin; options follow a command, such as "
                      "goproxyai run --versoin"),
        ("--run", "goproxyai: unknown option --run; did you mean run?"),
        ("run --rate-limits=hunter2",
         "goproxyai run: unknown option --rate-limits; did you mean --rate-limit?"),
        ("run --ratelimit 5",
         "goproxyai run: unknown option --ratelimit; did you mean --rate-limit?"),
        ("run --RATE_LIMIT=5",
         "goproxyai run: unknown option --RATE_LIMIT; did you mean --rate-limit?"),
        ("run --openai-base-url=http://a",
         "goproxyai run: unknown option --openai-base-url; did you mean --openai-api-url?"),
        ("run --xyzzy", "goproxyai run: unknown option --xyzzy; see goproxyai run --help"),
        ("run -x", "goproxyai run: unknown option --x; see goproxyai run --help"),
        ("run --port", "goproxyai run: option --port requires argument; see goproxyai run --help"),
        ("run RATE_LIMIT=5",
         "goproxyai run: RATE_LIMIT=... is not an option; did you mean --rate-limit=...?"),
        ("run HUNTER=2", "goproxyai run: expected options only; see goproxyai run --help"),
        ("run hunter2", "goproxyai run: expected options only; see goproxyai run --help"),
        ("run --logfile=", "goproxyai run: --logfile is empty, expected a path"),
        ("config --jsno", "goproxyai config: unknown option --jsno; did you mean --json?"),
        ("completion", "goproxyai completion: expected one of bash, zsh, fish"),
        ("completion tcsh", "goproxyai completion: expected one of bash, zsh, fish"),
        ("completion --port=1",
         "goproxyai completion: unknown option --port; see goproxyai completion --help"),
    ],
)  # fmt: skip
def test_mistake_is_one_line_with_the_nearest_option(
    capsys: Capture, line: str, expected: str
) -> None:
    assert run(capsys, *line.split()) == (2, "", f"{expected}\n")


# config


def test_config_shows_value_and_source_by_topic(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text("CACHE_TTL=90s\nRATE_LIMIT=5\n")
    status, out, err = run(
        capsys, "config", "--rate-limit=7", CONFIG=str(file), LOG_LEVEL="warn", RATELIMIT="1"
    )
    assert (status, err) == (0, "")
    rows = {words[0]: words[1:] for words in map(str.split, out.splitlines()) if len(words) == 3}
    assert rows["RATE_LIMIT"] == ["7", "option"]
    assert rows["LOG_LEVEL"] == ["warn", "environment"]
    assert rows["CACHE_TTL"] == ["90s", "file"]
    assert rows["REQUEST_TIMEOUT"] == ["30s", "default"]
    assert rows["PROXY_URL"] == ["-", "default"]
    assert [line for line in out.splitlines() if line in [topic.title for topic in topics()]] == [
        topic.title for topic in topics()
    ]
    warnings = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert [line.split()[1] for line in warnings] == ["RATELIMIT", "CONFIG"]


def test_config_as_json_is_that_of_the_stats(capsys: Capture) -> None:
    status, out, _ = run(
        capsys, "config", "--json", "--listen=tcp:1", "--listen=tcp:2",
        ADMIN_TOKEN="hunter2", PROXY_URL="http://me:hunter2@proxy:1",
    )  # fmt: skip
    document = json.loads(out)
    assert (status, document["version"], document["warnings"]) == (0, __version__, [])
    assert list(document["config"]) == [variable.name for variable in VARIABLES]
    assert document["config"]["LISTEN"] == {"value": "tcp:1 tcp:2", "source": "option"}
    assert document["config"]["ADMIN_TOKEN"] == {"value": "***", "source": "environment"}
    assert "hunter2" not in out


def test_config_with_an_invalid_value_fails_with_one_line(capsys: Capture) -> None:
    assert run(capsys, "config", PORT="70000") == (
        1, "", "goproxyai: PORT is '70000', expected a port from 0 to 65535\n",
    )  # fmt: skip
