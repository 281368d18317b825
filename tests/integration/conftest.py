"""Fixtures of the integration tests."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_twisted

from goproxyai.reactor.deadlines import Ticker
from tests.support.agents import AgentHarness
from tests.support.authority import Authority
from tests.support.harness import ProxyHarness, SkewedReactor
from tests.support.proxy import FakeProxy
from tests.support.upstream import FakeUpstream
from tests.support.websocket import TunnelStand, TunnelUpstream


@pytest.fixture
def collect_garbage(failures: list[Any]) -> Iterator[None]:
    """Collect garbage after the test.

    A Deferred logs an unhandled error when it is collected, which fails the test that made it.
    """
    yield
    gc.collect()


@pytest_twisted.async_yield_fixture
async def agents(harness: ProxyHarness, authority: Authority) -> AsyncIterator[AgentHarness]:
    reactor = harness.reactor
    ticker = Ticker(reactor)
    ticker.start()
    one = AgentHarness(reactor, authority, ticker, FakeUpstream(reactor), FakeProxy(reactor))
    yield one
    await one.close()
    ticker.stop()


@pytest_twisted.async_yield_fixture
async def stand(harness: ProxyHarness) -> AsyncIterator[TunnelStand]:
    """A daemon that is not started yet, in front of an upstream of WebSockets."""
    one = TunnelStand(harness, TunnelUpstream(harness.reactor))
    yield one
    await one.close()


@pytest.fixture
def skewed_harness(harness: ProxyHarness) -> ProxyHarness:
    """A harness whose clock can be set ahead."""
    harness.reactor = SkewedReactor(harness.reactor)
    return harness
