"""The dashboard in a real browser, on a daemon that is a process of its own.

It is skipped where Chromium, Playwright or npm's axe-core is not to be had, unless CI_BROWSER=1
says that they must be.
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

from tests.e2e.browser.chromium import Missing, axe, launched
from tests.e2e.browser.upstream import Upstream
from tests.process.test_twistd import PATIENCE, Process, command, free_port

pytestmark = pytest.mark.process

TOKEN = "a-secret-of-the-operators"
WRONG = "a-guess"
HOSTILE = "<img src=x onerror=alert(1)>"

WAIT = PATIENCE * 1000
"""Milliseconds that the page may take for anything; nothing is asserted about how long it took."""

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 320, "height": 640}

A_DAY_OF_SLOTS = """async () => {
  const { History } = await import("/dashboard/history.js");
  const history = new History();
  const start = 1_764_000_004.997;
  for (let number = 0; number < 8640; number += 1) {
    const late = number % 11 / 1000;  // as timers are
    if (number % 7) history.add([[start + 10 * number + late, 2, 1, 2, 0, 1, 2, 3]], 10);
  }
  const bins = history.bins(30);
  return {
    held: history.held,
    slots: history.slots().length,
    requests: bins.reduce((sum, bin) => sum + bin.requests, 0),
    fullest: Math.max(...bins.map((bin) => bin.requests)),
    hour: Math.round(history.to - history.from),
  };
}"""

REFUSED = "status of 403"
AWAY = r"ERR_(CONNECTION_REFUSED|CONNECTION_RESET|INCOMPLETE_CHUNKED_ENCODING|EMPTY_RESPONSE)"
"""What Chromium notes in its console about answers that a test is about."""

NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""

WHEN_CHANGED = """(id) => {
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


def there(get: Callable[[], Any]) -> Any:
    """What *get* returns; or the test is skipped, or fails, where something is missing."""
    try:
        return get()
    except Missing as missing:
        if os.environ.get("CI_BROWSER") == "1":
            pytest.fail(f"CI_BROWSER=1, but {missing}")
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for all tests; each has a context of its own in it."""
    manager = launched()
    yield there(manager.__enter__)
    manager.__exit__(None, None, None)


@pytest.fixture(scope="module")
def audit() -> str:
    """axe-core's source."""
    return str(there(axe))


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    one = Upstream()
    yield one
    one.close()


@attrs.define(eq=False)
class Daemon:
    """The daemon, which can be stopped and started at the same port."""

    directory: Path
    settings: dict[str, str]
    port: int = attrs.field(factory=free_port)
    _process: Process = attrs.field(init=False)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = Process(
            self.directory,
            command(),
            {
                "LISTEN": f"tcp:{self.port}:interface=127.0.0.1",
                "MAX_CONNECTIONS": "100",
                **self.settings,
            },
        )
        self._process.listening()

    def stop(self) -> None:
        self._process.send(signal.SIGTERM)
        self._process.ended()

    def kill(self) -> None:
        self._process.kill()

    def ask(self, method: str, path: str, document: Any = None, token: str = "") -> Any:
        """Its answer, parsed; whatever the status."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
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
        asked = {"model": "gpt-4o-mini", "messages": messages}
        return self.ask("POST", "/v1/chat/completions", asked)

    def state(self) -> Any:
        """What its event stream says first of how things are."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
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
def closed_daemon(tmp_path: Path, upstream: Upstream) -> Iterator[Daemon]:
    """One that lets in nobody without the token."""
    settings = {"OPENAI_API_URL": upstream.url, "ADMIN_ALLOW": "", "ADMIN_TOKEN": TOKEN}
    one = Daemon(tmp_path, settings)
    one.start()
    yield one
    one.kill()


@attrs.define(eq=False, slots=False)  # Playwright notes something down on whose method it calls
class Visit:
    """A page, and what went wrong or out of it.

    :ivar complaints: of the console, and errors of scripts.
    :ivar addresses: everything that was asked for.
    """

    page: Any
    root: str
    complaints: list[str] = attrs.field(factory=list)
    addresses: list[str] = attrs.field(factory=list)

    def watch(self) -> None:
        self.page.set_default_timeout(WAIT)
        self.page.add_init_script(NOTE_VIOLATIONS)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.addresses.append(request.url))

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self) -> None:
        self.page.goto(f"{self.root}/dashboard")

    def shows(self, selector: str, text: str | re.Pattern[str]) -> None:
        """Wait until the one element that *selector* finds has this text."""
        from playwright.sync_api import expect

        expect(self.page.locator(selector)).to_have_text(text, timeout=WAIT)

    def live(self) -> None:
        self.shows("#connection", "live")
        self.shows("#ready", "ready")

    def next_state(self) -> None:
        """Wait until the next second has come."""
        said = self.page.text_content("#about")
        self.shows("#about", re.compile(rf"^(?!{re.escape(said)}$)"))

    def requests_of(self, route: str) -> str:
        """A selector of the cell that counts the requests of *route*."""
        return f'#routes tr:has(th:text-is("{route}")) td:nth-child(2)'

    def assert_clean(self, *expected: str) -> None:
        """Nothing went wrong but what is *expected*, and nothing was asked of anybody else."""
        wrong = [
            text for text in self.complaints if not any(re.search(one, text) for one in expected)
        ]
        assert wrong == []
        assert self.page.evaluate("window.violations") == []
        assert [url for url in self.addresses if not url.startswith(f"{self.root}/")] == []

    def assert_accessible(self, audit: str) -> None:
        self.page.evaluate(audit)  # by the debugger, which the page's policy does not bind
        assert self.page.evaluate(RUN_AXE) == []


