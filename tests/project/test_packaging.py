"""Checks of pyproject.toml, the lock files and the Makefile."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from goproxyai import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCK = (ROOT / "requirements-dev.lock").read_text("utf-8")
EXTRA_LOCK = (ROOT / "requirements-extra.lock").read_text("utf-8")
USER_LOCK = (ROOT / "requirements.lock").read_text("utf-8")
PINNED = re.compile(r"(?m)^([a-z0-9-]+)==([^\s;]+)")
LOCKED = dict(PINNED.findall(LOCK))
EXTRA_LOCKED = dict(PINNED.findall(EXTRA_LOCK))
USER_LOCKED = dict(PINNED.findall(USER_LOCK))

NAME = re.compile(r"[A-Za-z0-9._-]+")
GROUPS = ("test", "lint", "types", "docs", "dev")


def requirements() -> list[str]:
    """Return the requirements that the lock file is compiled from."""
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    found = [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    found += [each for group in GROUPS for each in groups[group] if isinstance(each, str)]
    return found


def extra_requirements() -> list[str]:
    groups = PROJECT["dependency-groups"]
    return [*groups["packaging"], *groups["examples"]]


@pytest.mark.parametrize("requirement", requirements())
def test_requirement_is_locked(requirement: str) -> None:
    match = NAME.match(requirement)
    assert match is not None
    name = re.sub(r"[._-]+", "-", match.group()).lower()
    assert name in LOCKED, "run `make lock`"
    version, _, _ = requirement.partition(";")
    pinned = version.partition("==")[2]
    assert not pinned or LOCKED[name] == pinned


@pytest.mark.parametrize("requirement", PROJECT["project"]["dependencies"])
def test_requirement_of_users_is_locked(requirement: str) -> None:
    assert re.split("[>;]", requirement)[0] in USER_LOCKED, "run `make lock`"


@pytest.mark.parametrize("requirement", extra_requirements())
def test_requirement_of_checks_is_locked(requirement: str) -> None:
    assert re.split("[>;]", requirement)[0] in EXTRA_LOCKED, "run `make lock`"


def test_lock_files_agree() -> None:
    both = LOCKED.keys() & EXTRA_LOCKED.keys()
    assert {name: LOCKED[name] for name in both} == {name: EXTRA_LOCKED[name] for name in both}
    assert USER_LOCKED.items() <= LOCKED.items()


@pytest.mark.parametrize("lock", [LOCK, EXTRA_LOCK, USER_LOCK], ids=["dev", "extra", "user"])
def test_lock_names_no_index(lock: str) -> None:
    assert "://" not in lock
    assert "--index-url" not in lock


def test_packages_list_names_every_package() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "goproxyai").rglob("__init__.py")
    }
    assert listed - {"goproxyai.admin.dashboard", "twisted.plugins"} == found


def test_changelog_has_a_section_for_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(rf"(?m)^## \[{re.escape(__version__)}\]", changelog)


def test_tag_of_the_commit_is_the_version() -> None:
    try:
        command = ["git", "tag", "--points-at", "HEAD", "--list", "v*"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    assert set(done.stdout.split()) <= {f"v{__version__}"}


def test_chart_has_the_version_of_the_package() -> None:
    chart = (ROOT / "deploy" / "helm" / "goproxyai" / "Chart.yaml").read_text("utf-8")
    assert re.findall(r"(?m)^(?:version|appVersion): (.*)$", chart) == [__version__] * 2


def test_make_without_target_prints_every_target() -> None:
    printed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    targets = re.search(r"(?m)^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"))
    assert targets is not None
    assert re.findall(r"(?m)^  make ([a-z]+) ", printed) == targets.group(1).split()
