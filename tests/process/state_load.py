"""Concurrent load on services with a shared state: each answer is judged and recorded.

Each service gets, on kept connections:

=========== =======================================================================================
hit         responses that are stored after the first request
miss        responses that no request has asked for
shared      responses that the clients of all services ask for at the same time
limited     one client that sends more than its limit allows
=========== =======================================================================================

The other clients stay below the limit: a refusal of their requests is a wrong answer.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPException
from itertools import count
from types import TracebackType

import attrs

from tests.process.daemon_process import eventually
from tests.process.worker_service import Connection, Service

LIMIT = 120
"""``RATE_LIMIT`` of the services."""

REQUESTS_OF_AN_ADDRESS = 20

LIMITED_ADDRESS = "203.0.113.9"

PAUSE_SECONDS = 0.005
"""Between two requests of a client: the load must leave time to the other processes."""


_addresses = count()
"""Of clients, each of which is used once in this process."""


@attrs.frozen
class Outcome:
    """A request.

    :ivar began: monotonic seconds.
    :ivar seconds: until the end of the response, as the client saw it.
    :ivar problem: what is wrong with the answer; empty if nothing is.
    """

    kind: str
    began: float
    seconds: float
    status: int
    request_id: str
    problem: str


class Load:
    """Clients in threads of their own, from the beginning to the end of a ``with`` block.

    :ivar outcomes: in the order of their end.
    """

    def __init__(self, services: list[Service]) -> None:
        self.outcomes: list[Outcome] = []
        self._stopped = threading.Event()
        self._shared = count()
        self._sharing = len(services)
        plans = {
            "hit": lambda number: f"/v1/hit/{number % 5}",
            "miss": lambda number: f"/v1/miss/{time.monotonic_ns()}-{number}",
            "shared": lambda _: f"/v1/shared/{next(self._shared) // self._sharing}",
            "limited": lambda number: f"/v1/limited/{number % 5}",
        }
        self._threads = [
            threading.Thread(target=self._run, args=(service, kind, path))
            for service in services
            for kind, path in plans.items()
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    @property
    def problems(self) -> list[Outcome]:
        return [each for each in self.outcomes if each.problem]

    def wait_for(self, number: int) -> None:
        """Wait until *number* further requests of each kind have ended."""
        start = len(self.outcomes)

        def have_ended() -> bool:
            ended = Counter(each.kind for each in self.outcomes[start:])
            return all(ended[kind] >= number for kind in ("hit", "miss", "shared", "limited"))

        eventually(have_ended)

    def admitted(self) -> int:
        """Return how many requests of the limited client were admitted."""
        return sum(each.kind == "limited" and each.status == 200 for each in self.outcomes)

    def _run(self, service: Service, kind: str, path: Callable[[int], str]) -> None:
        connection = service.connect()
        address = LIMITED_ADDRESS
        number = 0
        while not self._stopped.wait(PAUSE_SECONDS):
            if kind != "limited" and number % REQUESTS_OF_AN_ADDRESS == 0:
                used = next(_addresses)
                address = f"10.{used >> 16 & 255}.{used >> 8 & 255}.{used & 255}"
            self.outcomes.append(_ask(connection, kind, path(number), address))
            if not self.outcomes[-1].status:
                connection = service.connect()
            number += 1


def _ask(connection: Connection, kind: str, path: str, address: str) -> Outcome:
    began = time.monotonic()
    status, request_id = 0, ""
    try:
        http = connection._http
        http.request("GET", path, headers={"X-Forwarded-For": address})
        answer = http.getresponse()
        status, request_id = answer.status, answer.getheader("X-Request-Id") or ""
        problem = _problem(kind, path, status, answer.read())
    except (OSError, HTTPException) as error:
        status, problem = 0, repr(error)
    return Outcome(kind, began, time.monotonic() - began, status, request_id, problem)


def _problem(kind: str, path: str, status: int, body: bytes) -> str:
    """Return what is wrong with an answer."""
    if kind == "limited" and status == 429:
        return ""
    if status != 200:
        return f"{status}: {body[:200]!r}"
    answered = json.loads(body)["path"]
    return "" if answered == path else f"the answer to {answered}"
