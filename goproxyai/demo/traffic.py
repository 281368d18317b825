"""The made-up clients: they send requests to the daemon until they are stopped."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from twisted.web.client import readBody

from goproxyai.demo.scenario import CLIENTS, Call, Scenario, batch_call
from goproxyai.egress.agent import RelayAgent
from goproxyai.http11.response import Response

QUICK_CALLS: Final = 15
"""Calls of each client at the start, which fill the cache and the dashboard."""

QUICK_SECONDS: Final = 0.3
CALM_SECONDS: Final = (1.5, 3.5)
"""Between two calls of one client: at the start, and the bounds of a random time later."""

BATCH_SECONDS: Final = 60.0
"""Between two batches of the client that exceeds its limit; its bucket is full again by then."""

BATCH_CALLS: Final = 33
"""A few more than the limit: the verdict warns from 5 % of all requests on."""

BATCH_PAUSE_SECONDS: Final = 0.05

DISCONNECT_SECONDS: Final = 0.3
"""From the head of a response to the disconnect of a client that leaves early."""

MAX_IN_PROGRESS: Final = 200
"""Requests in progress, beyond which none are sent."""


class Traffic:
    """Sends the calls of a scenario.

    :param agent: sends the requests.
    :param origin: of the daemon.
    :ivar in_progress: requests without a complete response.
    """

    def __init__(self, reactor: Any, agent: RelayAgent, origin: str, random: Random) -> None:
        self.in_progress: set[Deferred[Any]] = set()
        self._reactor = reactor
        self._agent = agent
        self._origin = origin.encode("ascii")
        self._random = random
        self._scenario = Scenario(random)
        self._calls: dict[object, Any] = {}
        self._batch = LoopingCall(self._start_batch)
        self._batch.clock = reactor
        self._batch_number = 0

    def start(self) -> None:
        for number, client in enumerate(CLIENTS):
            self._later(client, number * QUICK_SECONDS / len(CLIENTS), self._next_call, client, 0)
        self._batch.start(BATCH_SECONDS)

    def stop(self) -> None:
        """Send nothing more, and break off what is in progress."""
        self._batch.stop()
        for call in self._calls.values():
            if call.active():
                call.cancel()
        for request in tuple(self.in_progress):
            request.cancel()
        self._agent.pool.close()

    def _later(
        self, owner: object, seconds: float, call: Callable[..., None], *arguments: Any
    ) -> None:
        self._calls[owner] = self._reactor.callLater(seconds, call, *arguments)

    def _next_call(self, client: str, number: int) -> None:
        self._send(self._scenario.next_call(client))
        seconds = QUICK_SECONDS if number < QUICK_CALLS else self._random.uniform(*CALM_SECONDS)
        self._later(client, seconds, self._next_call, client, number + 1)

    def _start_batch(self) -> None:
        self._next_of_batch(BATCH_CALLS)

    def _next_of_batch(self, left: int) -> None:
        self._batch_number += 1
        self._send(batch_call(self._batch_number))
        if left > 1:
            self._later("batch", BATCH_PAUSE_SECONDS, self._next_of_batch, left - 1)

    def _send(self, call: Call) -> None:
        if len(self.in_progress) >= MAX_IN_PROGRESS:
            return
        headers = [
            ("X-Forwarded-For", call.client),
            ("User-Agent", "goproxyai-demo"),
            ("Authorization", f"Bearer {call.key}"),
            *([("Content-Type", "application/json")] if call.body is not None else []),
            *call.headers,
        ]
        sending: Deferred[Any] = self._agent.request(
            call.method.encode("ascii"),
            self._origin + call.path.encode("ascii"),
            [(name.encode("ascii"), value.encode("ascii")) for name, value in headers],
            call.body,
        )
        self.in_progress.add(sending)
        sending.addCallback(self._disconnect if call.disconnects else readBody)
        sending.addErrback(_ignore)
        sending.addBoth(lambda _: self.in_progress.discard(sending))

    def _disconnect(self, response: Response) -> None:
        self._later(response, DISCONNECT_SECONDS, self._abort, response)

    def _abort(self, response: Response) -> None:
        self._calls.pop(response, None)
        response.abort()


def _ignore(_: Failure) -> None:
    """A request fails where the daemon breaks off its response: that is what is shown."""
