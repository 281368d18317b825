"""Chromium as the system has it, driven by Playwright; and axe-core, which npm brings."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

FLAGS = (
    "--no-sandbox",  # whose own needs a kernel that containers do not have
    "--disable-gpu",
    "--disable-quic",
    # It asks nobody for anything but what the test opens.
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

INSTALLING = 120.0
"""Seconds that npm may take."""


class Missing(Exception):
    """Something that is not ours is not on this machine; it says what."""


@contextmanager
def launched() -> Iterator[Any]:
    """A browser, without a window.

    :raises Missing: where there is no Chromium, or no Playwright.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
    if path is None:
        raise Missing("Chromium is not installed")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise Missing("Playwright is not installed") from error
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, headless=True, args=list(FLAGS), timeout=60_000
        )
        yield browser
        browser.close()


def axe() -> str:
    """The source of axe-core, as locked in ``package-lock.json``; installed where it is not yet.

    :raises Missing: where npm is not there, or cannot get it.
    """
    package = HERE / "node_modules" / "axe-core"
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]["axe-core"]
    described = package / "package.json"
    if not described.exists() or json.loads(described.read_text())["version"] != wanted:
        _install()
    return (package / "axe.min.js").read_text("utf-8")


def _install() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("npm is not installed")
    command = [npm, "ci", "--prefix", str(HERE), "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALLING,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"npm took longer than {INSTALLING:.0f} s") from error
    if done.returncode:
        raise Missing(f"npm could not install axe-core: {done.stderr.strip()}")
