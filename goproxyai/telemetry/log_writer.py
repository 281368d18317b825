"""Writes log lines in a thread: neither a stalled reader nor a slow disk delays the reactor.

The reactor's thread only appends to a queue, which is bounded in bytes. Lines are dropped and
counted while the queue is full, and if a write fails. After the next successful write, one log line
reports their number.

The queue is a ``SimpleQueue`` and the lock is an ``RLock`` because both are reentrant: a signal
handler or a finalizer may log in the middle of :meth:`LogWriter.write`.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import RLock, Thread, current_thread
from typing import Final, NamedTuple, Protocol

from twisted.logger import Logger

MAX_QUEUE_BYTES: Final = 4 * 1024 * 1024
"""Bytes that wait to be written: about 12,000 requests. A chunk that meets an empty queue is always
accepted, so the bound is exceeded by at most one batch of the access log."""

CHUNK_OVERHEAD_BYTES: Final = 150
"""Memory that a chunk needs besides its bytes."""

EXIT_SECONDS: Final = 1.0
"""The longest time that the log delays the end of the process."""

EXIT_POLL_SECONDS: Final = 0.002
"""Interval between two checks, at the end of the process, whether all lines are written."""

_log = Logger(namespace="goproxyai.log")


class LogSink(Protocol):
    """Where the lines go; used by the writer's thread only."""

    def write(self, data: bytes) -> int:
        """Write *data*; may block. Return the number of bytes written, fewer after an error."""

    def reopen(self) -> None:
        """Open the file of the same name again.

        :raises OSError: the previous file stays open.
        """

    def check_size(self) -> None:
        """Rotate a file that is large."""

    def close(self) -> None: ...


class _Chunk(NamedTuple):
    """Lines to write together.

    :ivar lines_refused: lines that were dropped before these because the queue was full.
    """

    data: bytes
    lines_refused: int

    @property
    def size(self) -> int:
        return len(self.data) + CHUNK_OVERHEAD_BYTES


class LogWriter:
    """A bounded queue of log lines, and the thread that writes them.

    :param report: makes the line which says that a number of lines was dropped.
    :ivar dropped: lines dropped since the start.
    """

    def __init__(self, sink: LogSink, report: Callable[[int], bytes]) -> None:
        self._sink = sink
        self._report = report
        self._lock = RLock()
        self._chunks: SimpleQueue[_Chunk] = SimpleQueue()
        self._queue_bytes = 0
        self._lines_refused = 0
        self._unreported = 0
        self._reopen_requested = False
        self._check_requested = False
        self._closed = False
        self._exit_deadline: float | None = None
        self._thread: Thread | None = None
        self.dropped = 0
        atexit.register(self.finish)

    # Called in any thread.

    def write(self, data: bytes) -> None:
        """Queue *data*: complete lines. Drop them if the queue is full."""
        with self._lock:
            queued, size = self._queue_bytes, len(data) + CHUNK_OVERHEAD_BYTES
            if queued and queued + size > MAX_QUEUE_BYTES:
                lines = data.count(b"\n")
                self.dropped += lines
                self._lines_refused += lines
                return
            self._put(data)
        if self._exit_deadline is not None:
            self._wait_until_written(self._exit_deadline)

    def _put(self, data: bytes) -> None:
        chunk = _Chunk(data, self._lines_refused)
        self._lines_refused = 0
        self._queue_bytes += chunk.size
        self._chunks.put(chunk)

    def reopen(self) -> None:
        """Reopen the log file, in the writer's thread; may be called by a signal handler."""
        if not self._reopen_requested:  # a stalled thread does not need a second request
            self._reopen_requested = True
            with self._lock:
                self._put(b"")

    def check_size(self) -> None:
        """Rotate the file if it is large, in the writer's thread: other processes write to it."""
        if not self._check_requested:
            self._check_requested = True
            with self._lock:
                self._put(b"")

    def start(self) -> None:
        """Start the thread; a second call does nothing.

        To be called after the process has forked: a thread does not survive the fork. Lines wait in
        the queue until then.
        """
        if self._thread is None:
            self._thread = Thread(target=self._run, name="goproxyai log", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Wait until the queue is written, for at most :data:`EXIT_SECONDS`.

        Each later :meth:`write` waits too, for the rest of that time: the last lines of twistd are
        logged after the reactor has stopped.
        """
        if self._exit_deadline is None:
            self._exit_deadline = time.monotonic() + EXIT_SECONDS
        self._wait_until_written(self._exit_deadline)

    def close(self) -> None:
        """Write the queue, end the thread, and close the sink."""
        atexit.unregister(self.finish)
        self.finish()
        self._closed = True
        if self._thread is not None:
            with self._lock:
                self._put(b"")  # wakes the thread
            self._thread.join(EXIT_SECONDS)
        self._sink.close()

    def _wait_until_written(self, deadline: float) -> None:
        thread = self._thread
        if thread is None:  # the start has failed before the process forked
            while not self._chunks.empty():
                self._write_chunk(self._chunks.get())
        elif thread is not current_thread():
            while self._queue_bytes and time.monotonic() < deadline:
                time.sleep(EXIT_POLL_SECONDS)

    # Called in the writer's thread.

    def _run(self) -> None:
        while not self._closed:
            self._write_chunk(self._chunks.get())

    def _write_chunk(self, chunk: _Chunk) -> None:
        if self._reopen_requested:
            self._reopen_requested = False
            self._reopen_sink()
        if self._check_requested:
            self._check_requested = False
            self._sink.check_size()
        self._unreported += chunk.lines_refused
        if self._unreported:
            line = self._report(self._unreported)
            if self._sink.write(line) == len(line):
                self._unreported = 0
        written = self._sink.write(chunk.data) if chunk.data else 0
        with self._lock:
            if written < len(chunk.data):
                lines = chunk.data.count(b"\n", written)
                self.dropped += lines
                self._unreported += lines
            self._queue_bytes -= chunk.size
            if self._lines_refused and not self._queue_bytes:
                self._put(b"")  # reports the dropped lines even if no other line is logged

    def _reopen_sink(self) -> None:
        try:
            self._sink.reopen()
        except OSError as error:
            _log.error("log file not reopened: {error}", error=str(error))
