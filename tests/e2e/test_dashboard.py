"""The dashboard in Chromium, with the daemon as a process.

The tests are skipped without Chromium, Playwright or axe-core (from npm). With CI_BROWSER=1 they
fail instead.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.e2e.browser.chromium import MissingTool, axe_source, launch
from tests.e2e.browser.upstream import Upstream
from tests.process.daemon_process import TIMEOUT_SECONDS, DaemonProcess, command
from tests.support.ports import free_port

pytestmark = pytest.mark.process

TOKEN = "a-secret-of-the-operators"
WRONG_TOKEN = "a-guess"
MARKUP = "<img src=x onerror=alert(1)>"

TIMEOUT_MS = TIMEOUT_SECONDS * 1000
"""Bounds every wait for the page; no test asserts how long the page took."""

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 320, "height": 640}

ADD_ONE_DAY_OF_SLOTS = """async () => {
  const { History } = await import("/dashboard/history.js");
  const history = new History();
  const start = 1_764_000_004.997;
  for (let number = 0; number < 8640; number += 1) {
    const jitter = number % 11 / 1000;  // of the daemon's timer
    if (number % 7) history.add([[start + 10 * number + jitter, 2, 1, 2, 0, 1, 2, 3]], 10);
  }
  const bins = history.bins(30);
  return {
    held: history.held,
    slots: history.slots().length,
    requests: bins.reduce((sum, bin) => sum + bin.requests, 0),
    fullest: Math.max(...bins.map((bin) => bin.requests)),
    hour: Math.round(history.to - history.from(3600)),
    lastMinutes: history.slots(300).length,
  };
}"""

FORBIDDEN = "status of 403"
DISCONNECTED = (
    r"ERR_(CONNECTION_REFUSED|CONNECTION_RESET|INCOMPLETE_CHUNKED_ENCODING|EMPTY_RESPONSE)"
)
"""Console messages of Chromium that some tests expect."""

RECORD_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""

OBSERVE_CHANGE = """(id) => {
  const node = document.getElementById(id);
  window.changed = new Promise((resolve) => {
    new MutationObserver(() => resolve(performance.timeOrigin + performance.now()))
      .observe(node, { childList: true, characterData: true, subtree: true });
  });
}"""

RUN_AXE = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html)]);
}"""


def require(get: Callable[[], Any]) -> Any:
    """Return what *get* returns; skip or fail the test if a tool is missing."""
    try:
        return get()
    except MissingTool as missing:
        if os.environ.get("CI_BROWSER") == "1":
            pytest.fail(f"CI_BROWSER=1, but {missing}")
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests; each page has a browser context of its own."""
    manager = launch()
    yield require(manager.__enter__)
    manager.__exit__(None, None, None)


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core, which audits accessibility."""
    return str(require(axe_source))


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    one = Upstream()
    yield one
    one.close()


