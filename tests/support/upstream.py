"""A fake OpenAI API server.

It answers as :mod:`tests.support.openai_api` does, or as scripted. It records the requests, and
accepts uploads of any size without keeping them.
"""

from __future__ import annotations

from twisted.internet.interfaces import IAddress, IReactorTime

from tests.support.openai_api import OpenAI
from tests.support.requests import Request
from tests.support.serving import FakeConnection, FakeServer, Script


class FakeUpstream(FakeServer):
    """A fake OpenAI API server.

    :ivar api: answers the requests that no script matches; its options may change at any time.
    :ivar reading: whether connections are read.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        super().__init__(reactor)
        self.api = OpenAI()
        self.reading = True

    def buildProtocol(self, addr: IAddress | None) -> FakeConnection:
        return UpstreamConnection(self, addr)

    def default_script(self, request: Request) -> Script:
        return Script(request.path, self.api.answer)

    def pause_reading(self) -> None:
        """Read from no connection, including new ones, until :meth:`resume_reading`."""
        self.reading = False
        for connection in self.connections:
            connection.transport.pauseProducing()

    def resume_reading(self) -> None:
        self.reading = True
        for connection in self.connections:
            connection.transport.resumeProducing()


class UpstreamConnection(FakeConnection):
    """One connection to a :class:`FakeUpstream`."""

    def __init__(self, server: FakeUpstream, address: IAddress | None) -> None:
        super().__init__(server, address)
        self._upstream = server

    def connectionMade(self) -> None:
        super().connectionMade()
        if not self._upstream.reading:
            self.transport.pauseProducing()
