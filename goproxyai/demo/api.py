"""The made-up API as a server on loopback."""

from __future__ import annotations

from random import Random
from typing import Any, Final
from weakref import WeakSet

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from goproxyai.demo.answers import Answer, answer, rate_limited, unavailable
from goproxyai.demo.phases import Phase

LOOPBACK: Final = "127.0.0.1"

FIRST_BYTE_SECONDS: Final = (0.08, 0.5)
"""The shortest and the longest time to the first byte of an answer."""

PIECE_SECONDS: Final = 0.06
"""Between two events of a stream."""

RARE_FAILURE: Final = 400
"""One request of so many fails in the normal phase as well."""


class MadeUpAPI(Resource):
    """Answers as :mod:`.answers` says, after a made-up time.

    :ivar phase: what the API does now; see :meth:`enter`.
    :ivar port: the port, which stays the same in an outage.
    """

    isLeaf = True

    def __init__(self, reactor: Any, random: Random) -> None:
        super().__init__()
        self.phase = Phase.NORMAL
        self.port = 0
        self._reactor = reactor
        self._random = random
        self._serial = 0
        self._site = Site(self)
        self._site.noisy = False
        self._listening: Any = None
        self._answering: set[Deferred[None]] = set()
        self._connections: WeakSet[Any] = WeakSet()

    def listen(self) -> None:
        """Listen on a free port of loopback, or on the port from before an outage."""
        self._listening = self._reactor.listenTCP(self.port, self._site, interface=LOOPBACK)
        self.port = self._listening.getHost().port

    async def enter(self, phase: Phase) -> None:
        """Do as *phase* says from now on."""
        self.phase = phase
        if phase is Phase.AWAY:
            await self.close()
        elif self._listening is None:
            self.listen()

    async def close(self) -> None:
        """Stop listening, and break off all connections."""
        listening, self._listening = self._listening, None
        if listening is None:
            return
        await listening.stopListening()
        for connection in tuple(self._connections):  # those that are kept as well
            connection.abortConnection()
        for answering in tuple(self._answering):
            answering.cancel()

    def render(self, request: Request) -> int:
        """Answer, now or later (``IResource``)."""
        answering: Deferred[None] = Deferred.fromCoroutine(self._answer(request))
        self._answering.add(answering)
        self._connections.add(request.transport)

        def ended(_: object) -> None:
            self._answering.discard(answering)

        answering.addErrback(lambda failure: failure.trap(CancelledError) and None)
        answering.addBoth(ended)
        request.notifyFinish().addBoth(lambda _: answering.cancel())
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> None:
        self._serial += 1
        made = self._choose(request)
        await deferLater(self._reactor, self._random.uniform(*FIRST_BYTE_SECONDS))
        request.setResponseCode(made.status)
        request.setHeader("content-type", made.content_type)
        request.setHeader("x-request-id", f"req_made_up_{self._serial}")
        for name, value in made.headers:
            request.setHeader(name, value)
        if len(made.pieces) == 1:
            request.setHeader("content-length", str(len(made.pieces[0])))
        for number, piece in enumerate(made.pieces):
            if number:
                await deferLater(self._reactor, PIECE_SECONDS)
            request.write(piece)
        request.finish()

    def _choose(self, request: Request) -> Answer:
        every_second = self._serial % 2 == 0
        if self.phase is Phase.LIMITING and every_second:
            return rate_limited()
        if (self.phase is Phase.FAILING and every_second) or self._serial % RARE_FAILURE == 0:
            return unavailable()
        headers = {
            name.decode("latin-1").lower(): values[-1].decode("latin-1")
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        return answer(
            request.method.decode("latin-1"),
            request.path.decode("latin-1"),
            headers,
            b"" if request.content is None else request.content.read(),
            self._serial,
        )
