"""The seam to what several processes share, and its implementation for one process.

=================  ==========================  ===================================================
implementation     module                      shares with
=================  ==========================  ===================================================
none               here                        nothing: one process
parent             :mod:`.parent_link`         the workers of the same machine, by their parent
=================  ==========================  ===================================================

The rate limit is a separate seam, :class:`RateLimiter`, because it is on the path of each request.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred, succeed

from goproxyai.state.second_level import SecondLevel


class TokensLeft(NamedTuple):
    """The tokens of a client.

    :ivar tokens: whole tokens of this process.
    :ivar is_complete: whether no other process can have more.
    """

    tokens: int
    is_complete: bool


class RateLimiter(Protocol):
    """Limits the rate of each client.

    :ivar buckets: the clients that have a token bucket, or tokens.
    """

    @property
    def buckets(self) -> Sized: ...

    def start(self) -> None: ...
    def stop(self) -> None: ...

    def set_rate(self, per_minute: int) -> None:
        """Change the rate; 0 turns the limit off."""

    def take(self, client: str) -> float:
        """Take a token.

        :returns: 0.0, or the seconds until there is one, or :data:`.UNDECIDED`.
        """

    def tokens(self, client: str) -> TokensLeft:
        """Return the tokens of a client, without taking one, and without asking a process."""

    def when_decided(self, client: str, then: Callable[[float], None]) -> None:
        """Call *then* with the decision about a request for which :meth:`take` was undecided.

        :param then: its argument is 0.0 or the seconds to wait. A negative one refuses the
            request, because the limit is not known.
        """


class SharedState(Protocol):
    """Announces to the other processes, and to the second level, what concerns the caches.

    :ivar second_level: the cache that the processes share; ``None`` where there is none.
    """

    @property
    def second_level(self) -> SecondLevel | None: ...

    def announce_write(self, owner: bytes) -> None:
        """The cached responses of *owner* are outdated, because of a write."""

    def announce_clearing(self, path: bytes | None) -> Deferred[None]:
        """Drop the cached responses of *path*, or all, in the other processes and the second level.

        :returns: fires when the others have done so, or have not answered in time.
        """


class NoSharedState:
    """The state of one process: there are no others."""

    second_level = None

    def announce_write(self, owner: bytes) -> None:
        """Do nothing."""

    def announce_clearing(self, path: bytes | None) -> Deferred[None]:
        """Do nothing."""
        return succeed(None)


NO_SHARED_STATE = NoSharedState()
