"""An open connection to a client, as the daemon sees it when it stops."""

from __future__ import annotations

from typing import Protocol

from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange


class OpenConnection(Protocol):
    """A connection that can be drained and closed."""

    def __hash__(self) -> int: ...

    @property
    def active(self) -> Exchange | None:
        """The exchange that is handled."""

    @property
    def fresh(self) -> bool:
        """Whether no request has been received."""

    @property
    def finished(self) -> bool:
        """Whether no request is being received or handled, and all responses are delivered."""

    def drain(self) -> None:
        """Close the connection after the current exchange, if its response has not started."""

    def shut_down(self, problem: ProxyError | None = None) -> None:
        """Close an idle connection, and reset any other.

        :param problem: the response to a request that has none yet.
        """

    def abort(self) -> None:
        """Reset the connection."""
