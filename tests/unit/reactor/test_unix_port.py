"""Unix sockets: the path of another process, and a path that a killed process has left."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.unix import Port

from goproxyai.reactor import unix_port
from goproxyai.reactor.private_names import UnsupportedTwistedError
from goproxyai.reactor.unix_port import UnixListeningReactor, UnixSocketPort, keep_socket_path


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


def listen(path: Path) -> UnixSocketPort:
    from twisted.internet import reactor

    return UnixListeningReactor(reactor).listenUNIX(str(path), Factory(), mode=0o600)


def refusal(path: Path) -> str:
    with pytest.raises(CannotListenError) as caught:
        listen(path)
    return str(caught.value.socketError)


@contextmanager
def bound(path: Path) -> Iterator[socket.socket]:
    """A socket with the name *path*, which stays after the socket is closed."""
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))
        yield one


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "web.sock"


@pytest_twisted.ensureDeferred
async def test_stale_socket_is_replaced(path: Path) -> None:
    with bound(path):
        pass
    path.with_suffix(".sock.lock").symlink_to(str(os.getpid()))  # left by Twisted's own port
    port = listen(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    await port.stopListening()
    assert not path.exists()


def test_socket_of_a_listening_process_is_refused_and_stays(path: Path) -> None:
    with bound(path) as other:
        other.listen()
        assert "Another process listens on this socket" in refusal(path)
        assert path.exists()


def test_socket_with_a_full_queue_is_refused(path: Path) -> None:
    with bound(path) as other:
        other.listen(0)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert "Another process listens on this socket" in refusal(path)


def test_other_kinds_of_files_are_refused_and_stay(path: Path) -> None:
    path.write_text("text")
    link = path.with_name("link")
    link.symlink_to(path)
    for each in (path, link):
        assert "exists and is not a socket" in refusal(each)
        assert each.read_text() == "text"


def test_missing_directory_is_refused(path: Path) -> None:
    assert "No such file or directory" in refusal(path / "web.sock")


def test_directory_that_another_start_has_locked_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_port, "LOCK_SECONDS", 0.0)
    descriptor = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        assert "holds a lock on the directory" in refusal(path)
    finally:
        os.close(descriptor)


@pytest_twisted.ensureDeferred
async def test_close_keeps_the_socket_of_another_process(path: Path) -> None:
    port = listen(path)
    path.unlink()
    with bound(path):
        await port.stopListening()
        assert path.exists()


@pytest_twisted.ensureDeferred
async def test_close_removes_a_relative_path_after_the_working_directory_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    port = listen(Path(path.name))
    monkeypatch.chdir("/")
    await port.stopListening()
    assert not path.exists()


@pytest_twisted.ensureDeferred
async def test_other_attributes_are_those_of_the_reactor() -> None:
    from twisted.internet import reactor

    assert UnixListeningReactor(reactor).listenTCP == reactor.listenTCP  # type: ignore[attr-defined]
