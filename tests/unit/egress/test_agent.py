"""The relay agent's connection attempts, on an in-memory reactor."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from goproxyai.egress import agent as agent_module
from goproxyai.egress.agent import RelayAgent
from goproxyai.egress.routes import Routes
from goproxyai.egress.tls import tls_to
from goproxyai.http11.connection_deadlines import Timeouts
from goproxyai.http11.errors import UpstreamTimeout
from goproxyai.http11.response import Response
from goproxyai.reactor.deadlines import Ticker

URL = b"http://192.0.2.1/v1/models"


def agent_on(reactor: MemoryReactorClock) -> RelayAgent:
    routes = Routes(reactor, None, (), tls_to)
    return RelayAgent(reactor, Ticker(reactor), routes, Timeouts(5, 5), connect_timeout=5.0)


def failures_of(response: Deferred[Response]) -> list[Failure]:
    failures: list[Failure] = []
    response.addErrback(failures.append)
    return failures


def test_cancelled_request_stops_connecting() -> None:
    reactor = MemoryReactorClock()
    response = agent_on(reactor).request(b"GET", URL)
    failures = failures_of(response)
    response.cancel()
    assert failures[0].check(CancelledError)
    assert [each.stoppedConnecting for each in reactor.connectors] == [True]
    assert reactor.getDelayedCalls() == []


def test_connect_timeout_stops_connecting() -> None:
    reactor = MemoryReactorClock()
    failures = failures_of(agent_on(reactor).request(b"GET", URL))
    reactor.advance(4.9)
    assert failures == []
    reactor.advance(0.2)
    assert failures[0].check(UpstreamTimeout)
    assert [each.stoppedConnecting for each in reactor.connectors] == [True]
    assert IPv4Address("TCP", "192.0.2.1", 80) == reactor.connectors[0].getDestination()


def test_connect_timeout_starts_again_after_a_standstill() -> None:
    reactor = MemoryReactorClock()
    failures = failures_of(agent_on(reactor).request(b"GET", URL))
    reactor.advance(600)
    assert failures == []
    reactor.advance(5)
    assert failures[0].check(UpstreamTimeout)
    assert [each.stoppedConnecting for each in reactor.connectors] == [True]
    assert reactor.getDelayedCalls() == []


def test_cached_routes_are_bounded() -> None:
    agent = agent_on(MemoryReactorClock())
    first = agent.route(b"http://192.0.2.1:1")
    assert agent.route(b"http://192.0.2.1:1") is first
    for port in range(2, 2 * agent_module.MAX_CACHED_ROUTES):
        agent.route(b"http://192.0.2.1:%d" % port)
    assert len(agent._cached_routes) <= agent_module.MAX_CACHED_ROUTES
    assert agent.route(b"http://192.0.2.1:1") is not first
