"""The contents of the dashboard's events: the current state, and the slots of the last hour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import attrs
from twisted.internet.task import LoopingCall

from goproxyai.admin.cpu_share import CpuShare
from goproxyai.admin.dashboard_state import state_document
from goproxyai.admin.history import SLOT_SECONDS, Slot
from goproxyai.admin.sources import PageSources
from goproxyai.admin.stats import Stats
from goproxyai.errors import json_bytes


class FeedEvents(NamedTuple):
    """What a subscription may be sent.

    :ivar number: of closed slots since the start.
    :ivar state: the event with the current state.
    :ivar slot: the event with the slot that closed last; empty if none has.
    :ivar history: returns the event with all closed slots.
    """

    number: int
    state: bytes
    slot: bytes
    history: Callable[[], bytes]


class Feed(Protocol):
    """Makes the events."""

    def start(self, on_slot: Callable[[], None]) -> None:
        """Start to close slots; call *on_slot* after each."""

    def stop(self) -> None: ...

    def poll(self, then: Callable[[FeedEvents], None]) -> None:
        """Call *then* with the present events, now or later, or never if they are unavailable."""


def event(name: str, document: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode("ascii"), json_bytes(document))


def _slots_event(slots: list[Slot]) -> bytes:
    return event("slots", {"seconds": SLOT_SECONDS, "slots": slots})


@attrs.define(eq=False)
class DashboardFeed:
    """Makes the events from *sources*: a :class:`Feed`.

    :param subscriptions: returns the number of open event streams of the dashboard.
    """

    _sources: PageSources
    _stats: Stats
    subscriptions: Callable[[], int] = int
    _history_event: bytes = attrs.field(init=False, default=b"")
    _closed: int = attrs.field(init=False, default=0)
    _on_slot: Callable[[], None] = attrs.field(init=False, default=lambda: None)
    _slot_timer: LoopingCall = attrs.field(init=False)
    _cpu: CpuShare = attrs.field(init=False, factory=CpuShare)

    def __attrs_post_init__(self) -> None:
        self._slot_timer = LoopingCall(self._close_slot)
        self._slot_timer.clock = self._sources.clock

    def start(self, on_slot: Callable[[], None]) -> None:
        self._on_slot = on_slot
        self._slot_timer.start(SLOT_SECONDS, now=False)

    def stop(self) -> None:
        if self._slot_timer.running:
            self._slot_timer.stop()

    def poll(self, then: Callable[[FeedEvents], None]) -> None:
        then(self.events())

    def events(self) -> FeedEvents:
        """Return the present events."""
        slot = _slots_event(self._stats.history.latest_slot()) if self._closed else b""
        return FeedEvents(self._closed, self._state_event(), slot, self._all_slots_event)

    def _close_slot(self) -> None:
        self._sources.refresh()
        wall = self._stats.wall()
        self._stats.history.close_slot(wall)
        self._cpu.note(wall, self._sources.process().cpu_ms)
        self._history_event = b""
        self._closed += 1
        self._on_slot()

    def _all_slots_event(self) -> bytes:
        """Return the event with all closed slots, encoded once per slot."""
        if not self._history_event:
            self._history_event = _slots_event(self._stats.history.slots())
        return self._history_event

    def _state_event(self) -> bytes:
        self._sources.refresh()
        current = self._stats.history.current(self._stats.wall())
        process = self._sources.process()
        document = state_document(
            self._stats,
            self._sources,
            current,
            self.subscriptions(),
            process,
            self._cpu.share(current.slot.end.wall, process.cpu_ms),
        )
        return event("state", document)