OpenVisit = Callable[..., Visit]


@pytest.fixture
def visit(browser: Any) -> Iterator[OpenVisit]:
    """Opens the dashboard of a daemon, in a window and scheme as asked."""
    contexts = []

    def opened(daemon: Daemon, viewport: dict[str, int] = DESKTOP, scheme: str = "light") -> Visit:
        context = browser.new_context(
            viewport=viewport, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        one = Visit(context.new_page(), daemon.root)
        one.watch()
        one.open()
        return one

    yield opened
    for context in contexts:
        context.close()


def test_a_request_appears_without_a_reload(
    daemon: Daemon, visit: OpenVisit, record_property: Callable[[str, object], None]
) -> None:
    it = visit(daemon)
    it.live()
    it.page.evaluate(WHEN_CHANGED, "routes")
    asked = time.time()
    daemon.ask("GET", "/v1/models")
    answered = time.time()
    it.shows(it.requests_of("/v1/models"), "1")
    seen = it.page.evaluate("window.changed") / 1000
    record_property("seconds_from_answer_to_page", round(seen - answered, 3))
    print(f"asked, answered after {answered - asked:.3f} s, seen {seen - answered:.3f} s later")
    daemon.ask("GET", "/v1/models")
    it.shows(it.requests_of("/v1/models"), "2")
    it.shows("#cache-hits", "1")
    it.shows("#hour-ratio", "50 %")
    it.shows("#cache-items", "1")
    assert it.page.get_attribute("#chart-requests .fill-hits[d]", "d")
    assert it.page.evaluate("performance.getEntriesByType('navigation').length") == 1
    it.assert_clean()


def test_the_cache_is_cleared_by_keyboard_and_only_after_a_yes(
    daemon: Daemon, visit: OpenVisit
) -> None:
    it = visit(daemon)
    daemon.ask("GET", "/v1/models")
    it.shows("#cache-items", "1")
    press = it.page.keyboard.press
    for leave in ("Escape", "Enter"):  # Enter, since it is "Cancel" that has the focus
        it.page.locator("#clear").focus()
        press("Enter")
        assert it.page.locator("#sure").is_visible()
        assert "1 stored answer " in it.page.text_content("#sure-text")
        press(leave)
        assert not it.page.locator("#sure").is_visible()
    it.next_state()
    it.shows("#cache-items", "1")
    it.shows("#cleared", "")
    assert daemon.ask("GET", "/stats")["cache"]["item_count"] == 1
    assert it.page.evaluate("document.activeElement.id") == "clear"
    press("Enter")
    press("Tab")
    press("Enter")
    it.shows("#cleared", "The cache was cleared.")
    it.shows("#cache-items", "0")
    assert daemon.ask("GET", "/stats")["cache"]["item_count"] == 0
    assert it.page.evaluate("document.activeElement.id") == "clear"
    assert it.page.get_attribute("#cleared", "role") == "status"
    it.assert_clean()


def test_a_token_opens_it_and_stands_in_no_address(
    closed_daemon: Daemon, visit: OpenVisit, audit: str
) -> None:
    it = visit(closed_daemon)
    form = it.page.get_by_label("Admin token")
    form.wait_for()
    it.shows("#connection", "token needed")
    assert not it.page.locator("#content").is_visible()
    it.assert_accessible(audit)
    form.fill(WRONG)
    form.press("Enter")
    it.shows("#door-wrong", "That token is wrong.")
    assert form.get_attribute("aria-invalid") == "true"
    assert not it.page.locator("#content").is_visible()
    form.fill(TOKEN)
    form.press("Enter")
    it.live()
    assert not it.page.locator("#door").is_visible()
    closed_daemon.ask("GET", "/v1/models")
    it.shows("#cache-items", "1")
    it.page.click("#clear")
    it.page.click("#sure-yes")
    it.shows("#cache-items", "0")
    it.open()
    it.live()  # it is kept by the tab
    kept = it.page.evaluate("[localStorage.length, document.cookie, location.href]")
    assert kept == [0, "", f"{closed_daemon.root}/dashboard"]
    it.page.click("#forget")
    form.wait_for()
    assert it.page.evaluate("sessionStorage.length") == 0
    assert not it.page.locator("#content").is_visible()
    assert [url for url in it.addresses if TOKEN in url or WRONG in url] == []
    it.assert_clean(REFUSED)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible_and_nothing_scrolls_sideways(
    daemon: Daemon, visit: OpenVisit, audit: str, viewport: dict[str, int], scheme: str
) -> None:
    daemon.chat("What is a relay?")
    daemon.ask("GET", f"/v1/gone/{'x' * 200}")
    it = visit(daemon, viewport, scheme)
    it.live()
    it.shows("#errors tbody tr td.word", "upstream_unreachable")
    it.shows("#models tbody th", "gpt-4o-mini")
    it.shows("#money-saved", "0")
    it.assert_accessible(audit)
    wide = it.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide == [viewport["width"], viewport["width"]]
    it.page.click("#clear")
    it.assert_accessible(audit)
    it.assert_clean()


def hostile(value: Any) -> Any:
    """The same, with all text in it replaced."""
    match value:
        case str():
            return HOSTILE
        case list():
            return [hostile(each) for each in value]
        case dict():
            return {name: hostile(each) for name, each in value.items()}
    return value


def test_whatever_the_events_say_is_text(daemon: Daemon, visit: OpenVisit) -> None:
    daemon.chat("Hello")
    daemon.ask("GET", "/v1/gone")
    state = f"event: state\ndata: {json.dumps(hostile(daemon.state()))}\n\n"
    it = visit(daemon)
    it.page.route(
        "**/dashboard/events",
        lambda route: route.fulfill(content_type="text/event-stream", body=state),
    )
    it.open()
    it.shows("#models tbody th", HOSTILE)
    it.shows("#errors tbody td.word", HOSTILE)
    it.shows("#upstreams tbody th", HOSTILE)
    it.shows("#cache-ttl", HOSTILE)
    assert it.page.locator("img").count() == 0
    it.assert_clean()


def test_focus_and_selection_outlive_updates(daemon: Daemon, visit: OpenVisit) -> None:
    daemon.ask("GET", "/v1/models")
    it = visit(daemon)
    it.shows(it.requests_of("/v1/models"), "1")
    it.page.locator(".scroll:has(#routes)").focus()
    it.page.evaluate("getSelection().selectAllChildren(document.querySelector('#routes tbody th'))")
    it.next_state()
    daemon.ask("GET", "/v1/models?again")
    it.shows(it.requests_of("/v1/models"), "2")
    assert it.page.evaluate("getSelection().toString()") == "/v1/models"
    assert it.page.evaluate("document.activeElement.contains(document.querySelector('#routes'))")
    it.assert_clean()


def test_it_goes_on_after_a_restart(daemon: Daemon, visit: OpenVisit) -> None:
    it = visit(daemon)
    daemon.ask("GET", "/v1/models")
    it.shows(it.requests_of("/v1/models"), "1")
    daemon.stop()
    it.shows("#connection", re.compile(r"^reconnecting in \d+ s$"))
    it.shows("#announcement", re.compile("^Connection lost: "))
    daemon.start()
    it.live()
    it.shows("#announcement", "Live: the numbers are current.")
    it.shows("#cache-items", "0")
    it.shows("#routes-none", "No requests.")
    daemon.ask("GET", "/v1/models")
    it.shows(it.requests_of("/v1/models"), "1")
    it.assert_clean(AWAY)


def test_the_page_holds_an_hour_and_no_more(daemon: Daemon, visit: OpenVisit) -> None:
    it = visit(daemon)
    kept = it.page.evaluate(A_DAY_OF_SLOTS)
    missing = sum(number % 7 == 0 for number in range(8640 - 360, 8640))
    assert kept == {
        "held": 360 - missing,
        "slots": 360,
        "requests": 2 * (360 - missing),
        "fullest": 2 * 3,
        "hour": 3600,
    }
    it.assert_clean()
