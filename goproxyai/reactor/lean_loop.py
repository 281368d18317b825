"""An epoll iteration without the per-event logging context.

Twisted's epoll reactor runs each event in a logging context, which costs 1.7 us an event, where a
cache hit takes 11 us in all (``python -m bench.inside``). The reactor also has no hook for the end
of an iteration ("turn"). :func:`install_lean_poll` replaces the iteration of an epoll reactor:

1. Events are dispatched to the same methods as before. A selectable that raises is disconnected,
   as before.
2. Calls that were scheduled for the end of the turn run after the turn's last event. Calls that a
   timer scheduled run before the reactor waits for events.
3. A turn handles at most :data:`MAX_EVENTS_PER_TURN` events, so that the end-of-turn calls are not
   delayed by a burst.

Any other reactor keeps its own iteration, and ``callLater(0)`` stands for the end of the turn. So
does an epoll reactor of a Twisted release that lacks one of :data:`PRIVATE_NAMES`.
"""

from __future__ import annotations

from collections.abc import Callable
from select import EPOLLIN
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger

from goproxyai.reactor.private_names import describe_missing, missing_names

MAX_EVENTS_PER_TURN = 64
"""Small, because most writes wait for the end of the turn. A turn of 512 events, some of them of
TLS handshakes, takes 50 ms and more. The kernel reports descriptors in the order in which they
became ready, so a small number delays no descriptor."""

PRIVATE_NAMES = ("_poller", "_selectables", "_doReadOrWrite", "_disconnectSelectable")
"""Private attributes of Twisted's epoll reactor that the lean poll uses."""

Call = Callable[[], None]

_log = Logger()


def end_of_turn_scheduler(reactor: Any) -> Callable[[Call], object]:
    """Return a function that schedules a call for the end of the current turn of *reactor*."""
    scheduler: Callable[[Call], object] | None = getattr(reactor, "_goproxyai_at_end", None)
    return scheduler or (lambda call: reactor.callLater(0, call))


def install_lean_poll(reactor: Any) -> bool:
    """Replace the iteration of *reactor* where *reactor* is Twisted's epoll reactor.

    A second call changes nothing. Where Twisted lacks a private name, the reactor keeps its own
    iteration and one warning is logged.

    :returns: whether *reactor* has the lean iteration now.
    """
    if type(reactor) is not EPollReactor:
        return False
    untyped: Any = reactor  # EPollReactor is typed without its private attributes
    if hasattr(untyped, "_goproxyai_at_end"):
        return True
    missing = missing_names(untyped, *PRIVATE_NAMES)
    if missing:
        _log.warn(
            "{problem}; until then the reactor keeps Twisted's own, slower iteration",
            problem=describe_missing(untyped, missing),
        )
        return False
    at_end: list[Call] = []
    untyped.doIteration = _lean_iteration(untyped, at_end)
    untyped._goproxyai_at_end = at_end.append
    return True


def _lean_iteration(reactor: Any, at_end: list[Call]) -> Callable[[float | None], None]:
    """Return the replacement of ``EPollReactor.doIteration``.

    :param at_end: calls for the end of the turn; the iteration empties the list.
    """
    poll, selectables = reactor._poller.poll, reactor._selectables
    read_or_write, disconnect = reactor._doReadOrWrite, reactor._disconnectSelectable

    def run_at_end() -> None:
        while at_end:
            calls = at_end.copy()
            at_end.clear()
            for call in calls:
                try:
                    call()
                except Exception:
                    _log.failure("unhandled error in an end-of-turn call")

    def iterate(timeout: float | None) -> None:
        run_at_end()  # calls that timers scheduled must not wait for the next event
        for descriptor, event in poll(-1 if timeout is None else timeout, MAX_EVENTS_PER_TURN):
            selectable = selectables.get(descriptor)
            if selectable is None:  # removed by an earlier event of this turn
                continue
            try:
                if event == EPOLLIN:  # nearly always; _doReadOrWrite would test for other events
                    why = selectable.doRead()
                    if why:
                        disconnect(selectable, why, True)
                else:
                    read_or_write(selectable, descriptor, event)
            except BaseException as error:  # as in Twisted's own iteration
                _log.failure("unhandled error in a connection")
                disconnect(selectable, error, True)
        run_at_end()

    return iterate
