"""Fixtures; and the one that fails a test that leaves something behind."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_twisted
from hypothesis import settings
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, globalLogPublisher

from goproxyai.proxy import upstream_request as asking
from goproxyai.reactor.lean_loop import install_lean_poll
from goproxyai.telemetry import access_log as log
from tests.support.authority import Authority
from tests.support.harness import ProxyHarness

# The suite says the same of the same code whenever it is run. What has not been thought of is found
# by exploring: HYPOTHESIS_PROFILE=explore, with other examples each time and many more of them.
settings.register_profile("suite", deadline=None, max_examples=100, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

QUICK_TURNS = 20
"""Turns of the reactor, one right behind the other, in which what is closing mostly closes."""

SETTLING_TURNS = 200
"""Turns after those, ten milliseconds each, in which what is closing may close."""


@pytest.fixture(scope="session", autouse=True)
def imports_are_not_garbage() -> None:
    """Keep what was imported out of the collections that tests ask for: they take half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that nobody else trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session", autouse=True)
def the_turn_that_is_measured() -> None:
    """Let every test run on the turn that the daemon runs on."""
    from twisted.internet import reactor

    install_lean_poll(reactor)


@pytest.fixture
def failures() -> Iterator[list[LogEvent]]:
    """What was logged as a failure; a test that expects one empties the list."""
    seen: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_failure") is not None or event.get("isError"):
            seen.append(event)

    globalLogPublisher.addObserver(observe)
    yield seen
    globalLogPublisher.removeObserver(observe)


def leftovers(reactor: Any, before: set[Any]) -> list[str]:
    """Delayed calls and descriptors that were not there before."""
    calls = [call for call in reactor.getDelayedCalls() if call.active()]
    open_now = {*reactor.getReaders(), *reactor.getWriters()} - before
    return [f"delayed call {call}" for call in calls] + [f"open {one}" for one in open_now]


@pytest_twisted.async_yield_fixture(autouse=True)
async def nothing_left(failures: list[LogEvent]) -> AsyncIterator[None]:
    """Fail a test that leaves a delayed call, an open connection or a logged failure behind."""
    from twisted.internet import reactor

    before = {*reactor.getReaders(), *reactor.getWriters()}  # type: ignore[attr-defined]
    yield
    for seconds in (*[0.0] * QUICK_TURNS, *[0.01] * SETTLING_TURNS):
        if not leftovers(reactor, before):
            break
        await deferLater(reactor, seconds)
    assert leftovers(reactor, before) == []
    assert [event.get("log_format") for event in failures] == []


@pytest.fixture
def shortest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let retries draw the shortest wait that they may, which is none, and the log be quick."""
    monkeypatch.setattr(asking, "random", lambda: 0.0)
    monkeypatch.setattr(log, "FLUSH_SECONDS", 0.005)


@pytest_twisted.async_yield_fixture
async def harness(authority: Authority, shortest_waits: None) -> AsyncIterator[ProxyHarness]:
    """A daemon to be started in front of a fake upstream; ended with the test."""
    from twisted.internet import reactor

    one = ProxyHarness(reactor, authority)
    yield one
    await one.stop()
