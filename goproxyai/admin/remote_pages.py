"""The pages for operators in a worker: the parent renders them with the numbers of all workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import TimeoutError as AnswerTimeout
from twisted.logger import Logger
from twisted.python.failure import Failure

from goproxyai.admin.dashboard_feed import FeedEvents
from goproxyai.errors import ProxyError
from goproxyai.state.parent_link import ParentLink

_log = Logger(namespace="goproxyai.admin.events")

STATS: Final = "stats"
METRICS: Final = "metrics"
DASHBOARD: Final = "dashboard"


class DashboardPage(msgspec.Struct, array_like=True):
    """The page :data:`DASHBOARD`; see :class:`.FeedEvents`.

    :ivar history: empty if the worker knows the event of this number.
    """

    number: int
    state: bytes
    slot: bytes
    history: bytes


encode_dashboard: Final = msgspec.msgpack.Encoder().encode
_decode_dashboard = msgspec.msgpack.Decoder(DashboardPage).decode


@attrs.define(eq=False)
class RemotePages:
    """Asks the parent for pages."""

    _link: ParentLink

    def page(self, name: str) -> Deferred[bytes]:
        """Return the page; fails with ``overloaded`` if the parent does not answer in time."""
        return self._link.page(name).addErrback(_unavailable)

    @property
    def any_reachable(self) -> bool:
        """Whether any worker may reach an upstream."""
        return self._link.any_reachable


def _unavailable(failure: Failure) -> bytes:
    failure.trap(AnswerTimeout)
    raise ProxyError("overloaded", "The parent process did not answer in time. Try again later.")


def _not_sent(failure: Failure) -> None:
    """Send nothing this time; log a failure that is no lack of an answer."""
    if not failure.check(AnswerTimeout, CancelledError):
        _log.failure("the dashboard's events were not sent", failure)


@attrs.define(eq=False)
class RemoteFeed:
    """Asks the parent for the dashboard's events: a :class:`.Feed`."""

    _link: ParentLink
    _number: int = -1
    _history: bytes = b""
    _asked: Deferred[bytes] | None = None

    def start(self, on_slot: Callable[[], None]) -> None:
        """Do nothing: the parent closes the slots."""

    def stop(self) -> None:
        if self._asked is not None:
            self._asked.cancel()

    def poll(self, then: Callable[[FeedEvents], None]) -> None:
        asked = self._link.page(DASHBOARD, self._number)
        self._asked = asked
        asked.addCallback(self._received).addCallback(then)
        asked.addErrback(_not_sent)

    def _received(self, body: bytes) -> FeedEvents:
        page = _decode_dashboard(body)
        if page.history:
            self._number, self._history = page.number, page.history
        return FeedEvents(page.number, page.state, page.slot, lambda: self._history)