@attrs.define(eq=False)
class Daemon:
    """A daemon process that can be restarted on the same port."""

    directory: Path
    settings: dict[str, str]
    port: int = attrs.field(factory=free_port)
    _process: DaemonProcess = attrs.field(init=False)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = DaemonProcess(
            self.directory,
            command(),
            {
                "LISTEN": f"tcp:{self.port}:interface=127.0.0.1",
                "MAX_CONNECTIONS": "100",
                **self.settings,
            },
        )
        self._process.listening()

    def send(self, number: signal.Signals) -> None:
        self._process.send(number)

    def stop(self) -> None:
        self.send(signal.SIGTERM)
        self._process.ended()

    def kill(self) -> None:
        self._process.kill()

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The lines of the access log."""
        return self._process.requests

    def request(self, method: str, path: str, document: Any = None, token: str = "") -> Any:
        """Send a request and return the JSON of the answer, whatever its status."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        body = None if document is None else json.dumps(document)
        headers = {"Content-Type": "application/json"} if body else {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, body, headers)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def chat(self, question: str) -> Any:
        messages = [{"role": "user", "content": question}]
        document = {"model": "gpt-4o-mini", "messages": messages}
        return self.request("POST", "/v1/chat/completions", document)

    def state(self) -> Any:
        """Return the document of the first state event of a subscription."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/dashboard/events")
            answer = connection.getresponse()
            while answer.readline() != b"event: state\n":
                pass
            return json.loads(answer.readline().removeprefix(b"data: "))
        finally:
            connection.close()


@pytest.fixture
def daemon(tmp_path: Path, upstream: Upstream) -> Iterator[Daemon]:
    prices = tmp_path / "prices.json"
    prices.write_text('{"gpt-4o-mini": {"prompt": 0.15, "completion": 0.60}}')
    one = Daemon(tmp_path, {"OPENAI_API_URL": upstream.url, "PRICES": str(prices)})
    one.start()
    yield one
    one.kill()


@pytest.fixture
def token_daemon(tmp_path: Path, upstream: Upstream) -> Iterator[Daemon]:
    """A daemon that requires the admin token."""
    settings = {"OPENAI_API_URL": upstream.url, "ADMIN_ALLOW": "", "ADMIN_TOKEN": TOKEN}
    one = Daemon(tmp_path, settings)
    one.start()
    yield one
    one.kill()


@attrs.define(eq=False, slots=False)  # Playwright sets an attribute on the owner of a handler
class DashboardPage:
    """The dashboard in a page of the browser.

    :ivar errors: errors and warnings on the console, and uncaught exceptions.
    :ivar urls: every requested URL.
    """

    page: Any
    root: str
    errors: list[str] = attrs.field(factory=list)
    urls: list[str] = attrs.field(factory=list)

    def record(self) -> None:
        self.page.set_default_timeout(TIMEOUT_MS)
        self.page.add_init_script(RECORD_VIOLATIONS)
        self.page.on("console", self._record_message)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.urls.append(request.url))

    def _record_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def open(self) -> None:
        self.page.goto(f"{self.root}/dashboard")

    def shows(self, selector: str, text: str | re.Pattern[str]) -> None:
        """Wait until the only element that matches *selector* has this text."""
        from playwright.sync_api import expect

        expect(self.page.locator(selector)).to_have_text(text, timeout=TIMEOUT_MS)

    def is_live(self) -> None:
        self.shows("#connection", "live")
        self.shows("#ready", "ready")

    def next_state(self) -> None:
        """Wait for the next state event, which changes the uptime."""
        uptime = self.page.text_content("#about")
        self.shows("#about", re.compile(rf"^(?!{re.escape(uptime)}$)"))

    def requests_of(self, route: str) -> str:
        """Return the selector of the cell with the number of requests of *route*."""
        return f'#routes tr:has(th:text-is("{route}")) td:nth-child(2)'

    def assert_clean(self, *expected: str) -> None:
        """Check for unexpected errors, policy violations, and requests to other origins."""
        unexpected = [
            text for text in self.errors if not any(re.search(one, text) for one in expected)
        ]
        assert unexpected == []
        assert self.page.evaluate("window.violations") == []
        assert [url for url in self.urls if not url.startswith(f"{self.root}/")] == []

    def assert_accessible(self, axe: str) -> None:
        self.page.evaluate(axe)  # the page's policy does not apply to scripts of the debugger
        assert self.page.evaluate(RUN_AXE) == []


OpenDashboard = Callable[..., DashboardPage]


@pytest.fixture
def open_dashboard(browser: Any) -> Iterator[OpenDashboard]:
    """Opens the dashboard of a daemon in a new browser context."""
    contexts = []

    def open_page(
        daemon: Daemon, viewport: dict[str, int] = DESKTOP, scheme: str = "light"
    ) -> DashboardPage:
        context = browser.new_context(
            viewport=viewport, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        one = DashboardPage(context.new_page(), daemon.root)
        one.record()
        one.open()
        return one

    yield open_page
    for context in contexts:
        context.close()


def test_request_appears_without_reload(
    daemon: Daemon, open_dashboard: OpenDashboard, record_property: Callable[[str, object], None]
) -> None:
    it = open_dashboard(daemon)
    it.is_live()
    it.page.evaluate(OBSERVE_CHANGE, "routes")
    sent = time.time()
    daemon.request("GET", "/v1/models")
    answered = time.time()
    it.shows(it.requests_of("/v1/models"), "1")
    shown = it.page.evaluate("window.changed") / 1000
    record_property("seconds_from_answer_to_page", round(shown - answered, 3))
    print(f"answered after {answered - sent:.3f} s, shown {shown - answered:.3f} s later")
    daemon.request("GET", "/v1/models")
    it.shows(it.requests_of("/v1/models"), "2")
    it.shows("#cache-hits", "1")
    it.shows("#hit-ratio", "50 %")
    it.shows("#cache-items", "1")
    assert it.page.get_attribute("#chart-requests .fill-hits[d]", "d")
    assert it.page.evaluate("performance.getEntriesByType('navigation').length") == 1
    it.assert_clean()


def test_cache_is_cleared_by_keyboard_after_confirmation(
    daemon: Daemon, open_dashboard: OpenDashboard
) -> None:
    it = open_dashboard(daemon)
    daemon.request("GET", "/v1/models")
    it.shows("#cache-items", "1")
    press = it.page.keyboard.press
    for key in ("Escape", "Enter"):  # the focus is on "Cancel"
        it.page.locator("#clear").focus()
        press("Enter")
        assert it.page.locator("#confirm").is_visible()
        assert "1 cached response " in it.page.text_content("#confirm-text")
        press(key)
        assert not it.page.locator("#confirm").is_visible()
    it.next_state()
    it.shows("#cache-items", "1")
    it.shows("#clear-result", "")
    assert daemon.request("GET", "/stats")["cache"]["item_count"] == 1
    assert it.page.evaluate("document.activeElement.id") == "clear"
    press("Enter")
    press("Tab")
    press("Enter")
    it.shows("#clear-result", "The cache was cleared.")
    it.shows("#cache-items", "0")
    assert daemon.request("GET", "/stats")["cache"]["item_count"] == 0
    assert it.page.evaluate("document.activeElement.id") == "clear"
    assert it.page.get_attribute("#clear-result", "role") == "status"
    it.assert_clean()


def test_token_signs_in_and_is_never_in_url(
    token_daemon: Daemon, open_dashboard: OpenDashboard, axe: str
) -> None:
    it = open_dashboard(token_daemon)
    field = it.page.get_by_label("Admin token")
    field.wait_for()
    it.shows("#connection", "token required")
    it.shows("#sign-in-reason", re.compile("This endpoint is for operators"))
    assert not it.page.locator("#content").is_visible()
    it.assert_accessible(axe)
    field.fill(WRONG_TOKEN)
    field.press("Enter")
    it.shows("#sign-in-error", "The token is wrong.")
    assert field.get_attribute("aria-invalid") == "true"
    assert not it.page.locator("#content").is_visible()
    field.fill(TOKEN)
    field.press("Enter")
    it.is_live()
    assert not it.page.locator("#sign-in").is_visible()
    token_daemon.request("GET", "/v1/models")
    it.shows("#cache-items", "1")
    it.page.click("#clear")
    it.page.click("#confirm-clear")
    it.shows("#cache-items", "0")
    it.open()
    it.is_live()  # sessionStorage keeps the token
    stored = it.page.evaluate("[localStorage.length, document.cookie, location.href]")
    assert stored == [0, "", f"{token_daemon.root}/dashboard"]
    it.page.click("#forget")
    field.wait_for()
    assert it.page.evaluate("sessionStorage.length") == 0
    assert not it.page.locator("#content").is_visible()
    assert [url for url in it.urls if TOKEN in url or WRONG_TOKEN in url] == []
    it.assert_clean(FORBIDDEN)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_accessible_and_fits_width(
    daemon: Daemon, open_dashboard: OpenDashboard, axe: str, viewport: dict[str, int], scheme: str
) -> None:
    daemon.chat("What is a relay?")
    daemon.request("GET", f"/v1/gone/{'x' * 200}")
    it = open_dashboard(daemon, viewport, scheme)
    it.is_live()
    it.shows("#errors tbody tr td.word", "upstream_unreachable")
    it.shows("#models tbody th", "gpt-4o-mini")
    it.shows("#money-saved", "0")
    it.assert_accessible(axe)
    widths = it.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths == [viewport["width"], viewport["width"]]
    it.page.click("#clear")
    it.assert_accessible(axe)
    it.assert_clean()


def with_markup(value: Any) -> Any:
    """Return *value* with every text in it replaced by markup."""
    match value:
        case str():
            return MARKUP
        case list():
            return [with_markup(each) for each in value]
        case dict():
            return {name: with_markup(each) for name, each in value.items()}
    return value


def test_markup_in_events_is_shown_as_text(daemon: Daemon, open_dashboard: OpenDashboard) -> None:
    daemon.chat("Hello")
    daemon.request("GET", "/v1/gone")
    state = f"event: state\ndata: {json.dumps(with_markup(daemon.state()))}\n\n"
    it = open_dashboard(daemon)
    it.page.route(
        "**/dashboard/events",
        lambda route: route.fulfill(content_type="text/event-stream", body=state),
    )
    it.open()
    it.shows("#models tbody th", MARKUP)
    it.shows("#errors tbody td.word", MARKUP)
    it.shows("#upstreams tbody th", MARKUP)
    it.shows("#cache-ttl", MARKUP)
    assert it.page.locator("img").count() == 0
    it.assert_clean()


def test_focus_and_selection_survive_updates(daemon: Daemon, open_dashboard: OpenDashboard) -> None:
    daemon.request("GET", "/v1/models")
    it = open_dashboard(daemon)
    it.shows(it.requests_of("/v1/models"), "1")
    it.page.locator(".scroll:has(#routes)").focus()
    it.page.evaluate("getSelection().selectAllChildren(document.querySelector('#routes tbody th'))")
    it.next_state()
    daemon.request("GET", "/v1/models?again")
    it.shows(it.requests_of("/v1/models"), "2")
    assert it.page.evaluate("getSelection().toString()") == "/v1/models"
    assert it.page.evaluate("document.activeElement.contains(document.querySelector('#routes'))")
    it.assert_clean()


def test_page_reconnects_after_restart(daemon: Daemon, open_dashboard: OpenDashboard) -> None:
    it = open_dashboard(daemon)
    daemon.request("GET", "/v1/models")
    it.shows(it.requests_of("/v1/models"), "1")
    daemon.stop()
    it.shows("#connection", re.compile(r"^reconnecting in \d+ s$"))
    it.shows("#announcement", re.compile("^Connection lost: "))
    it.shows("#verdict-text", "The daemon does not answer")
    assert not it.page.locator("#ready").is_visible()
    daemon.start()
    it.is_live()
    it.shows("#verdict-text", "No requests in the last 5 min")
    it.shows("#announcement", "Connected. The numbers are current.")
    it.shows("#cache-items", "0")
    it.shows("#routes-empty", "No requests.")
    daemon.request("GET", "/v1/models")
    it.shows(it.requests_of("/v1/models"), "1")
    it.assert_clean(DISCONNECTED)


def test_page_keeps_slots_of_one_hour(daemon: Daemon, open_dashboard: OpenDashboard) -> None:
    it = open_dashboard(daemon)
    kept = it.page.evaluate(ADD_ONE_DAY_OF_SLOTS)
    missing = sum(number % 7 == 0 for number in range(8640 - 360, 8640))
    assert kept == {
        "held": 360 - missing,
        "slots": 360,
        "requests": 2 * (360 - missing),
        "fullest": 2 * 3,
        "hour": 3600,
        "lastMinutes": 30,
    }
    it.assert_clean()
