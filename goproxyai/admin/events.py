"""What the dashboard shows, sent to those who look at it as it changes (WHATWG HTML §9.2).

1. Nothing is gathered while nobody looks, but for a mark of :mod:`.history` every ten seconds.
2. A viewer gets the last hour, then every second how things are, and every ten seconds one more
   point of the hour. All get the same bytes.
3. One who does not keep up is left out until it does: what waits for it is an event or two.
4. There are at most :data:`MOST_VIEWERS`. All are sent away as the daemon drains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from goproxyai import __version__
from goproxyai.admin.history import MOST_ROUTES, SLOT_SECONDS, History, Span
from goproxyai.admin.stats import Stats
from goproxyai.errors import ProxyError, compact
from goproxyai.telemetry.access_log import Batch, Event
from goproxyai.telemetry.counters import Counters

MOST_VIEWERS: Final = 32
"""Who may look at a time."""

LOOK_SECONDS: Final = 1.0
"""Between two looks."""

MOST_ERRORS: Final = 20
"""Of the last, that are shown."""

_log = Logger(namespace="goproxyai.admin.events")


@implementer(IPushProducer)
class Subscription:
    """One who looks.

    :ivar gone: fires when it has seen enough, or we have shown enough; cancelling it ends it.
    """

    def __init__(self, live: EventStream, request: Any) -> None:
        self.gone: Deferred[bytes] = Deferred(lambda _: live.left(self))
        self._request = request
        self._paused = False
        self._missed = True  # of the hour

    def show(self, state: bytes, slot: bytes, hour: Callable[[], bytes]) -> None:
        """Send what is new; *hour* to one who missed any of it."""
        if self._paused:
            self._missed = self._missed or bool(slot)
            return
        self._request.write((hour() if self._missed else slot) + state)
        self._missed = False

    def end(self) -> None:
        """There is no more to see."""
        self._request.unregisterProducer()
        self.gone.callback(b"")

    def pauseProducing(self) -> None:
        """It does not keep up."""
        self._paused = True

    def resumeProducing(self) -> None:
        """It does."""
        self._paused = False

    def stopProducing(self) -> None:
        """Its connection is gone, as :attr:`gone` is told."""


def _event(name: str, document: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode("ascii"), compact(document))


def _slots(slots: list[list[float | None]]) -> bytes:
    return _event("slots", {"seconds": SLOT_SECONDS, "slots": slots})


@attrs.define(eq=False)
class EventStream:
    """Shows it."""

    clock: IReactorTime
    stats: Stats
    _history: History = attrs.field(init=False)
    _viewers: dict[Subscription, None] = attrs.field(factory=dict, init=False)
    _marking: LoopingCall = attrs.field(init=False)
    _looking: LoopingCall = attrs.field(init=False)
    _told: bytes = attrs.field(init=False, default=b"")

    def __attrs_post_init__(self) -> None:
        self._history = History(self._counters, self.stats.wall())
        self._marking = LoopingCall(self._mark)
        self._marking.clock = self.clock
        self._looking = LoopingCall(self._look)
        self._looking.clock = self.clock

    @property
    def _counters(self) -> Counters:
        return self.stats.counters

    def __len__(self) -> int:
        """Who looks."""
        return len(self._viewers)

    def start(self) -> None:
        """Begin to note down what happens."""
        self._marking.start(SLOT_SECONDS, now=False)

    def stop(self) -> None:
        """End; nobody sees any more."""
        if self._marking.running:
            self._marking.stop()
        self.close()

    def watch(self, request: Any) -> Deferred[bytes]:
        """Show *request* how things are, from now on.

        :raises Problem: ``overloaded``.
        """
        if len(self._viewers) >= MOST_VIEWERS:
            raise ProxyError(
                "overloaded", f"{MOST_VIEWERS} look at the dashboard already; close one of them."
            )
        viewer = Subscription(self, request)
        self._viewers[viewer] = None
        request.registerProducer(viewer, True)
        try:
            viewer.show(self._state(), b"", self._hour)
        except Exception:  # a defect of ours: its place is free again
            self.left(viewer)
            raise
        if not self._looking.running:
            self._looking.start(LOOK_SECONDS, now=False)
        return viewer.gone

    def left(self, viewer: Subscription) -> None:
        """One looks no more."""
        self._viewers.pop(viewer, None)
        if not self._viewers and self._looking.running:
            self._looking.stop()

    def close(self) -> None:
        """Send all away."""
        for viewer in tuple(self._viewers):
            self.left(viewer)
            viewer.end()

    def _mark(self) -> None:
        self.stats.relay.log.flush()  # which counts what has ended
        self._history.mark(self.stats.wall())
        self._told = b""
        if self._viewers:
            self._show(_slots(self._history.last()))

    def _look(self) -> None:
        self._show(b"")

    def _show(self, slot: bytes) -> None:
        try:
            state = self._state()
            for viewer in tuple(self._viewers):
                viewer.show(state, slot, self._hour)
        except Exception:  # a defect of ours: those who look see it stand still
            _log.failure("a defect in the dashboard")

    def _hour(self) -> bytes:
        """All of it that has ended, worked out once in each slot."""
        if not self._told:
            self._told = _slots(self._history.slots())
        return self._told

    def _state(self) -> bytes:
        stats, counters = self.stats, self._counters
        stats.relay.log.flush()
        wall = stats.wall()
        slot, hour = self._history.now(wall)
        return _event(
            "state",
            {
                "now": wall,
                "version": __version__,
                "uptime_seconds": stats.uptime,
                "ready": stats.ready,
                "requests": {
                    "total": counters.requests,
                    "in_flight": counters.requests - counters.finished - len(self._viewers),
                    "open_streams": counters.open_streams,
                    "limited": counters.limited,
                    "errors": sum(counters.errors.values()),
                    "slow": counters.slow,
                },
                "cache": stats.cache(),
                "tokens": _tokens(counters),
                "connections": {
                    "open": counters.connections.opened - counters.connections.closed,
                    "most": stats.slots.max_connections,
                },
                "upstreams": stats.upstreams(),
                "hour": _hour(hour),
                "routes": [
                    {"route": route, "requests": row[0], "hits": row[1], "errors": row[3]}
                    for route, row in hour.routes[:MOST_ROUTES]
                ],
                "recent_errors": self._errors(),
                "slot": slot.slot(),
            },
        )

    def _errors(self) -> list[dict[str, Any]]:
        """The last ones, newest first."""
        failures = list(self.stats.relay.log.failures)[-MOST_ERRORS:]
        return [_error(event, batch) for event, batch in reversed(failures)]


def _hour(span: Span) -> dict[str, Any]:
    requests, hits, lookups, errors = span.all
    p50, p95, p99 = span.percentiles()
    return {
        "requests": requests,
        "hits": hits,
        "lookups": lookups,
        "errors": errors,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
    }


def _error(event: Event, batch: Batch) -> dict[str, Any]:
    fields = event.fields(batch)
    shown = ("time", "method", "path", "status", "code", "detail", "request_id")
    told = {name: fields.get(name, "") for name in shown}
    if not event.code and event.status >= 500:
        told["detail"] = "upstream's own answer"
    return told


def _tokens(counters: Counters) -> dict[str, Any]:
    tokens = counters.tokens
    models = [
        (model, sum(tally.used[:2]), sum(tally.saved[:2]))  # of prompt and completion
        for model, tally in tokens.models.items()
    ]
    models.sort(key=lambda row: -(row[1] + row[2]))
    return {
        "upstream": tokens.total("used"),
        "cache": tokens.total("saved"),
        "unknown": sum(tokens.unknown.values()),
        "models": [
            {"model": model, "upstream": used, "cache": saved} for model, used, saved in models
        ],
        "money": tokens.money(),
    }
