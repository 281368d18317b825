"""Unix sockets whose path belongs to another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import Factory
from twisted.internet.unix import Port

from goproxyai.reactor.private_names import UnsupportedTwistedError
from goproxyai.reactor.unix_port import keep_socket_path


def test_path_stays_after_the_port_is_closed(tmp_path: Path) -> None:
    from twisted.internet import reactor

    path = tmp_path / "web.sock"
    port: Any = reactor.listenUNIX(str(path), Factory())  # type: ignore[attr-defined]
    assert keep_socket_path(port) is port
    port.connectionLost(None)
    assert path.exists()


def test_other_port_is_not_changed() -> None:
    port = object()
    assert keep_socket_path(port) is port


def test_port_without_the_private_name_is_refused() -> None:
    class LaterPort(Port):
        """The port of a Twisted release without ``_bindPath``."""

        def __init__(self) -> None:
            pass

    with pytest.raises(UnsupportedTwistedError, match=r"has no _bindPath in .*LaterPort; install"):
        keep_socket_path(LaterPort())
