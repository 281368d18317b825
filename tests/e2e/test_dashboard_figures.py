"""The figures of the dashboard, in Chromium: latency, bypasses, own pages, levels, resources."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.e2e.browser.upstream import Upstream
from tests.e2e.test_dashboard import (
    DESKTOP,
    Daemon,
    OpenDashboard,
    browser,
    daemon,
    open_dashboard,
    upstream,
)
from tests.e2e.test_dashboard_incident import fail_requests

__all__ = ["browser", "daemon", "open_dashboard", "upstream"]  # fixtures

pytestmark = pytest.mark.process

TIME = re.compile(r"^[\d.]+ (µs|ms|s)$")
COLOURS = """(selector) => {
  const style = getComputedStyle(document.querySelector(selector));
  return [style.backgroundColor, style.borderColor];
}"""


def test_latency_is_split_into_upstream_overhead_and_hits(
    daemon: Daemon, open_dashboard: OpenDashboard
) -> None:
    daemon.chat("one")
    it = open_dashboard(daemon)
    it.shows("#upstream-p95", TIME)
    it.shows("#overhead-p95", TIME)
    it.shows("#hits-p95", re.compile("^\\W$"))
    daemon.chat("one")
    it.shows("#hits-p95", TIME)
    it.shows("#hits", "1 of 2")
    it.assert_clean()


def test_bypasses_are_counted_by_reason(daemon: Daemon, open_dashboard: OpenDashboard) -> None:
    it = open_dashboard(daemon)
    it.page.locator("#bypasses-empty").wait_for(state="visible")
    for _ in range(2):
        daemon.request("POST", "/v1/files", {})
    document = {"model": "gpt-4o-mini", "messages": [], "store": True}
    daemon.request("POST", "/v1/chat/completions", document)
    it.shows('#bypasses tr:has(th:text-is("path")) td', "2")
    it.shows('#bypasses tr:has(th:text-is("store")) td', "1")
    it.assert_clean()


def test_own_pages_are_counted_apart(daemon: Daemon, open_dashboard: OpenDashboard) -> None:
    daemon.request("GET", "/v1/models")
    for _ in range(3):
        daemon.request("GET", "/stats")
        daemon.request("GET", "/health")
    it = open_dashboard(daemon)
    it.shows("#requests", "1")
    it.shows("#own-pages", re.compile(r"^([6-9]|\d\d)$"))
    assert it.page.locator("#routes tbody th").all_text_contents() == ["/v1/models"]
    it.assert_clean()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tiles_have_the_colour_of_their_level(
    daemon: Daemon, upstream: Upstream, open_dashboard: OpenDashboard, scheme: str
) -> None:
    it = open_dashboard(daemon, DESKTOP, scheme)
    it.is_live()
    usual = it.page.evaluate(COLOURS, "#tile-errors")
    assert usual == it.page.evaluate(COLOURS, "#tile-limited")
    fail_requests(daemon, upstream)
    it.page.locator("#tile-errors[data-level=bad]").wait_for()
    assert it.page.evaluate(COLOURS, "#tile-limited") == usual
    bad = it.page.evaluate(COLOURS, "#tile-errors")
    assert all(one != other for one, other in zip(bad, usual, strict=True))
    it.assert_clean()


def test_resources_and_the_last_reload_are_shown(
    tmp_path: Path, upstream: Upstream, open_dashboard: OpenDashboard
) -> None:
    config = tmp_path / "own.env"
    config.write_text("RATE_LIMIT=5\n")
    one = Daemon(tmp_path, {"OPENAI_API_URL": upstream.url, "CONFIG": str(config)})
    one.start()
    try:
        it = open_dashboard(one)
        it.shows("#reload", "none")
        it.shows("#resident", re.compile(r"^[\d.]+ MB$"))
        it.shows("#descriptors", re.compile(r"^\d+ of [\d,]+$"))
        it.shows("#cpu", re.compile(r"^[\d.]+ %$"))
        it.shows("#request-bytes", re.compile(r"^.+ of 256 MB$"))
        config.write_text("RATE_LIMIT=6\n")
        one.send(signal.SIGHUP)
        it.shows("#reload", re.compile(r"^\d\d:\d\d:\d\d$"))
        it.assert_clean()
    finally:
        one.kill()
