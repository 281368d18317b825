"""The system's Chromium, driven by Playwright, and axe-core from npm."""

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
    "--no-sandbox",  # the sandbox needs kernel features that containers lack
    "--disable-gpu",
    "--disable-quic",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
    # No requests but those of the test.
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

NPM_TIMEOUT_SECONDS = 120.0


class MissingTool(Exception):
    """A tool that the tests need is not installed; the message names the tool."""


@contextmanager
def launch() -> Iterator[Any]:
    """Run a headless browser.

    :raises MissingTool: without Chromium or Playwright.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
    if path is None:
        raise MissingTool("Chromium is not installed")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise MissingTool("Playwright is not installed") from error
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, headless=True, args=list(FLAGS), timeout=60_000
        )
        yield browser
        browser.close()


def axe_source() -> str:
    """Return the source of axe-core as locked in ``package-lock.json``; install it if necessary.

    :raises MissingTool: without npm, or if npm cannot install it.
    """
    package = HERE / "node_modules" / "axe-core"
    version = json.loads((HERE / "package.json").read_text())["dependencies"]["axe-core"]
    installed = package / "package.json"
    if not installed.exists() or json.loads(installed.read_text())["version"] != version:
        _install()
    return (package / "axe.min.js").read_text("utf-8")


def _install() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise MissingTool("npm is not installed")
    command = [npm, "ci", "--prefix", str(HERE), "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NPM_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MissingTool(f"npm took longer than {NPM_TIMEOUT_SECONDS:.0f} s") from error
    if done.returncode:
        raise MissingTool(f"npm could not install axe-core: {done.stderr.strip()}")
