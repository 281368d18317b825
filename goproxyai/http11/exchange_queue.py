"""Handle the exchanges of one connection one at a time, in the order of their requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from goproxyai.http11.exchange import Exchange
from goproxyai.http11.response_output import WRITABLE, ResponseOutput


class ExchangeQueue:
    """The exchanges of one connection that have not ended.

    :ivar active: the one that is handled.
    :ivar waiting: those of pipelined requests, in order.
    """

    __slots__ = ("_dispatching", "active", "waiting")

    def __init__(self) -> None:
        self.active: Exchange | None = None
        self.waiting: deque[Exchange] = deque()
        self._dispatching = False

    @property
    def last(self) -> Exchange | None:
        """The exchange whose request was received last."""
        return self.waiting[-1] if self.waiting else self.active

    def dispatch_next(self, dispatch: Callable[[Exchange], None], output: ResponseOutput) -> bool:
        """Call *dispatch* with waiting exchanges, as long as they end at once.

        Exchanges wait while *output* is blocked. A call from within *dispatch* does nothing, so
        that many short exchanges do not nest.

        :returns: whether exchanges still wait.
        """
        if self._dispatching:
            return False
        self._dispatching = True
        try:
            while self.active is None and self.waiting and output.state is WRITABLE:
                exchange = self.active = self.waiting.popleft()
                dispatch(exchange)
        finally:
            self._dispatching = False
        return bool(self.waiting)

    def drop_waiting(self) -> None:
        """End the exchanges that have not been dispatched."""
        waiting, self.waiting = self.waiting, deque()
        for exchange in waiting:
            exchange.connection_lost()

    def connection_lost(self) -> None:
        """End all exchanges."""
        active, self.active = self.active, None
        if active is not None:
            active.connection_lost()
        self.drop_waiting()
