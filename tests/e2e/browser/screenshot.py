"""Take pictures of the dashboard of ``goproxyai demo``, which takes two minutes.

``python -m tests.e2e.browser.screenshot DIRECTORY`` writes a picture of a quiet minute and of the
outage, each on a desktop and a phone, light and dark. ``--docs`` writes those of the documentation.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from goproxyai.demo.phases import Phase
from tests.e2e.browser.chromium import launch

CHECKOUT = Path(__file__).resolve().parents[3]

QUIET_SECONDS = 35.0
"""From the start of the demo to the first pictures."""

OUTAGE_SECONDS = 30.0
"""From the beginning of the outage, which lasts 60 s, to the other pictures."""

SIZES = {"desktop": {"width": 1280, "height": 1460}, "phone": {"width": 390, "height": 1100}}
SCHEMES = ("light", "dark")

IN_DOCS = {
    "outage-desktop-light": "dashboard.png",
    "quiet-desktop-dark": "dashboard-dark.png",
    "outage-phone-light": "dashboard-phone.png",
}
"""The pictures of the documentation."""

ALL = {
    f"{moment}-{device}-{scheme}"
    for moment in ("quiet", "outage")
    for device in SIZES
    for scheme in SCHEMES
}
"""The names of all pictures."""


def take(browser: Any, url: str, moment: str, directory: Path, wanted: Collection[str]) -> None:
    """Write the *wanted* pictures of *moment*."""
    for device, size in SIZES.items():
        for scheme in SCHEMES:
            name = f"{moment}-{device}-{scheme}"
            if name not in wanted:
                continue
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.goto(url)
            page.locator("#connection[data-kind=good]").wait_for()
            page.get_by_label("5 min", exact=True).check()
            page.locator("#causes tbody tr").first.wait_for()
            path = directory / f"{name}.png"
            page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, **size})
            page.close()


def follow(demo: subprocess.Popen[str], pattern: str) -> str:
    """Read the output of *demo* up to the line with *pattern*; return what the group matches."""
    assert demo.stdout is not None
    for line in demo.stdout:
        found = re.search(pattern, line)
        if found:
            return found[1]
    raise RuntimeError("the demo has ended")


@contextmanager
def running_demo(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a demo; return it and the URL of its dashboard."""
    command = [sys.executable, "-m", "goproxyai", "demo", "--port=0", *options]
    demo = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    try:
        yield demo, follow(demo, r"dashboard +(\S+)")
    finally:
        demo.send_signal(signal.SIGTERM)
        demo.wait()


def main(directory: Path, wanted: Collection[str]) -> None:
    with launch() as browser:  # before the demos, whose moments do not wait for the browser
        with running_demo() as (_, url):
            time.sleep(QUIET_SECONDS)
            take(browser, url, "quiet", directory, wanted)
        with running_demo("--outage") as (demo, url):
            follow(demo, f"({Phase.AWAY.value})")
            time.sleep(OUTAGE_SECONDS)
            take(browser, url, "outage", directory, wanted)


def main_for_docs() -> None:
    """Write the pictures of the documentation."""
    directory = CHECKOUT / "docs"
    main(directory, IN_DOCS)
    for name, path in IN_DOCS.items():
        (directory / f"{name}.png").rename(directory / path)


if __name__ == "__main__":
    if sys.argv[1:] == ["--docs"]:
        main_for_docs()
    else:
        main(Path(sys.argv[1]), ALL)
