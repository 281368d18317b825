"""The file descriptors that the log is written to: a stream, or a file that is rotated.

Their methods block, and are called in the thread of :class:`.LogWriter`. Bytes go straight to the
descriptor. A ``TextIO`` would hold a lock while a write blocks, and the interpreter aborts if it
cannot get this lock when it flushes the standard streams at its end.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_FLAGS: Final = os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC
"""``O_APPEND``, so that another program may truncate the file (logrotate's ``copytruncate``)."""


def open_log(
    path: str,
    max_bytes: int,
    max_rotated: int,
    on_rotated: Callable[[], None] = lambda: None,
    lock: int | None = None,
) -> LogStream:
    """Open the file *path* for appending; create it if necessary.

    Only regular files are rotated: a rotation renames, and would remove ``/dev/null``. A regular
    file that is also a standard stream of the process is not rotated either: ``/dev/stdout`` may
    lead to one.

    :param max_bytes: size from which the file is rotated.
    :param max_rotated: rotated files that are kept.
    :param on_rotated: called after a rotation, in the writer's thread.
    :param lock: see :class:`LogStream`.
    :raises OSError: the file cannot be opened.
    """
    path = os.path.realpath(path)  # the target of a symbolic link is renamed, not the link
    descriptor = _open(path)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and not _is_standard_stream(status):
        return RotatedFile(descriptor, path, max_bytes, max_rotated, on_rotated)
    return LogStream(descriptor, lock)


def open_shared_log(path: str, lock: int) -> LogStream:
    """Open the file *path* as :func:`open_log` does; another process rotates it.

    :raises OSError: the file cannot be opened.
    """
    path = os.path.realpath(path)
    descriptor = _open(path)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and not _is_standard_stream(status):
        return NamedFile(descriptor, path)
    return LogStream(descriptor, lock)


def _open(path: str, new_mode: int | None = None) -> int:
    """Open *path*, or create it with *new_mode*; ``None``: with the mode of the umask."""
    try:
        # Opening a named pipe for writing alone blocks until the pipe has a reader.
        is_fifo = stat.S_ISFIFO(os.stat(path).st_mode)
        return os.open(path, _FLAGS | (os.O_RDWR if is_fifo else os.O_WRONLY))
    except FileNotFoundError:
        descriptor = os.open(path, _FLAGS | os.O_WRONLY | os.O_CREAT, 0o666)
        if new_mode is not None:
            os.fchmod(descriptor, new_mode)
        return descriptor


def _is_standard_stream(status: os.stat_result) -> bool:
    for descriptor in (0, 1, 2):
        with suppress(OSError):  # the descriptor may be closed
            if os.path.samestat(status, os.fstat(descriptor)):
                return True
    return False


class LogStream:
    """A descriptor: standard output, a pipe or a device. It is never renamed.

    :param lock: a descriptor that is locked during each write, if several processes write to the
        stream. A pipe takes at most 4 KiB in one piece, so that lines would be torn. A regular file
        takes each write in one piece.
    """

    def __init__(self, descriptor: int, lock: int | None = None) -> None:
        self._descriptor = descriptor
        is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._lock = None if is_regular else lock
        self._line_incomplete = False

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: bytes) -> int:
        """Write *data*; return the number of bytes written, fewer after an error."""
        if self._lock is None:
            return self._write_lines(data)
        fcntl.lockf(self._lock, fcntl.LOCK_EX)  # the kernel unlocks it if the process ends
        try:
            return self._write_lines(data)
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def _write_lines(self, data: bytes) -> int:
        if self._line_incomplete:
            if self._write(b"\n") == 0:
                return 0
            self._line_incomplete = False
        written = self._write(data)
        if 0 < written < len(data):
            self._line_incomplete = data[written - 1 : written] != b"\n"
        return written

    def _write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # another process has made the shared pipe non-blocking
                writable = select.poll()
                writable.register(self._descriptor, select.POLLOUT)
                writable.poll()
            except OSError:  # the disk is full, or the reader is gone
                break
        return len(data) - len(view)

    def reopen(self) -> None:
        """Do nothing: a stream has no name."""

    def check_size(self) -> None:
        """Do nothing: a stream is not rotated."""

    def close(self) -> None:
        os.close(self._descriptor)


class NamedFile(LogStream):
    """A regular file, which another process may rename."""

    def __init__(self, descriptor: int, path: str) -> None:
        super().__init__(descriptor)
        self._path = path

    def reopen(self) -> None:
        """Open the file of the same name, which another program may have renamed.

        :raises OSError: the previous file stays open.
        """
        descriptor = _open(self._path, stat.S_IMODE(os.fstat(self._descriptor).st_mode))
        os.dup2(descriptor, self._descriptor, inheritable=False)
        os.close(descriptor)
        self._line_incomplete = False


class RotatedFile(NamedFile):
    """A regular file that is renamed to ``.1`` when it is large; ``.1`` becomes ``.2``, etc."""

    def __init__(
        self,
        descriptor: int,
        path: str,
        max_bytes: int,
        max_rotated: int,
        on_rotated: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(descriptor, path)
        self._max_bytes = max_bytes
        self._rotate_at = max_bytes
        self._max_rotated = max_rotated
        self._on_rotated = on_rotated

    def write(self, data: bytes) -> int:
        self.check_size()
        return super().write(data)

    def check_size(self) -> None:
        """Rotate the file if it is large."""
        size = os.fstat(self._descriptor).st_size
        if size < self._max_bytes:
            self._rotate_at = self._max_bytes
        elif size >= self._rotate_at:
            # An attempt without permission fails at its first rename, and changes nothing.
            try:
                self._rotate()
            except OSError:  # the directory is not writable: go on with the same file
                self._rotate_at = size + self._max_bytes

    def _rotate(self) -> None:
        """Rename the files, unless another program has renamed the current one already.

        :raises OSError: a file cannot be renamed or opened.
        """
        if self._is_current():
            for number in range(self._max_rotated - 1, 0, -1):
                with suppress(FileNotFoundError):
                    os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
            os.replace(self._path, f"{self._path}.1")
        self.reopen()
        self._on_rotated()

    def _is_current(self) -> bool:
        """Return whether the name still belongs to the open file, a regular one."""
        opened = os.fstat(self._descriptor)
        try:
            named = os.lstat(self._path)
        except FileNotFoundError:
            return False
        return stat.S_ISREG(named.st_mode) and os.path.samestat(opened, named)
