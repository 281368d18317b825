"""A turn of the reactor, without what nobody here asks of it.

Twisted's epoll reactor sets up a logging context around every event, which costs more than parsing
a request does, and knows no end of a turn. Where the reactor is that one, its turn is replaced by
a leaner one:

1. Every event goes where it went before; a selectable that raises is disconnected, as before.
2. What asked to be called at the end of this turn is called once every event was seen to; what a
   timer asked for, before the reactor sleeps.
3. At most :data:`MAX_EVENTS_PER_TURN` events make a turn, so that its end comes soon.

Any other reactor keeps its own turn, and the end of one is a ``callLater(0)``.
"""

from __future__ import annotations

from collections.abc import Callable
from select import EPOLLIN
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger

MAX_EVENTS_PER_TURN = 512
"""Events that one turn sees to."""

Call = Callable[[], None]

_log = Logger(namespace="goproxyai.turns")


def end_of_turn_scheduler(reactor: Any) -> Callable[[Call], object]:
    """What takes a call that is to be made once, at the end of the current turn of *reactor*."""
    return getattr(reactor, "_goproxyai_at_end", None) or (lambda call: reactor.callLater(0, call))


def install_lean_poll(reactor: Any) -> None:
    """Give *reactor* the lean turn, once, where it is Twisted's epoll reactor."""
    if type(reactor) is not EPollReactor or hasattr(reactor, "_goproxyai_at_end"):
        return
    ends: list[Call] = []
    ours: Any = reactor  # it does not tell what it is made of
    poll, selectables = ours._poller.poll, ours._selectables
    see_to, disconnect = ours._doReadOrWrite, ours._disconnectSelectable

    def end() -> None:
        while ends:
            calls = ends.copy()
            ends.clear()
            for call in calls:
                try:
                    call()
                except Exception:
                    _log.failure("a defect at the end of a turn")

    def turn(timeout: float | None) -> None:
        end()  # what timers did has an end, too, and does not wait for the next event
        for descriptor, event in poll(-1 if timeout is None else timeout, MAX_EVENTS_PER_TURN):
            selectable = selectables.get(descriptor)
            if selectable is None:  # it went away earlier in this turn
                continue
            try:
                if event == EPOLLIN:  # nearly always; what is left out looks for other events
                    why = selectable.doRead()
                    if why:
                        disconnect(selectable, why, True)
                else:
                    see_to(selectable, descriptor, event)
            except BaseException as defect:  # as Twisted's own turn has it
                _log.failure("a defect while seeing to a connection")
                disconnect(selectable, defect, True)
        end()

    ours.doIteration = turn
    ours._goproxyai_at_end = ends.append
