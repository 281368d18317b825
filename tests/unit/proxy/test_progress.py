"""How far a request is, and its model."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from goproxyai.http11.request_body import whole_body
from goproxyai.limits.request_memory import HeldBytes, RequestMemory
from goproxyai.proxy.live_requests import MAX_LIVE, MAX_SCANNED, LiveRequests, oldest_first
from goproxyai.proxy.progress import (
    SEARCHED_BYTES,
    Phase,
    Progress,
    model_of,
    phase_of,
    progress_of,
)

BODY = b'{"model":"gpt-4o","input":"x"}'


@attrs.define
class Exchange:
    """The part of an exchange that its progress is read from."""

    body: Any = attrs.field(factory=lambda: whole_body(BODY))
    listener: Any = None
    is_tunnel: bool = False
    response_started: bool = False
    started_at: float = 0.0
    method: bytes = b"POST"
    target: bytes = b"/v1/responses?key=secret"


@attrs.define
class Receiving:
    """A body that is being received."""

    complete: bool = False
    buffered: int = 5


@attrs.define
class Meter:
    model: str


class Listener:
    def progress(self) -> Progress:
        return Progress(0.5, True, "m")


@attrs.define(eq=False)
class Connection:
    active: Exchange | None


def model(exchange: Exchange, meter: Any = None, held: bytes | None = None) -> str:
    body = None if held is None else HeldBytes(RequestMemory(), held)
    return model_of(exchange, meter, body)  # type: ignore[arg-type]


def test_model_is_that_of_the_response_or_else_of_the_request() -> None:
    assert model(Exchange(), Meter("gpt-4o-2026")) == "gpt-4o-2026"
    assert model(Exchange(), Meter("")) == model(Exchange()) == "gpt-4o"
    assert model(Exchange(whole_body(b"")), held=BODY) == "gpt-4o"


def test_model_of_large_and_unfinished_bodies_is_unknown() -> None:
    large = b" " * SEARCHED_BYTES + BODY
    assert model(Exchange(whole_body(large))) == model(Exchange(), held=large) == ""
    assert model(Exchange(Receiving())) == model(Exchange(whole_body(b""))) == ""


@pytest.mark.parametrize(
    ("fields", "streams", "phase"),
    [
        ({"is_tunnel": True, "response_started": True}, False, Phase.TUNNEL),
        ({"response_started": True}, True, Phase.STREAMING),
        ({"response_started": True}, False, Phase.RESPONDING),
        ({}, False, Phase.WAITING),
        ({"body": Receiving()}, False, Phase.RECEIVING),
    ],
)
def test_phase_depends_on_response_and_body(
    fields: dict[str, Any], streams: bool, phase: Phase
) -> None:
    exchange: Any = Exchange(**fields)
    assert phase_of(exchange, Progress(streams=streams)) is phase


def test_progress_is_that_of_the_listener_if_it_knows() -> None:
    known: Any = Exchange(listener=Listener())
    unknown: Any = Exchange(listener=object())
    assert progress_of(known) == Progress(0.5, True, "m")
    assert progress_of(unknown) == Progress(-1.0, False, "")


def test_rows_are_bounded_and_the_oldest_first() -> None:
    live = LiveRequests(lambda: 100.0, lambda _: "192.0.2.1", lambda path: "own" not in path)
    started = [float(number % 90) for number in range(MAX_SCANNED + 10)]
    exchanges = [Exchange(started_at=at) for at in started]
    exchanges[0] = Exchange(started_at=0.0, target=b"/own")
    live.connections = [Connection(None), *map(Connection, exchanges)]  # type: ignore[assignment]
    rows = live.rows()
    assert len(rows) == MAX_LIVE
    assert rows[0] == (100.0, "POST", "/v1/responses?key", "192.0.2.1", "", "waiting", -1.0)
    assert "/own" not in str(rows)
    assert oldest_first([*rows, (200.0, *rows[0][1:])])[0][0] == 200.0
    assert len(oldest_first(rows + rows)) == MAX_LIVE
