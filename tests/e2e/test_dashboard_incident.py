"""The dashboard in an incident, in Chromium: the verdict, errors by cause, and what follows."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser.upstream import Upstream
from tests.e2e.test_dashboard import (
    DESKTOP,
    PHONE,
    Daemon,
    OpenDashboard,
    axe,
    browser,
    daemon,
    open_dashboard,
    upstream,
)

__all__ = ["axe", "browser", "daemon", "open_dashboard", "upstream"]  # fixtures

pytestmark = pytest.mark.process

CELLS = """(selector) => [...document.querySelectorAll(selector)].map((cell) => {
  const { left, right, width, height } = cell.getBoundingClientRect();
  return { text: cell.textContent, seen: left >= 0 && right <= innerWidth && width * height > 0 };
})"""

FORBIDDEN = "status of 403"


def fail_requests(daemon: Daemon, upstream: Upstream) -> None:
    """Have upstream refuse seven of eight requests with 429, 401 and 500."""
    upstream.refusals = [0, 429, 429, 429, 429, 401, 401, 500]
    for number in range(8):
        daemon.chat(f"question {number}")


def test_cause_of_incident_is_in_first_screen(
    daemon: Daemon, upstream: Upstream, open_dashboard: OpenDashboard
) -> None:
    it = open_dashboard(daemon)
    it.shows("#verdict-text", "No requests in the last 5 min")
    assert not it.page.locator("#causes-card").is_visible()
    daemon.chat("before")
    it.shows("#verdict-text", "Healthy")
    assert it.page.get_attribute("#verdict", "data-level") == "good"
    fail_requests(daemon, upstream)
    verdict = "7 of 9 requests failing for 10 s: upstream answers 429 (rate limit or quota) and 401"
    it.shows("#verdict-text", re.compile(re.escape(verdict)))
    assert it.page.get_attribute("#verdict", "data-level") == "bad"
    assert "quota" in it.page.text_content("#verdict-advice")
    it.shows("#verdict-news", re.compile("failing"))
    assert it.page.title().startswith("▲ 7 of 9 requests failing")
    it.shows("#error-rate", "78 %")
    assert it.page.get_attribute("#tile-errors", "data-level") == "bad"
    rows = it.page.locator("#causes tbody tr")
    assert rows.locator("th").all_text_contents() == [
        "Upstream answers 429 (rate limit or quota)",
        "Upstream answers 401 (API key refused)",
        "Upstream answers 500",
    ]
    assert rows.locator("td:nth-child(2)").all_text_contents() == ["4", "2", "1"]
    last = rows.nth(1).locator("td").all_text_contents()
    assert last[3] == "401 POST /v1/chat/completions"
    assert re.fullmatch(r"req_[0-9a-f]{12}", last[4])
    bottom = it.page.locator("#causes tbody tr").last.bounding_box()
    assert bottom["y"] + bottom["height"] < DESKTOP["height"]
    it.shows("#errors tbody tr:first-child .word", "upstream_5xx")
    it.shows("#clients tbody td.error", "7")
    it.assert_clean()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_error_columns_are_in_sight_and_accessible(
    daemon: Daemon,
    upstream: Upstream,
    open_dashboard: OpenDashboard,
    axe: str,
    viewport: dict[str, int],
    scheme: str,
) -> None:
    fail_requests(daemon, upstream)
    daemon.request("GET", f"/v1/gone/{'x' * 200}")
    it = open_dashboard(daemon, viewport, scheme)
    it.shows("#causes tbody tr:nth-child(2) td:nth-child(2)", "2")
    it.page.click("#configuration summary")
    it.page.locator("#settings tbody tr").first.wait_for()
    tables = {"causes": 6, "errors": 7, "settings": 3, "clients": 4, "routes": 5, "upstreams": 3}
    for table, columns in tables.items():
        cells = it.page.evaluate(CELLS, f"#{table} tbody :is(th, td)")
        assert cells
        assert len(cells) % columns == 0
        hidden = [cell["text"] for cell in cells if cell["text"] and not cell["seen"]]
        assert hidden == [], table
    widths = it.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths == [viewport["width"], viewport["width"]]
    first = it.page.locator("#causes tbody th").first.bounding_box()
    assert first["y"] + first["height"] < viewport["height"], "the cause is in the first screen"
    it.assert_accessible(axe)
    it.assert_clean()


def test_time_range_is_chosen_by_keyboard_and_kept(
    daemon: Daemon, open_dashboard: OpenDashboard
) -> None:
    daemon.request("GET", "/v1/models")
    it = open_dashboard(daemon)
    it.shows("#requests", "1")
    it.shows("#chart-requests .when", "last 15 min")
    it.page.locator("#range input:checked").focus()
    it.page.keyboard.press("ArrowRight")
    it.shows("#chart-requests .when", "last 60 min")
    it.shows("#routes-title .range-name", "last 1 h")
    label = it.page.get_attribute("#chart-requests svg.plot", "aria-label")
    assert label.startswith("Requests over the last 60 minutes: 1, ")
    it.open()
    it.shows("#chart-requests .when", "last 60 min")
    it.page.get_by_label("5 min", exact=True).check()
    it.shows("#chart-requests .when", "last 5 min")
    it.assert_clean()


def test_entries_of_a_path_are_deleted_after_confirmation(
    daemon: Daemon, open_dashboard: OpenDashboard
) -> None:
    for path in (
        "/v1/models",
        "/v1/models",
        "/v1/models?a",
        "/v1/models/x%20y",
        "/v1/models/x%20y",
    ):
        daemon.request("GET", path)
    it = open_dashboard(daemon)
    it.shows("#cache-items", "3")
    it.shows("#paths tbody tr:nth-child(2) th", "/v1/models/x%20y")
    button = it.page.get_by_role("button", name="Delete the entries of /v1/models", exact=True)
    button.click()
    it.shows("#confirm-title", "Delete the entries of this path?")
    assert "All cached responses of /v1/models will" in it.page.text_content("#confirm-text")
    it.page.keyboard.press("Escape")
    assert daemon.request("GET", "/stats")["cache"]["item_count"] == 3
    button.click()
    it.page.click("#confirm-clear")
    it.shows("#clear-result", "The entries of /v1/models were deleted.")
    it.shows("#cache-items", "1")
    it.page.click("#clear")
    it.shows("#confirm-title", "Clear the cache?")
    it.assert_clean()


def test_limited_client_is_first_and_no_error(
    tmp_path: Path, upstream: Upstream, open_dashboard: OpenDashboard, axe: str
) -> None:
    one = Daemon(tmp_path, {"OPENAI_API_URL": upstream.url, "RATE_LIMIT": "2"})
    one.start()
    try:
        for _ in range(6):
            one.request("GET", "/v1/models")
        it = open_dashboard(one)
        it.shows("#verdict-text", re.compile("^Clients are limited: 4 of 6 .* from 127.0.0.1$"))
        assert it.page.get_attribute("#verdict", "data-level") == "busy"
        it.shows("#clients tbody td.warned", "4")
        it.shows("#limited", "4")
        assert it.page.get_attribute("#tile-limited", "data-level") == "busy"
        it.shows("#causes tbody th", "Clients exceed RATE_LIMIT")
        it.shows("#error-rate", "0 %")
        it.shows("#error-count", "none")
        legend = it.page.locator("#chart-requests .legend li b")
        assert legend.all_inner_texts() == ["1", "1", "4", "0"]
        bars = it.page.locator("#chart-requests path.fill-limited")
        assert bars.get_attribute("d")
        it.shows("#routes tbody td.warned", "4")
        assert it.page.locator("#routes tbody td.error").count() == 0
        it.assert_accessible(axe)
        it.assert_clean()
    finally:
        one.kill()


def test_stream_in_progress_is_shown_with_model_and_age(
    daemon: Daemon, open_dashboard: OpenDashboard
) -> None:
    it = open_dashboard(daemon)
    it.shows("#live-empty", "No requests in progress.")
    document = {"model": "gpt-4o-mini", "messages": [], "stream": True, "pause": 1.5}
    thread = threading.Thread(target=lambda: _stream(daemon, document), daemon=True)
    thread.start()
    it.shows("#live tbody th", "POST /v1/chat/completions")
    it.shows("#live tbody td.status", "streaming")
    cells = it.page.locator("#live tbody td").all_text_contents()
    assert cells[0] == "gpt-4o-mini"
    assert cells[2].endswith(" s")
    assert re.fullmatch(r"[\d.]+ (ms|s)", cells[3])
    assert cells[4] == "127.0.0.1"
    thread.join(20)
    it.page.locator("#live-empty").wait_for(state="visible")
    it.assert_clean()


def _stream(daemon: Daemon, document: Any) -> None:
    with suppress(ValueError):  # the answer is no JSON
        daemon.request("POST", "/v1/chat/completions", document)


def test_models_without_a_price_are_marked(
    daemon: Daemon, open_dashboard: OpenDashboard, axe: str
) -> None:
    daemon.chat("priced")
    document = {"model": "unheard-of", "messages": [{"role": "user", "content": "x"}]}
    daemon.request("POST", "/v1/chat/completions", document)
    it = open_dashboard(daemon)
    row = '#models tr:has(th:text-is("{}")) .money'
    it.page.locator(row.format("unheard-of")).first.wait_for()
    assert it.page.locator(row.format("unheard-of")).all_text_contents() == ["no price"] * 2
    assert "no price" not in it.page.locator(row.format("gpt-4o-mini")).all_text_contents()
    assert it.page.locator("#money-spent").is_visible()
    it.assert_accessible(axe)
    it.assert_clean()


def test_configuration_is_shown_without_secrets(
    tmp_path: Path, upstream: Upstream, open_dashboard: OpenDashboard
) -> None:
    one = Daemon(
        tmp_path,
        {
            "OPENAI_API_URL": upstream.url,
            "ADMIN_TOKEN": "a-secret-of-the-operators",
            "PROXY_URL": "http://user:hidden-password@127.0.0.1:9",
        },
    )
    one.start()
    try:
        it = open_dashboard(one)
        it.is_live()
        it.page.locator("#configuration summary").focus()
        it.page.keyboard.press("Enter")
        row = it.page.locator('#settings tr:has(th:text-is("PROXY_URL")) td')
        row.first.wait_for()
        assert row.all_text_contents()[1] == "environment"
        names = it.page.locator("#settings tbody th").all_text_contents()
        assert names.index("PROXY_URL") < names.index("CACHE_TTL"), "set ones are first"
        text = it.page.content()
        assert "a-secret-of-the-operators" not in text
        assert "hidden-password" not in text
        it.shows("#reload", "none")
        it.shows("#connections", re.compile(r"^\d+ of 100$"))
        it.assert_clean()
    finally:
        one.kill()


def test_animations_are_off_for_reduced_motion(
    daemon: Daemon, open_dashboard: OpenDashboard
) -> None:
    it = open_dashboard(daemon)  # the browser asks for reduced motion
    it.is_live()
    durations = it.page.evaluate(
        """() => [...document.querySelectorAll("*")].map((node) => getComputedStyle(node))
          .flatMap((style) => [style.transitionDuration, style.animationDuration])"""
    )
    assert set(durations) == {"0s"}
    it.assert_clean()


@pytest.fixture
def closed_daemon(tmp_path: Path, upstream: Upstream) -> Iterator[Daemon]:
    """A daemon that admits no operator."""
    one = Daemon(tmp_path, {"OPENAI_API_URL": upstream.url, "ADMIN_ALLOW": ""})
    one.start()
    yield one
    one.kill()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_refused_browser_is_told_what_to_set(
    closed_daemon: Daemon,
    open_dashboard: OpenDashboard,
    axe: str,
    viewport: dict[str, int],
) -> None:
    it = open_dashboard(closed_daemon, viewport)
    text = it.page.text_content("main")
    for name in ("ADMIN_TOKEN", "ADMIN_ALLOW", "ADMIN_HOSTS", "127.0.0.1"):
        assert name in text
    widths = it.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths == [viewport["width"], viewport["width"]]
    it.assert_accessible(axe)
    it.assert_clean(FORBIDDEN)


def test_page_that_cannot_be_loaded_whole_says_so(
    daemon: Daemon, open_dashboard: OpenDashboard
) -> None:
    it = open_dashboard(daemon)
    it.page.route("**/verdict.js", lambda route: route.abort())
    it.page.reload()
    it.shows("#connection", "not loaded: reload the page")
    it.page.unroute("**/verdict.js")
    it.page.reload()
    it.is_live()
    it.assert_clean("ERR_FAILED", "Failed to fetch dynamically imported module")
