"""Counters of the commands to Redis. Every table has a closed set of keys."""

from __future__ import annotations

from typing import Final

KINDS: Final = (
    "connect", "probe", "lease", "put_back", "look_up", "store", "give_up", "renew", "announce",
)  # fmt: skip
"""What commands are for."""

RESULTS: Final = ("ok", "error", "late", "lost", "refused")
"""How commands end.

======= ==========================================================================================
ok      a reply
error   an error reply
late    no reply within the deadline
lost    the connection was lost before the reply
refused not sent: too many commands were in flight
======= ==========================================================================================
"""


OVERDUE: Final = ("lease", "look_up")
"""Commands that requests wait for."""


class StateCounts:
    """Counters of one process, or their sum.

    :ivar commands: by kind and result.
    :ivar overdue: requests that went on without a reply which they had waited for, by kind.
    :ivar opened: how often the circuit breaker opened.
    """

    def __init__(self) -> None:
        self.commands: dict[tuple[str, str], int] = {
            (kind, result): 0 for kind in KINDS for result in RESULTS
        }
        self.overdue = dict.fromkeys(OVERDUE, 0)
        self.opened = 0
