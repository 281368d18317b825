"""twistd's own options, which are checked before twistd forks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from goproxyai.daemon import start_failures
from goproxyai.daemon.start_failures import check_process_options


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Options of twistd that can be applied."""
    return {"rundir": str(tmp_path), "pidfile": str(tmp_path / "pid"), "uid": None, "gid": None}


def refusal(options: dict[str, Any]) -> str:
    with pytest.raises(SystemExit) as caught:
        check_process_options(options)
    return str(caught.value)


def test_options_that_can_be_applied_are_accepted(options: dict[str, Any]) -> None:
    check_process_options(options)
    check_process_options(options | {"pidfile": ""})
    check_process_options(None)


def test_existing_pidfile_is_accepted(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "pid").touch()
    check_process_options(options)


@pytest.mark.parametrize("name", ["uid", "gid", "chroot"])
def test_options_of_root_are_refused_to_others(
    options: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_failures.os, "geteuid", lambda: 1000)
    assert refusal(options | {name: 0}) == (
        f"goproxyai: --{name} is '0', expected to be started by root"
    )


def test_chroot_that_is_no_directory_is_refused(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_failures.os, "geteuid", lambda: 0)
    check_process_options(options | {"chroot": options["rundir"], "rundir": "/absent"})
    assert refusal(options | {"chroot": "/absent"}).endswith("'/absent', expected a directory")


@pytest.mark.parametrize(("name", "path"), [("rundir", "absent"), ("pidfile", "absent/pid")])
def test_path_in_a_missing_directory_is_refused(
    options: dict[str, Any], tmp_path: Path, name: str, path: str
) -> None:
    options[name] = str(tmp_path / path)
    assert refusal(options).startswith(f"goproxyai: --{name} is {options[name]!r}, expected a ")


def test_pidfile_that_is_a_directory_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    options["pidfile"] = os.fspath(tmp_path)
    assert "expected a file that can be written" in refusal(options)
