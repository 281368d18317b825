"""The dashboard's server-sent events (WHATWG HTML section 9.2).

1. A new subscription gets the closed slots of the last hour (``slots``) and the current state
   (``state``). Then it gets ``state`` every second, and ``slots`` with one slot every ten seconds.
   All subscriptions get the same bytes.
2. Without a subscription, only the counter snapshot for :mod:`.history` is taken, every ten
   seconds (:mod:`.dashboard_feed`).
3. A paused subscription gets nothing until its client reads again, so that its send buffer holds at
   most an event or two. If it missed a slot, it gets the whole hour again.
4. There are at most :data:`MAX_SUBSCRIPTIONS`. All are closed when the daemon drains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from goproxyai.admin.dashboard_feed import Feed, FeedEvents
from goproxyai.errors import ProxyError
from goproxyai.http11.web_adapter import AdminRequest

MAX_SUBSCRIPTIONS: Final = 32

STATE_SECONDS: Final = 1.0
"""Interval of ``state`` events."""

_log = Logger(namespace="goproxyai.admin.events")


@implementer(IPushProducer)
class Subscription:
    """The event stream of one dashboard page.

    :param on_cancel: called when :attr:`done` is cancelled, because the client is gone.
    :ivar done: fires when the stream ends.
    """

    def __init__(self, request: AdminRequest, on_cancel: Callable[[Subscription], None]) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: on_cancel(self))
        self._request = request
        self._paused = False
        self._missed_slots = True

    def send(self, state: bytes, slot: bytes, history: Callable[[], bytes]) -> None:
        """Send the events that are new to this subscription.

        :param slot: the event of the slot that has just closed, or empty.
        :param history: returns the event with all closed slots.
        """
        if self._paused:
            self._missed_slots = self._missed_slots or bool(slot)
            return
        self._request.write((history() if self._missed_slots else slot) + state)
        self._missed_slots = False

    def finish(self) -> None:
        """End the stream as a complete response."""
        self._request.unregisterProducer()
        self.done.callback(b"")

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False

    def stopProducing(self) -> None:
        """Do nothing: when the connection is lost, :attr:`done` is cancelled as well."""


@attrs.define(eq=False)
class EventStream:
    """Sends the dashboard's events to its subscriptions."""

    _feed: Feed
    _clock: IReactorTime
    _number: int = attrs.field(init=False, default=0)
    _subscriptions: dict[Subscription, None] = attrs.field(factory=dict, init=False)
    _state_timer: LoopingCall = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._state_timer = LoopingCall(self._send)
        self._state_timer.clock = self._clock

    def __len__(self) -> int:
        """Return the number of open subscriptions."""
        return len(self._subscriptions)

    def start(self) -> None:
        self._feed.start(self._send)

    def stop(self) -> None:
        self._feed.stop()
        self.close()

    def subscribe(self, request: AdminRequest) -> Deferred[bytes]:
        """Send events to *request* from now on.

        :returns: fires when the stream ends; cancelling it ends the subscription.
        :raises ProxyError: ``overloaded``, with :data:`MAX_SUBSCRIPTIONS` open.
        """
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise ProxyError(
                "overloaded",
                f"{MAX_SUBSCRIPTIONS} dashboard pages are open, which is the limit. "
                "Close one of them.",
            )
        subscription = Subscription(request, self._unsubscribe)
        self._subscriptions[subscription] = None
        request.registerProducer(subscription, True)

        def begin(events: FeedEvents) -> None:
            if subscription in self._subscriptions:
                subscription.send(events.state, b"", events.history)

        try:
            self._feed.poll(begin)
        except Exception:
            self._unsubscribe(subscription)
            raise
        if not self._state_timer.running:
            self._state_timer.start(STATE_SECONDS, now=False)
        return subscription.done

    def _unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription, None)
        if not self._subscriptions and self._state_timer.running:
            self._state_timer.stop()

    def close(self) -> None:
        """End all subscriptions."""
        for subscription in tuple(self._subscriptions):
            self._unsubscribe(subscription)
            subscription.finish()

    def _send(self) -> None:
        if not self._subscriptions:
            return
        try:
            self._feed.poll(self._send_events)
        except Exception:  # an exception would stop the timer
            _log.failure("the dashboard's events were not sent")

    def _send_events(self, events: FeedEvents) -> None:
        slot = events.slot if events.number != self._number else b""
        self._number = events.number
        for subscription in tuple(self._subscriptions):
            subscription.send(events.state, slot, events.history)
