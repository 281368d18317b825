"""Unix sockets whose path belongs to another process."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IListeningPort
from twisted.internet.unix import Port

from goproxyai.reactor.private_names import (
    UnsupportedTwistedError,
    describe_missing,
    missing_names,
)

_ABSTRACT_PATH = b"\0"
"""A path outside of the file system; Twisted removes no file for it."""


def keep_socket_path(port: Any) -> IListeningPort:
    """Prevent *port* from removing its path when it is closed; other ports stay as they are.

    :raises UnsupportedTwistedError: where this Twisted release offers no way to keep the path.
    """
    if isinstance(port, Port):
        missing = missing_names(port, "_bindPath")
        if missing:
            raise UnsupportedTwistedError(describe_missing(port, missing))
        port._bindPath = _ABSTRACT_PATH
    return port  # type: ignore[no-any-return]
