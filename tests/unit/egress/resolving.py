"""A reactor and a resolver whose threads a test runs."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.interfaces import IHostResolution, IResolutionReceiver
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer

from goproxyai.egress.resolver import SharedResolver

Outcome = list[str] | Exception


class ThreadedReactor(MemoryReactorClock):
    """An in-memory reactor; calls from a thread run at once."""

    def callFromThread(self, f: Callable[..., Any], *args: Any) -> None:
        f(*args)


@implementer(IResolutionReceiver)
@attrs.define(eq=False)
class Receiver:
    """Records a resolution.

    :ivar addresses: as text, once the resolution is complete.
    """

    found: list[Any] = attrs.field(factory=list)
    addresses: list[str] | None = None
    resolution: Any = None

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self.resolution = resolutionInProgress

    def addressResolved(self, address: Any) -> None:
        self.found.append(address)

    def resolutionComplete(self) -> None:
        assert self.addresses is None, "completed twice"
        self.addresses = [address.host for address in self.found]


class ManualResolver:
    """A :class:`.SharedResolver` whose look-ups end when the test says so.

    :ivar threads: look-ups that have started and not ended, oldest first.
    :ivar names: the names that were looked up, in order.
    """

    def __init__(self, monkeypatch: Any) -> None:
        self.reactor = ThreadedReactor()
        self.threads: list[Callable[[], None]] = []
        self.names: list[str] = []
        self._outcome: Outcome = []
        self.resolver = SharedResolver(self.reactor, self.threads.append)
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)

    def _getaddrinfo(self, name: str, port: int, family: int, kind: int) -> list[Any]:
        self.names.append(name)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return [
            (socket.AF_INET6, kind, 6, "", (each, port, 0, 0))
            if ":" in each
            else (socket.AF_INET, kind, 6, "", (each, port))
            for each in self._outcome
        ]

    def resolve(self, name: str = "upstream.test") -> Receiver:
        receiver = Receiver()
        self.resolver.resolveHostName(receiver, name, 443)
        return receiver

    def finish(self, outcome: Outcome, index: int = 0) -> None:
        """End the look-up at *index* of :attr:`threads` with *outcome*."""
        self._outcome = outcome
        self.threads.pop(index)()
