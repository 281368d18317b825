"""The routes that are relayed to the upstream.

The Klein tree (:mod:`goproxyai.admin.app`) and the router (:mod:`goproxyai.router`) both read this
table, so that the tree states every route of the daemon and the router needs no Klein.
"""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen
class RelayedRoutes:
    """Path prefixes, and the methods that are relayed under each of them.

    :ivar prefixes: each starts and ends with ``/``; compared with the raw target, byte by byte.
    :ivar methods: upper case, in the order of the ``Allow`` field of a 405.
    """

    prefixes: tuple[str, ...]
    methods: tuple[str, ...]


RELAYED: Final = RelayedRoutes(
    prefixes=("/v1/",),
    methods=("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"),
)

NOT_RELAYED: Final = RelayedRoutes(prefixes=(), methods=())
"""The routes of a listener for operators."""
