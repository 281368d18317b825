"""Access to the dashboard by host name and from other origins, in Chromium.

The names of the test domain lead to loopback. Chromium sends no ``Sec-Fetch-*`` to such an origin,
because it is neither ``https`` nor loopback by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser.upstream import Upstream
from tests.e2e.test_dashboard import TIMEOUT_MS, Daemon, browser, upstream
from tests.process.daemon_process import eventually

__all__ = ["browser", "upstream"]  # fixtures

pytestmark = pytest.mark.process

SEND = """([url, method]) => fetch(url, {method, mode: "no-cors"}).then(
  (response) => response.type, (error) => String(error))"""


@pytest.fixture
def named_daemon(tmp_path: Path, upstream: Upstream) -> Iterator[Daemon]:
    settings = {"OPENAI_API_URL": upstream.url, "ADMIN_HOSTS": "proxy.test", "LOG_FORMAT": "json"}
    one = Daemon(tmp_path, settings)
    one.start()
    yield one
    one.kill()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context()
    one = context.new_page()
    one.set_default_timeout(TIMEOUT_MS)
    yield one
    context.close()


def statuses(daemon: Daemon, path: str) -> list[int]:
    """The statuses of the finished requests for *path*."""
    return [line["status"] for line in daemon.requests if line["path"] == path]


def test_dashboard_under_a_name_in_admin_hosts_is_live_and_clears_the_cache(
    named_daemon: Daemon, page: Any
) -> None:
    from playwright.sync_api import expect

    named_daemon.request("GET", "/v1/models")
    page.goto(f"http://proxy.test:{named_daemon.port}/")  # redirects
    assert page.url == f"http://proxy.test:{named_daemon.port}/dashboard"
    expect(page.locator("#connection")).to_have_text("live", timeout=TIMEOUT_MS)
    expect(page.locator("#cache-items")).to_have_text("1", timeout=TIMEOUT_MS)
    page.click("#clear")
    page.click("#confirm-clear")
    expect(page.locator("#clear-result")).to_have_text("The cache was cleared.", timeout=TIMEOUT_MS)


def test_dashboard_under_another_name_is_refused(named_daemon: Daemon, page: Any) -> None:
    answer = page.goto(f"http://rebound.test:{named_daemon.port}/dashboard")
    assert answer.status == 403
    assert "not served under the host name rebound.test" in page.text_content("main")
    assert "ADMIN_HOSTS" in page.text_content("main")


@pytest.mark.parametrize("host", ["127.0.0.1", "proxy.test"])
def test_page_of_another_origin_reads_and_clears_nothing(
    named_daemon: Daemon, upstream: Upstream, page: Any, host: str
) -> None:
    named_daemon.request("GET", "/v1/models")
    page.goto(upstream.url.replace("127.0.0.1", "evil.test"))
    root = f"http://{host}:{named_daemon.port}"
    for path in ("/stats", "/metrics", "/dashboard/events"):
        assert page.evaluate(SEND, [root + path, "GET"]) == "opaque"
        eventually(lambda path=path: statuses(named_daemon, path) == [403])
    script = f'<script src="{root}/stats"></script><iframe src="{root}/metrics"></iframe>'
    page.evaluate("html => document.write(html)", script)
    eventually(lambda: statuses(named_daemon, "/stats") == [403, 403])
    assert "Failed to fetch" in page.evaluate(SEND.replace('"no-cors"', '"cors"'), [
        f"{root}/cache", "DELETE"
    ])  # fmt: skip
    assert named_daemon.request("GET", "/stats")["cache"]["item_count"] == 1


def test_link_from_another_site_opens_the_dashboard(
    named_daemon: Daemon, upstream: Upstream, page: Any
) -> None:
    from playwright.sync_api import expect

    page.goto(upstream.url.replace("127.0.0.1", "wiki.test"))
    link = f'<a href="http://proxy.test:{named_daemon.port}/dashboard">dashboard</a>'
    page.evaluate("html => { document.body.innerHTML = html; }", link)
    page.click("a")
    expect(page.locator("#connection")).to_have_text("live", timeout=TIMEOUT_MS)
    page.go_back()
    link = link.replace("/dashboard", "/stats", 1)
    page.evaluate("html => { document.body.innerHTML = html; }", link)
    with page.expect_navigation() as navigation:
        page.click("a")
    assert navigation.value.status == 200
