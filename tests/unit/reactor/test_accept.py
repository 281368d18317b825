"""The bound on accepting leaves ports alone that it does not know."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.tcp import Port
from twisted.logger import capturedLogs, eventAsText

from goproxyai.reactor import accept
from goproxyai.reactor.accept import BoundedAccept


def test_port_of_another_class_is_not_changed() -> None:
    port = object()
    BoundedAccept(port, Clock(), [].append).stop()


@pytest.mark.parametrize("name", accept.PRIVATE_NAMES)
def test_port_without_a_private_name_is_not_changed(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    class LaterPort:
        """The port of a Twisted release that has renamed an attribute."""

        def __init__(self) -> None:
            for each in accept.PRIVATE_NAMES:
                if each != name:
                    setattr(self, each, None)

    monkeypatch.setattr(accept, "Port", LaterPort)
    port = LaterPort()
    before = dict(vars(port))
    with capturedLogs() as events:
        BoundedAccept(port, Clock(), [].append).stop()
    (line,) = [eventAsText(event, includeTimestamp=False) for event in events]
    assert f"has no {name} in " in line
    assert vars(port) == before


def test_installed_twisted_has_the_private_names() -> None:
    port: Any = Port(0, Factory(), interface="127.0.0.1", reactor=Clock())
    port.numberAccepts = 1  # Port.startListening sets the attribute
    before = port.doRead
    BoundedAccept(port, Clock(), [].append)
    assert port.doRead != before
