"""An endpoint that connects to the addresses of a name: Happy Eyeballs (RFC 8305).

Twisted's ``HostnameEndpoint`` waits 300 ms before each further address, even where the one before
was refused at once. So a service on 127.0.0.1 whose name ``localhost`` resolves to ``::1`` first
cost 300 ms for each connection. Here the next address is tried when the last attempt fails, or
after :data:`ATTEMPT_DELAY_SECONDS`. There is no timeout: the caller has one deadline for all
addresses, and cancels.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any

import attrs
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHostResolution,
    IProtocolFactory,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

ATTEMPT_DELAY_SECONDS = 0.25
"""Between two attempts while the first one has no result (RFC 8305 section 8)."""


def tcp_endpoint(reactor: Any, host: str, port: int, ipv6: bool) -> IStreamClientEndpoint:
    """Return the endpoint of one address, without a timeout."""
    kind: Any = TCP6ClientEndpoint if ipv6 else TCP4ClientEndpoint
    endpoint: IStreamClientEndpoint = kind(reactor, host, port, timeout=None)
    return endpoint


def interleave_families(addresses: list[Any]) -> list[Any]:
    """Return *addresses* with the families taking turns, the first address first.

    See RFC 8305 section 4. The order within a family is that of the resolver.
    """
    families: dict[type, list[Any]] = {}
    for address in addresses:
        families.setdefault(type(address), []).append(address)
    return [each for each in chain(*zip_longest(*families.values())) if each is not None]


def resolve(reactor: Any, host: str, port: int) -> Deferred[list[Any]]:
    """Return the addresses of *host*, a name or an address, at least one, in order of preference.

    Fails with ``DNSLookupError``.
    """
    if isIPv6Address(host):
        return succeed([IPv6Address("TCP", host, port)])
    if isIPAddress(host):
        return succeed([IPv4Address("TCP", host, port)])
    query = _Query(host)
    reactor.nameResolver.resolveHostName(query, host, port)
    return query.resolved


@implementer(IResolutionReceiver)
class _Query:
    """One look-up.

    :ivar resolved: fires with the addresses.
    """

    def __init__(self, host: str) -> None:
        self.resolved: Deferred[list[Any]] = Deferred(self._cancel)
        self._host = host
        self._resolution: IHostResolution | None = None
        self._addresses: list[Any] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self._resolution = resolutionInProgress

    def addressResolved(self, address: IAddress) -> None:
        self._addresses.append(address)

    def resolutionComplete(self) -> None:
        self._resolution = None
        if self.resolved.called:
            return  # cancelled
        if self._addresses:
            self.resolved.callback(interleave_families(self._addresses))
        else:
            problem = DNSLookupError(f"no results for hostname lookup: {self._host}")
            self.resolved.errback(problem)

    def _cancel(self, resolved: Deferred[list[Any]]) -> None:
        if self._resolution is not None:
            with suppress(NotImplementedError):  # Twisted's own resolver cannot cancel
                self._resolution.cancel()


@implementer(IStreamClientEndpoint)
@attrs.frozen(eq=False)
class NameEndpoint:
    """Connects to *host*, which ``reactor.nameResolver`` resolves for each connection."""

    reactor: Any
    host: str
    port: int

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Connect to the first address that accepts (``IStreamClientEndpoint``).

        Fails with ``DNSLookupError``, or as the last attempt does.
        """
        race = _Race(self.reactor, protocolFactory)
        race.start(resolve(self.reactor, self.host, self.port))
        return race.connected


def endpoint_to(reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
    """Return the endpoint of *host*, a name or an address, without a timeout."""
    ipv6 = isIPv6Address(host)
    if ipv6 or isIPAddress(host):
        return tcp_endpoint(reactor, host, port, ipv6)
    return NameEndpoint(reactor, host, port)


class _Race:
    """The attempts to connect to the addresses of one name.

    :ivar connected: fires with the protocol of the first successful attempt.
    """

    __slots__ = (
        "_addresses", "_attempts", "_delay", "_factory", "_reactor", "_resolution", "connected",
    )  # fmt: skip

    def __init__(self, reactor: Any, factory: IProtocolFactory) -> None:
        self.connected: Deferred[Any] = Deferred(self._cancel)
        self._reactor = reactor
        self._factory = factory
        self._resolution: Deferred[list[Any]] | None = None
        self._addresses: list[Any] = []  # not tried
        self._attempts: list[Deferred[Any]] = []  # without a result
        self._delay: IDelayedCall | None = None

    def start(self, resolution: Deferred[list[Any]]) -> None:
        """Connect to the addresses of *resolution*."""
        self._resolution = resolution
        resolution.addCallbacks(self._resolved, self._not_resolved)

    def _resolved(self, addresses: list[Any]) -> None:
        self._resolution = None
        self._addresses = addresses
        self._attempt_next()

    def _not_resolved(self, reason: Failure) -> None:
        self._resolution = None
        if not self.connected.called:  # else cancelled
            self.connected.errback(reason)

    # The attempts.

    def _attempt_next(self) -> None:
        self._stop_delay()
        address = self._addresses.pop(0)
        ipv6 = isinstance(address, IPv6Address)
        endpoint = tcp_endpoint(self._reactor, address.host, address.port, ipv6)
        attempt: Deferred[Any] = endpoint.connect(self._factory)
        self._attempts.append(attempt)
        if self._addresses:
            self._delay = self._reactor.callLater(ATTEMPT_DELAY_SECONDS, self._delay_passed)
        attempt.addCallbacks(
            self._succeeded, self._failed, callbackArgs=(attempt,), errbackArgs=(attempt,)
        )

    def _delay_passed(self) -> None:
        self._delay = None
        self._attempt_next()

    def _succeeded(self, protocol: Any, attempt: Deferred[Any]) -> None:
        self._attempts.remove(attempt)
        self._stop()
        self.connected.callback(protocol)

    def _failed(self, reason: Failure, attempt: Deferred[Any]) -> None:
        if attempt not in self._attempts:
            return  # cancelled
        self._attempts.remove(attempt)
        if self._addresses:
            self._attempt_next()
        elif not self._attempts:
            self.connected.errback(reason)

    def _stop_delay(self) -> None:
        if self._delay is not None:
            self._delay.cancel()
            self._delay = None

    def _stop(self) -> None:
        """End everything that is in progress."""
        self._stop_delay()
        self._addresses = []
        attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            attempt.cancel()

    def _cancel(self, connected: Deferred[Any]) -> None:
        self._stop()
        if self._resolution is not None:
            self._resolution.cancel()
