"""The routes that are relayed to the upstream.

The router (:mod:`goproxyai.router`) compares targets with the prefixes of ``RELAY_PATHS`` and needs
no Klein. The Klein tree (:mod:`goproxyai.admin.app`) states the default.
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


METHODS: Final = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
"""The methods that are relayed."""

RELAYED: Final = RelayedRoutes(prefixes=("/v1/",), methods=METHODS)
"""The routes of a daemon without ``RELAY_PATHS``."""

NOT_RELAYED: Final = RelayedRoutes(prefixes=(), methods=())
"""The routes of a listener for operators."""
