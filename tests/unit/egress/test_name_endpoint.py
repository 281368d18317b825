"""Connecting to the addresses of a name."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from goproxyai.egress.name_endpoint import (
    ATTEMPT_DELAY_SECONDS,
    NameEndpoint,
    interleave_families,
    resolve,
)
from tests.unit.egress.resolving import ManualResolver

V6, V4, OTHER_V4 = "::1", "127.0.0.1", "127.0.0.2"


@attrs.define(eq=False)
class Connecting:
    """A connection attempt to ``upstream.test``.

    :ivar results: the protocol or the failure, once there is one.
    """

    manual: ManualResolver
    connected: Deferred[Any]
    results: list[Any] = attrs.field(factory=list)

    @property
    def hosts(self) -> list[str]:
        """The addresses that were tried, in order."""
        return [each[0] for each in self.manual.reactor.tcpClients]

    def refuse(self, index: int) -> None:
        factory = self.manual.reactor.tcpClients[index][2]
        connector = self.manual.reactor.connectors[index]
        factory.clientConnectionFailed(connector, Failure(ConnectError()))

    def accept(self, index: int) -> None:
        factory = self.manual.reactor.tcpClients[index][2]
        address = IPv4Address("TCP", V4, 443)
        factory.buildProtocol(address).makeConnection(StringTransport())

    @property
    def stopped(self) -> list[bool]:
        """Whether each attempt was stopped."""
        return [each.stoppedConnecting for each in self.manual.reactor.connectors]


@pytest.fixture
def connecting(monkeypatch: pytest.MonkeyPatch) -> Connecting:
    manual = ManualResolver(monkeypatch)
    manual.reactor.installNameResolver(manual.resolver)
    endpoint = NameEndpoint(manual.reactor, "upstream.test", 443)
    connecting = Connecting(manual, endpoint.connect(Factory.forProtocol(Protocol)))
    connecting.connected.addBoth(connecting.results.append)
    return connecting


def test_refused_address_is_followed_by_the_next_at_once(connecting: Connecting) -> None:
    connecting.manual.finish([V6, V4, OTHER_V4])
    assert connecting.hosts == [V6]
    connecting.refuse(0)
    assert connecting.hosts == [V6, V4]
    connecting.accept(1)
    assert isinstance(connecting.results[0], Protocol)
    assert connecting.manual.reactor.getDelayedCalls() == []
    assert connecting.hosts == [V6, V4]


def test_silent_address_is_followed_by_the_next_after_the_delay(connecting: Connecting) -> None:
    reactor = connecting.manual.reactor
    connecting.manual.finish([V6, V4, OTHER_V4])
    reactor.advance(ATTEMPT_DELAY_SECONDS - 0.01)
    assert connecting.hosts == [V6]
    reactor.advance(0.01)
    assert connecting.hosts == [V6, V4]
    connecting.accept(1)
    assert connecting.stopped == [True, False]
    assert reactor.getDelayedCalls() == []


def test_first_address_may_still_win_after_the_second_attempt(connecting: Connecting) -> None:
    connecting.manual.finish([V6, V4])
    connecting.manual.reactor.advance(ATTEMPT_DELAY_SECONDS)
    connecting.refuse(1)
    assert connecting.results == []
    connecting.accept(0)
    assert isinstance(connecting.results[0], Protocol)


def test_last_failure_is_reported(connecting: Connecting) -> None:
    connecting.manual.finish([V6, V4])
    connecting.refuse(0)
    assert connecting.results == []
    connecting.refuse(1)
    assert connecting.results[0].check(ConnectError)
    assert connecting.manual.reactor.getDelayedCalls() == []


def test_name_without_addresses_fails(connecting: Connecting) -> None:
    connecting.manual.finish([])
    assert connecting.results[0].check(DNSLookupError)
    assert "upstream.test" in str(connecting.results[0].value)


def test_cancel_during_the_lookup_forgets_the_request(connecting: Connecting) -> None:
    connecting.connected.cancel()
    assert connecting.results[0].check(CancelledError)
    connecting.manual.finish([V4])
    assert connecting.hosts == []


def test_cancel_is_possible_with_a_resolver_that_cannot_cancel(connecting: Connecting) -> None:
    class Resolution:
        def cancel(self) -> None:
            raise NotImplementedError

    race: Any = next(iter(next(iter(connecting.manual.resolver._records.values())).waiting))
    race._receiver.resolutionBegan(Resolution())
    connecting.connected.cancel()
    connecting.manual.finish([V4])
    assert connecting.results[0].check(CancelledError)
    assert connecting.hosts == []


def test_cancel_stops_all_attempts(connecting: Connecting) -> None:
    connecting.manual.finish([V6, V4, OTHER_V4])
    connecting.manual.reactor.advance(ATTEMPT_DELAY_SECONDS)
    connecting.connected.cancel()
    assert connecting.results[0].check(CancelledError)
    assert connecting.stopped == [True, True]
    assert connecting.manual.reactor.getDelayedCalls() == []
    assert connecting.hosts == [V6, V4]


def test_attempts_have_no_timeout_of_their_own(connecting: Connecting) -> None:
    connecting.manual.finish([V4])
    assert [each[3] for each in connecting.manual.reactor.tcpClients] == [None]


def test_families_take_turns() -> None:
    six = [IPv6Address("TCP", f"2001:db8::{i}", 443) for i in range(3)]
    four = [IPv4Address("TCP", f"192.0.2.{i}", 443) for i in range(2)]
    assert interleave_families([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert interleave_families([*four, six[0]]) == [four[0], six[0], four[1]]
    assert interleave_families(four) == four


# The addresses of a name, without a connection.


@pytest.mark.parametrize(("host", "kind"), [(V4, IPv4Address), ("2001:db8::1", IPv6Address)])
def test_address_resolves_to_itself(host: str, kind: type[Any]) -> None:
    found: list[Any] = []
    resolve(None, host, 443).addCallback(found.append)
    assert found == [[kind("TCP", host, 443)]]


def test_name_resolves_to_its_addresses_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    manual, found = ManualResolver(monkeypatch), []
    manual.reactor.installNameResolver(manual.resolver)
    resolve(manual.reactor, "upstream.test", 443).addCallback(found.append)
    manual.finish([V4, OTHER_V4, V6])
    assert [each.host for each in found[0]] == [V4, V6, OTHER_V4]


def test_name_without_addresses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    manual, failures = ManualResolver(monkeypatch), []
    manual.reactor.installNameResolver(manual.resolver)
    resolve(manual.reactor, "upstream.test", 443).addErrback(failures.append)
    manual.finish([])
    assert failures[0].check(DNSLookupError)


def test_cancelled_resolution_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    manual, failures = ManualResolver(monkeypatch), []
    manual.reactor.installNameResolver(manual.resolver)
    resolving = resolve(manual.reactor, "upstream.test", 443)
    resolving.addErrback(failures.append)
    resolving.cancel()
    manual.finish([V4])
    assert failures[0].check(CancelledError)
