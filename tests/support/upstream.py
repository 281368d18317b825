"""The OpenAI API, as far as a relay can tell.

It answers as :mod:`tests.support.openai_api` says, or as it is scripted to; it records each request
byte for byte where that matters, and takes uploads of any size without keeping them.
"""

from __future__ import annotations

from twisted.internet.interfaces import IAddress, IReactorTime

from tests.support.openai_api import OpenAI
from tests.support.requests import Request
from tests.support.serving import FakeConnection, FakeServer, Script


class FakeUpstream(FakeServer):
    """An OpenAI that is made of this process.

    :ivar api: what it answers when no script fits; its attributes may be changed at any time.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        super().__init__(reactor)
        self.api = OpenAI()
        self._reading = True

    def buildProtocol(self, addr: IAddress | None) -> FakeConnection:
        return UpstreamConnection(self, addr)

    def own_script(self, request: Request) -> Script:
        return Script(request.path, self.api.answer)

    def pause_reading(self) -> None:
        """Take nothing from any connection, until :meth:`resume_reading`."""
        self._reading = False
        for connection in self.connections:
            connection.wire.pauseProducing()

    def resume_reading(self) -> None:
        self._reading = True
        for connection in self.connections:
            connection.wire.resumeProducing()

    @property
    def reading(self) -> bool:
        return self._reading


class UpstreamConnection(FakeConnection):
    """One connection to a :class:`FakeUpstream`."""

    def __init__(self, server: FakeUpstream, address: IAddress | None) -> None:
        super().__init__(server, address)
        self._upstream = server

    def connectionMade(self) -> None:
        super().connectionMade()
        if not self._upstream.reading:
            self.wire.pauseProducing()
