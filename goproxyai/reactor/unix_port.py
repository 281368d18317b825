"""Listening Unix sockets: their file, which Twisted handles by process IDs.

Twisted keeps a lock file with the process ID. A killed container leaves the file, and processes of
the next container may have the same IDs: Twisted then refuses to listen. :class:`UnixSocketPort`
connects to an existing socket instead. The kernel refuses the connection where no process listens.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.unix import Port

from goproxyai.reactor.private_names import (
    UnsupportedTwistedError,
    describe_missing,
    missing_names,
)

LOCK_SECONDS: Final = 2.0
"""How long a start waits for another process that starts to listen in the same directory."""

LOCK_POLL_SECONDS: Final = 0.01

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


class UnixListeningReactor:
    """A reactor whose ``listenUNIX`` makes ports of :class:`UnixSocketPort`.

    Endpoint strings are parsed with it, so that ``unix:`` keeps Twisted's syntax.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> UnixSocketPort:
        """Listen on *address*.

        :param wantPID: the endpoint's ``lockfile``; ignored.
        :raises CannotListenError: another process listens there, or no socket can be made there.
        """
        port = UnixSocketPort(os.fsencode(address), factory, backlog, mode, self._reactor)
        port.startListening()
        return port


class UnixSocketPort(Port):
    """A port that replaces the socket of a process that has ended, and removes only its own."""

    def startListening(self) -> None:
        """Listen.

        :raises CannotListenError: another process listens on the path, or the path is another kind
            of file, or its directory cannot be used.
        """
        path = os.fsdecode(self._bindPath)
        # The path is removed after twistd has changed its working directory.
        self._file = os.path.abspath(path)
        try:
            with _locked(os.path.dirname(self._file)):
                _remove_stale_socket(path)
                self._bind()
                self._identity = _identity(self._file)
        except OSError as error:
            raise CannotListenError(None, path, error) from None

    def _bind(self) -> None:
        try:
            super().startListening()
        except CannotListenError:
            self._created.close()  # Twisted leaves that to the garbage collector
            raise

    def createInternetSocket(self) -> socket.socket:
        created: socket.socket = super().createInternetSocket()
        self._created = created
        return created

    def loseConnection(self, *args: Any) -> Any:
        """Remove the path, then close.

        The path is removed first: from the close on, another process may replace the socket.
        """
        with suppress(OSError):
            if _identity(self._file) == self._identity:
                os.unlink(self._file)
        keep_socket_path(self)
        return super().loseConnection(*args)

    stopListening = loseConnection


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Hold a lock on *directory*, which the kernel releases when the process ends.

    Two processes that start at once would otherwise both find a stale socket, and
    the second one would remove the socket of the first one.

    :raises OSError: the directory cannot be opened or locked.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise OSError(errno.EAGAIN, "Another process holds a lock on the directory")
            time.sleep(LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_stale_socket(path: str) -> None:
    """Remove the socket *path* if no process listens on it.

    :raises OSError: a process listens on it, or it is not a socket.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.EEXIST, "The file exists and is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # its queue of connections is full
            pass
    raise OSError(errno.EADDRINUSE, "Another process listens on this socket")
