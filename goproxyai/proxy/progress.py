"""How far a request is, for the dashboard; asked for once a second, and kept nowhere."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple, Protocol, runtime_checkable

from goproxyai.http11.exchange import Exchange
from goproxyai.limits.request_memory import HeldBytes
from goproxyai.proxy.usage_meter import UsageMeter
from goproxyai.usage.usage import find_model

SEARCHED_BYTES: Final = 64 * 1024
"""The size of the largest request body that is searched for its model."""


class Phase(StrEnum):
    """What a request in progress does.

    :cvar RECEIVING: its body is being received.
    :cvar WAITING: the response has not begun.
    :cvar STREAMING: the response is an event stream.
    """

    RECEIVING = "receiving"
    WAITING = "waiting"
    RESPONDING = "responding"
    STREAMING = "streaming"
    TUNNEL = "tunnel"


class Progress(NamedTuple):
    """How far a request is.

    :ivar first_byte_seconds: from the head of the request to the first byte of the response;
        negative before.
    :ivar streams: whether the response is an event stream.
    :ivar model: empty if it is not known.
    """

    first_byte_seconds: float = -1.0
    streams: bool = False
    model: str = ""


@runtime_checkable
class InProgress(Protocol):
    """A listener of an exchange that knows its progress."""

    def progress(self) -> Progress:
        """Return how far the request is."""


def progress_of(exchange: Exchange) -> Progress:
    """Return how far *exchange* is, as its listener knows."""
    listener = exchange.listener
    return listener.progress() if isinstance(listener, InProgress) else Progress()


def phase_of(exchange: Exchange, progress: Progress) -> Phase:
    """Return what *exchange* does."""
    if exchange.is_tunnel:
        return Phase.TUNNEL
    if exchange.response_started:
        return Phase.STREAMING if progress.streams else Phase.RESPONDING
    return Phase.WAITING if exchange.body.complete else Phase.RECEIVING


def model_of(exchange: Exchange, meter: UsageMeter | None, held: HeldBytes | None) -> str:
    """Return the model of a forwarded request; empty if it is not known.

    :param meter: of the response.
    :param held: the body of the request, if the exchange does not have it.
    """
    if meter is not None and meter.model:
        return meter.model
    body = exchange.body
    if held is not None:
        return find_model(held.data) if len(held.data) <= SEARCHED_BYTES else ""
    if body.complete and 0 < body.buffered <= SEARCHED_BYTES:
        return find_model(body.whole())
    return ""
