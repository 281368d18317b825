"""No log field contains a query value, a body or a credential, before or after formatting."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.logger import LogEvent, eventAsText, globalLogPublisher

from goproxyai.telemetry.events import Batch, Event
from tests.integration.logged_events import events_of
from tests.integration.secrets_in_requests import (
    BASIC,
    CASES,
    PROXY_USERINFO,
    SECRETS,
    SETTINGS,
    assert_no_secret,
    script_upstream,
    secretive,
)
from tests.support.answers import response
from tests.support.harness import ProxyHarness, request
from tests.support.proxy import FakeProxy
from tests.support.serving import loopback


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Everything that is logged: the formatted text and the fields of each event."""
    texts: list[str] = []

    def observe(event: LogEvent) -> None:
        texts.append(eventAsText(event, includeTimestamp=False))
        texts.append(repr(event))

    globalLogPublisher.addObserver(observe)
    yield texts
    globalLogPublisher.removeObserver(observe)


def unformatted(harness: ProxyHarness) -> list[Event]:
    """Return a list that the access log's events are also added to, not formatted."""
    events: list[Event] = []

    def write(batch: list[Event], context: Batch) -> None:
        events.extend(batch)
        harness._record(batch, context)

    harness.access_log.write_to(write)
    return events


@pytest.mark.parametrize("through_proxy", [False, True], ids=["direct", "egress proxy"])
@pytest_twisted.ensureDeferred
async def test_no_secret_is_logged_or_sent_in_errors(
    harness: ProxyHarness, logged: list[str], through_proxy: bool
) -> None:
    proxy = FakeProxy(harness.reactor)
    texts = dict(SETTINGS)
    if through_proxy:
        port = await proxy.listen(loopback(harness.reactor))
        texts["PROXY_URL"] = f"http://{PROXY_USERINFO}@127.0.0.1:{port}"
    await harness.start(**texts)
    events = unformatted(harness)
    script_upstream(harness)
    errors = []
    for case in CASES:
        answer = await harness.ask(case.data)
        assert answer.status == case.status, case.data
        if case.status >= 400 and answer.get("x-request-id") is None:
            errors.append(answer.body)
    stats = await harness.ask(request("/stats", key=f"Bearer {SECRETS['token']}".encode()))
    assert stats.status == 200
    assert_no_secret(await events_of(harness, len(CASES) + 1), errors, stats.body, logged)
    assert len(events) == len(CASES) + 1
    failures = harness.access_log.failures
    assert_no_secret(*events, *failures.recent, failures.groups())
    await harness.stop()
    await proxy.close()
    assert_no_secret(logged)


@pytest.mark.parametrize(
    ("proxy_url", "upstream"),
    [
        ("http://{}@127.0.0.1:1", None),
        ("http://{}@127.0.0.1:1", "https://api.test"),
        ("http://{}@does-not-resolve.invalid:3128", "https://api.test"),
        ("https://{}@127.0.0.1:1", None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_password_of_an_unreachable_egress_proxy_is_not_logged(
    harness: ProxyHarness, logged: list[str], proxy_url: str, upstream: str | None
) -> None:
    await harness.start(upstream, PROXY_URL=proxy_url.format(PROXY_USERINFO), REQUEST_TIMEOUT="2s")
    answer = await harness.ask(secretive("/v1/fine"))
    assert answer.status in (502, 504)
    stats = await harness.ask(request("/stats"))
    assert b"***:***@" in stats.body
    assert_no_secret(await events_of(harness, 2), answer, stats, logged)


@pytest.mark.parametrize("status", [407, 403, 200])
@pytest_twisted.ensureDeferred
async def test_egress_proxys_response_to_connect_is_not_logged(
    harness: ProxyHarness, logged: list[str], status: int
) -> None:
    proxy = FakeProxy(harness.reactor)
    port = await proxy.listen(loopback(harness.reactor))
    realm = (b"Proxy-Authenticate", b'Basic realm="%b"' % SECRETS["unmarked key"].encode())
    answer = response(SECRETS["answer"].encode(), status, [realm, (b"X-Echo", BASIC.encode())])
    proxy.script(lambda _: True, answer)
    await harness.start("https://api.test", PROXY_URL=f"http://{PROXY_USERINFO}@127.0.0.1:{port}")
    received = await harness.ask(secretive("/v1/fine"))
    assert received.status == 502
    assert_no_secret(await events_of(harness, 1), received, logged)
    await harness.stop()
    await proxy.close()


@pytest_twisted.ensureDeferred
async def test_defect_is_logged_with_its_traceback_and_without_secrets(
    harness: ProxyHarness,
    logged: list[str],
    failures: list[LogEvent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await harness.start(ADMIN_TOKEN=SECRETS["token"])
    assert harness.daemon is not None
    monkeypatch.setattr(harness.daemon.context.lookup, "bypass_reason", lambda *_: 1 // 0)
    answer = await harness.ask(secretive("/v1/embeddings"))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (500, "internal_error")
    assert "ZeroDivisionError" in "".join(logged)
    assert_no_secret(logged, answer, await events_of(harness, 1))
    assert harness.events[0]["code"] == "internal_error"
    failures.clear()


@pytest_twisted.ensureDeferred
async def test_message_of_a_defect_is_not_in_the_event(
    harness: ProxyHarness, failures: list[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError(SECRETS["body"])

    await harness.start()
    assert harness.daemon is not None
    monkeypatch.setattr(harness.daemon.context.lookup, "bypass_reason", fail)
    answer = await harness.ask(secretive("/v1/embeddings"))
    (event,) = await events_of(harness, 1)
    assert event["detail"] == "KeyError"
    assert_no_secret(event, answer)
    failures.clear()
