"""Where to listen, in this process; ``test_restart`` has sockets that a daemon inherits."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.endpoints import _SystemdParser
from twisted.internet.protocol import Factory
from twisted.python.systemd import ListenFDs

from goproxyai.daemon.endpoints import Inherited, ListenError, endpoints
from goproxyai.daemon.service import Listeners
from tests.support.harness import ProxyHarness

Passed = Callable[[int], None]


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Passed:
    """Passes a descriptor as systemd does, under the name of ``web``."""

    def given(descriptor: int) -> None:
        monkeypatch.setattr(_SystemdParser, "_sddaemon", ListenFDs([descriptor], ["web"]))

    return given


def refusal(description: str) -> str:
    """The line that ends the start where *description* is to be listened on."""
    from twisted.internet import reactor

    with pytest.raises(ListenError) as caught:
        endpoints(reactor, (description,))
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return str(caught.value)


@pytest.mark.parametrize("description", ["quic:80", "8080", "tcp:http-or-so", "tcp:"])
def test_what_is_no_endpoint_is_told_in_one_line(description: str) -> None:
    line = refusal(description)
    assert line.startswith(
        f"goproxyai: LISTEN is {description!r}, expected a Twisted endpoint such as tcp:8080 ("
    )
    assert "\n" not in line


def test_each_endpoint_keeps_its_description() -> None:
    from twisted.internet import reactor

    descriptions = ("tcp:1", "unix:a")
    assert [text for text, _ in endpoints(reactor, descriptions)] == list(descriptions)


@pytest.mark.parametrize("which", ["index=0", "name=web"])
def test_a_socket_that_nobody_passed_is_missed(which: str) -> None:
    line = refusal(f"systemd:domain=INET:{which}")
    assert line.startswith(
        f"goproxyai: cannot listen on systemd:domain=INET:{which}: no such socket was passed"
    )


def test_a_socket_of_another_domain_is_refused(passed: Passed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        passed(one.fileno())
        assert refusal("systemd:domain=INET6:name=web").endswith(
            "the socket that was passed is of domain=INET"
        )


def test_a_socket_that_does_not_listen_is_refused(passed: Passed) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        passed(one.fileno())
        assert "does not listen; its unit needs Accept=no" in refusal("systemd:domain=INET:index=0")


def test_what_is_no_socket_is_refused(passed: Passed, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        passed(file.fileno())
        assert "cannot be used (Socket operation on non-socket)" in refusal(
            "systemd:domain=INET:index=0"
        )


@pytest_twisted.ensureDeferred
async def test_a_socket_that_was_passed_listens_on_when_we_do_not(passed: Passed) -> None:
    from twisted.internet import reactor

    with socket.create_server(("127.0.0.1", 0)) as one:
        passed(one.dup().detach())  # whoever adopts it closes it
        ((_, endpoint),) = endpoints(reactor, ("systemd:domain=INET:name=web",))
        assert isinstance(endpoint, Inherited)
        port = await endpoint.listen(Factory())
        assert port.getHost().port == one.getsockname()[1]
        await port.stopListening()
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        with socket.create_connection(one.getsockname(), 5):
            pass


@pytest_twisted.ensureDeferred
async def test_the_path_of_a_unix_socket_that_was_passed_stays(
    passed: Passed, tmp_path: Path
) -> None:
    from twisted.internet import reactor

    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))
        one.listen()
        passed(one.dup().detach())  # whoever adopts it closes it
        ((_, endpoint),) = endpoints(reactor, ("systemd:domain=UNIX:name=web",))
        port = await endpoint.listen(Factory())
        await port.stopListening()
    assert path.exists()


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken_is_told_in_one_line(harness: ProxyHarness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        taken = f"tcp:{one.getsockname()[1]}:interface=127.0.0.1"
        await harness.start()
        assert harness.daemon is not None
        door: Listeners = harness.daemon.door
        other = Listeners(harness.reactor, endpoints(harness.reactor, (taken,)), door.factory)
        with pytest.raises(ListenError, match=f"goproxyai: cannot listen on {taken}: .* in use"):
            other.startService()
        await other.close()
