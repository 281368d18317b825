"""The completion of shells, in the shells that are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from goproxyai.cli.commands import COMMANDS, SHELLS
from goproxyai.cli.completion_command import completed_options, completion_script
from goproxyai.cli.main import main
from goproxyai.config.variables import VARIABLES

TIMEOUT_SECONDS = 20.0


def in_shell(shell: str, *arguments: str, script: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        [path, *arguments],
        input=script,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_script_is_printed_and_names_every_option(
    capsys: pytest.CaptureFixture[str], shell: str
) -> None:
    assert main(["completion", shell], {}) == 0
    script = capsys.readouterr().out
    assert script == completion_script(shell)
    for variable in VARIABLES:
        assert variable.option in script
    for command in COMMANDS:
        assert command.name in script


def test_options_of_run_are_its_own_and_all_settings() -> None:
    (run,) = [command for command in COMMANDS if command.name == "run"]
    options = {option.name: option for option in completed_options(run)}
    assert options["coalesce"].choices == ("off", "deterministic", "all")
    assert options["log-format"].choices == ("json", "text")
    assert options["config"].is_file
    assert options["logfile"].is_file
    assert not options["help"].has_value


def in_bash(*words: str) -> list[str]:
    """Return what bash completes the last of *words* to."""
    line = " ".join([f"'{word}'" for word in words])
    script = completion_script("bash") + (
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _goproxyai; "
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    return in_shell("bash", "--norc", "-s", script=script).split()


def test_bash_completes_commands_options_and_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_bash("goproxyai", "r") == ["run"]
    assert in_bash("goproxyai", "run", "--rate") == ["--rate-limit="]
    assert in_bash("goproxyai", "run", "--coalesce", "=", "d") == ["deterministic"]
    assert in_bash("goproxyai", "run", "--coalesce", "=") == ["off", "deterministic", "all"]
    assert in_bash("goproxyai", "run", "--log-format", "t") == ["text"]
    assert in_bash("goproxyai", "completion", "z") == ["zsh"]
    assert in_bash("goproxyai", "config", "--js") == ["--json"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.env").touch()
    assert in_bash("goproxyai", "run", "--config", "o") == ["own.env"]


def test_zsh_accepts_the_script() -> None:
    script = "autoload -Uz compinit; compinit -u -D\n" + completion_script("zsh")
    assert in_shell("zsh", "-f", script=f"{script}print $_comps[goproxyai]\n") == "_goproxyai\n"


def test_fish_completes_commands_options_and_values() -> None:
    script = completion_script("fish")

    def completed(line: str) -> list[str]:
        found = in_shell("fish", "--no-config", script=f"{script}complete --do-complete '{line}'\n")
        return [each.split("\t")[0] for each in found.splitlines()]

    assert completed("goproxyai r") == ["run"]
    assert completed("goproxyai run --rate") == ["--rate-limit"]
    assert completed("goproxyai run --coalesce d") == ["deterministic"]
    assert completed("goproxyai completion z") == ["zsh"]
