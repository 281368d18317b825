"""Fixtures, among them one that fails a test which leaves resources behind."""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import pkgutil
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, settings
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, globalLogPublisher

import goproxyai
from goproxyai.proxy import upstream_request
from goproxyai.reactor.lean_loop import install_lean_poll
from goproxyai.telemetry import access_log
from tests.support.authority import Authority
from tests.support.harness import ProxyHarness, SkewedReactor

# The suite is reproducible: every run uses the same examples, which need be no more than find the
# faults of a change. HYPOTHESIS_PROFILE=explore searches with new and more examples.
# A test must not fail because the machine is slow.
SLOW_IS_HEALTHY = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("suite", max_examples=40, derandomize=True, **SLOW_IS_HEALTHY)
settings.register_profile("explore", max_examples=2_000, **SLOW_IS_HEALTHY)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def is_measuring() -> bool:
    """Return whether the coverage of this process is measured."""
    module = sys.modules.get("coverage")
    return module is not None and module.Coverage.current() is not None


@contextmanager
def unmeasured() -> Iterator[None]:
    """Measure no coverage in the block, which then takes half the time.

    Coverage's own ``start`` looks at the file of each imported module, which takes up to 0.2 s.
    """
    if not is_measuring():
        yield
        return
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Measure the coverage of the package's imports, but not of the collection."""
    if is_measuring():
        for module in pkgutil.walk_packages(goproxyai.__path__, "goproxyai."):
            importlib.import_module(module.name)
    with unmeasured():
        return (yield)


MEASURED_CASES = 2
"""Cases of each test function whose coverage is measured."""

_cases: Counter[Any] = Counter()


def is_measured(item: pytest.Function) -> bool:
    """Return whether the coverage of a test is measured: one of the first cases of its function.

    Further cases, and the examples of Hypothesis, mostly run the same lines again.
    """
    if hasattr(item.obj, "hypothesis") or item.get_closest_marker("unmeasured"):
        return False
    _cases[item.function] += 1
    return _cases[item.function] <= MEASURED_CASES


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Function) -> Iterator[object]:
    """Measure the coverage of a test, with its fixtures, or of neither."""
    with nullcontext() if is_measured(item) else unmeasured():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Call a test that is no coroutine without the reactor.

    pytest-twisted runs the reactor for each of them, and for each example of Hypothesis.
    """
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    result = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    assert result is None, "nothing waits for the Deferred of a test that is no coroutine"
    return True


QUICK_ITERATIONS = 20
"""Reactor iterations without a delay, in which most connections finish closing."""

SLOW_ITERATIONS = 200
"""Further iterations, 10 ms apart, for the rest."""


@pytest.fixture(scope="session", autouse=True)
def frozen_imports() -> None:
    """Exclude imported modules from the garbage collections in tests (0.5 s each)."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that only the tests trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session", autouse=True)
def lean_poll() -> None:
    """Run the tests on the reactor loop that the daemon installs."""
    from twisted.internet import reactor

    install_lean_poll(reactor)
    # The first iteration opens a descriptor for SIGCHLD, which no test leaves behind.
    pytest_twisted.blockon(deferLater(reactor, 0))


@pytest.fixture
def failures() -> Iterator[list[LogEvent]]:
    """Logged failures; a test that expects one must clear the list."""
    seen: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_failure") is not None or event.get("isError"):
            seen.append(event)

    globalLogPublisher.addObserver(observe)
    yield seen
    globalLogPublisher.removeObserver(observe)


def leftovers(reactor: Any, before: set[Any]) -> list[str]:
    """Active delayed calls, and descriptors that are not in *before*."""
    calls = [call for call in reactor.getDelayedCalls() if call.active()]
    open_now = {*reactor.getReaders(), *reactor.getWriters()} - before
    return [f"delayed call {call}" for call in calls] + [f"open {one}" for one in open_now]


async def wait_for_leftovers(reactor: Any, before: set[Any]) -> None:
    """Run the reactor until nothing is left, or for as long as closing connections may take."""
    for seconds in (*[0.0] * QUICK_ITERATIONS, *[0.01] * SLOW_ITERATIONS):
        if not leftovers(reactor, before):
            break
        await deferLater(reactor, seconds)


@pytest.fixture(autouse=True)
def no_leftovers(failures: list[LogEvent]) -> Iterator[None]:
    """Fail a test that leaves a delayed call, an open connection or a logged failure behind."""
    from twisted.internet import reactor

    before = {*reactor.getReaders(), *reactor.getWriters()}  # type: ignore[attr-defined]
    yield
    if leftovers(reactor, before):
        pytest_twisted.blockon(ensureDeferred(wait_for_leftovers(reactor, before)))
    assert leftovers(reactor, before) == []
    assert [event.get("log_format") for event in failures] == []


@pytest.fixture
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without a delay, and flush the access log after 5 ms."""
    monkeypatch.setattr(upstream_request, "random", lambda: 0.0)
    monkeypatch.setattr(access_log, "FLUSH_SECONDS", 0.005)


@pytest_twisted.async_yield_fixture
async def harness(authority: Authority, short_delays: None) -> AsyncIterator[ProxyHarness]:
    """A daemon that is not started yet, in front of a fake upstream; stopped after the test."""
    from twisted.internet import reactor

    one = ProxyHarness(reactor, authority)
    yield one
    await one.stop()


@pytest.fixture
def skewed_harness(harness: ProxyHarness) -> ProxyHarness:
    """The same :func:`harness`, whose clock :meth:`ProxyHarness.advance` moves."""
    harness.reactor = SkewedReactor(harness.reactor)
    return harness
