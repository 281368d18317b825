"""The log's queue and thread: a stalled reader delays nothing, and dropped lines are counted."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.logger import capturedLogs

from goproxyai.telemetry import log_writer
from goproxyai.telemetry.log_writer import CHUNK_OVERHEAD_BYTES, LogWriter
from tests.support.harness import lines

TIMEOUT_SECONDS = 10.0


class Sink:
    """Keeps what is written; a write can be made to block or to fail.

    :ivar accepts: the bytes that a write accepts; ``None``: all.
    :ivar entered: released when a write begins.
    """

    def __init__(self) -> None:
        self.written = b""
        self.accepts: int | None = None
        self.reopened = 0
        self.reopen_error: OSError | None = None
        self.closed = False
        self.entered = threading.Semaphore(0)
        self._stalled = False
        self._permits = threading.Semaphore(0)

    def stall(self) -> None:
        self._stalled = True

    def permit(self) -> None:
        """Let the write in progress, or the next one, finish."""
        self._permits.release()

    def resume(self) -> None:
        self._stalled = False
        self._permits.release()

    def write(self, data: bytes) -> int:
        self.entered.release()
        if self._stalled:
            assert self._permits.acquire(timeout=TIMEOUT_SECONDS)
        accepted = data[: self.accepts]
        self.written += accepted
        return len(accepted)

    def reopen(self) -> None:
        if self.reopen_error is not None:
            raise self.reopen_error
        self.reopened += 1

    def close(self) -> None:
        self.closed = True


def report(count: int) -> bytes:
    return b"dropped %d\n" % count


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def make_writer(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LogWriter]]:
    """Make a writer of *chunks* chunks of a few bytes; close it after the test."""
    made: list[LogWriter] = []

    def make(chunks: int = 100) -> LogWriter:
        limit = chunks * (CHUNK_OVERHEAD_BYTES + 4)
        monkeypatch.setattr(log_writer, "MAX_QUEUE_BYTES", limit)
        made.append(LogWriter(sink, report))
        return made[-1]

    yield make
    sink.resume()
    for writer in made:
        writer.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "goproxyai log"]


def stalled(writer: LogWriter, sink: Sink) -> None:
    """Start *writer*, and let it block in the write of its first line."""
    sink.stall()
    writer.start()
    writer.write(b"0\n")
    assert sink.entered.acquire(timeout=TIMEOUT_SECONDS)


Make = Callable[..., LogWriter]


def test_lines_are_written_in_order(make_writer: Make, sink: Sink) -> None:
    writer = make_writer(10_000)
    expected = [b"%d\n" % number for number in range(1000)]
    for line in expected[:500]:
        writer.write(line)
    assert sink.written == b""  # the thread has not been started
    writer.start()
    writer.start()
    for line in expected[500:]:
        writer.write(line)
    writer.finish()
    assert sink.written == b"".join(expected)
    assert writer.dropped == 0


def test_lines_are_dropped_while_the_queue_is_full_and_reported_in_their_place(
    make_writer: Make, sink: Sink
) -> None:
    writer = make_writer(3)
    stalled(writer, sink)
    for number in (1, 2, 3, 4):
        writer.write(b"%d\n" % number)
    writer.write(b"5\n6\n")
    assert writer.dropped == 4
    sink.resume()
    writer.finish()
    writer.write(b"7\n")
    assert sink.written == b"0\n1\n2\ndropped 4\n7\n"
    assert writer.dropped == 4


def test_dropped_lines_are_reported_once_before_the_next_line(
    make_writer: Make, sink: Sink
) -> None:
    writer = make_writer(2)
    stalled(writer, sink)
    for number in (1, 2, 3):
        writer.write(b"%d\n" % number)
    sink.permit()
    assert sink.entered.acquire(timeout=TIMEOUT_SECONDS)  # line 0 is written, line 1 stalls
    writer.write(b"4\n")
    writer.write(b"5\n")
    sink.resume()
    writer.finish()
    assert sink.written == b"0\n1\ndropped 2\n4\ndropped 1\n"
    assert writer.dropped == 3


def test_chunk_larger_than_the_queue_is_written(make_writer: Make, sink: Sink) -> None:
    writer = make_writer(2)
    writer.start()
    writer.write(b"large\n" * 1000)
    writer.finish()
    assert len(sink.written) == 6000


def test_lines_that_the_sink_rejects_are_counted_and_reported(
    make_writer: Make, sink: Sink
) -> None:
    writer = make_writer()
    sink.accepts = 0
    writer.start()
    writer.write(b"1\n2\n")
    writer.write(b"3\n")
    writer.finish()
    assert (sink.written, writer.dropped) == (b"", 3)
    sink.accepts = None
    writer.write(b"4\n")
    writer.write(b"5\n")
    assert sink.written == b"dropped 3\n4\n5\n"


def test_written_lines_of_a_chunk_are_not_counted_as_dropped(make_writer: Make, sink: Sink) -> None:
    writer = make_writer()
    sink.accepts = 3
    writer.start()
    writer.write(b"1\n2\n3\n")
    writer.finish()
    assert (sink.written, writer.dropped) == (b"1\n2", 2)


# The end of the process.


def test_stalled_sink_delays_the_end_for_a_limited_time_in_all(
    make_writer: Make, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "EXIT_SECONDS", 0.05)
    writer = make_writer()
    stalled(writer, sink)
    writer.finish()
    monkeypatch.setattr(log_writer, "EXIT_SECONDS", 3600.0)  # which is not waited for again
    for _ in range(10):
        writer.write(b"1\n")
        writer.finish()


def test_lines_after_the_end_of_the_reactor_are_written_at_once(
    make_writer: Make, sink: Sink
) -> None:
    writer = make_writer()
    writer.start()
    writer.finish()
    writer.write(b"1\n")
    assert sink.written == b"1\n"


def test_lines_of_a_failed_start_are_written_without_the_thread(
    make_writer: Make, sink: Sink
) -> None:
    writer = make_writer()
    writer.write(b"1\n")
    writer.finish()
    writer.write(b"2\n")
    assert sink.written == b"1\n2\n"


def test_writer_finishes_when_the_interpreter_ends_unless_closed(
    make_writer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit: list[Any] = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    monkeypatch.setattr(atexit, "unregister", at_exit.remove)
    writer = make_writer()
    assert at_exit == [writer.finish]
    writer.close()
    assert at_exit == []
    monkeypatch.setattr(atexit, "unregister", lambda _: None)


# Reopening.


def test_reopen_requests_are_coalesced_and_met_before_the_next_line(
    make_writer: Make, sink: Sink
) -> None:
    writer = make_writer()
    stalled(writer, sink)
    for _ in range(200):
        writer.reopen()
    assert writer._chunks.qsize() == 1
    assert sink.reopened == 0
    sink.resume()
    writer.finish()
    assert sink.reopened == 1
    writer.reopen()
    writer.finish()
    assert sink.reopened == 2


def test_failed_reopen_is_logged(make_writer: Make, sink: Sink) -> None:
    writer = make_writer()
    sink.reopen_error = PermissionError(13, "Permission denied")
    with capturedLogs() as events:
        writer.start()
        writer.reopen()
        writer.write(b"1\n")
        writer.finish()
    assert lines(events) == ["error: log file not reopened: [Errno 13] Permission denied"]
    assert sink.written == b"1\n"


def test_line_logged_by_the_thread_itself_does_not_wait(make_writer: Make, sink: Sink) -> None:
    writer = make_writer()
    plain = sink.write

    def write(data: bytes) -> int:
        if data == b"1\n":
            writer.write(b"2\n")
        return plain(data)

    sink.write = write  # type: ignore[method-assign]
    writer.start()
    writer.finish()
    writer.write(b"1\n")
    assert sink.written == b"1\n2\n"
