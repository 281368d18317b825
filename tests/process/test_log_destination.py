"""A log that cannot be written: a pipe that is not read, a full disk, a file that is replaced."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.daemon_process import (
    FEW_CONNECTIONS,
    TIMEOUT_SECONDS,
    Start,
    command,
    environment,
    eventually,
    get,
    start,
)
from tests.process.forked_process import ForkedProcess
from tests.support.ports import free_port

__all__ = ["start"]  # the fixture

pytestmark = pytest.mark.process

REQUEST = b"GET /health?" + b"x" * 500 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
RESPONSE_END = b'"timestamp"'

PIPE_REQUESTS = 200
"""Requests whose log lines exceed the pipe, 64 KiB."""

QUEUE_REQUESTS = 8_000
"""Requests whose log lines exceed the queue, 4 MiB, and the pipe."""

BATCH = 50


class PipedDaemon:
    """A daemon whose standard output is a pipe.

    :ivar reader: the descriptor that the pipe is read from.
    """

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.reader, writer = os.pipe()
        settings = {
            "LISTEN": f"tcp:{self.port}:interface=127.0.0.1",
            "MAX_CONNECTIONS": FEW_CONNECTIONS,
        }
        with open(writer, "wb") as pipe:
            self._process = ForkedProcess(command(), environment(**settings), directory, pipe, pipe)
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self._process.poll() is None
        try:
            return get(self.port, "/health")[0] == 200
        except ConnectionRefusedError:
            return False

    def request(self, count: int) -> None:
        """Send *count* requests over one connection, and read the responses."""
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS) as client:
            for _ in range(count // BATCH):
                client.sendall(REQUEST * BATCH)
                received, tail = 0, b""
                while received < BATCH:
                    data = client.recv(65536)
                    assert data, "the daemon has closed the connection"
                    tail += data
                    received += tail.count(RESPONSE_END)
                    tail = tail[tail.rfind(RESPONSE_END) + len(RESPONSE_END) :][-20:]

    def dropped(self) -> int:
        return int(get(self.port, "/stats")[1]["log"]["lines_dropped"])

    def dropped_in_metrics(self) -> float:
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS) as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            with client.makefile("rb") as response:
                name = b"goproxyai_log_lines_dropped"
                (line,) = [line for line in response if line.startswith(name)]
        return float(line.split()[1])

    def stop(self) -> None:
        """Send SIGTERM, and wait for the end, which the log may delay for a second."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(TIMEOUT_SECONDS) in (0, -signal.SIGTERM)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(TIMEOUT_SECONDS)


@pytest.fixture
def piped(tmp_path: Path) -> Iterator[PipedDaemon]:
    daemon = PipedDaemon(tmp_path)
    yield daemon
    daemon.kill()


def read_lines(descriptor: int) -> Callable[[], list[dict[str, Any]]]:
    """Read *descriptor* in a thread; return a function that waits for the end and parses."""
    pieces: list[bytes] = []

    def read() -> None:
        while piece := os.read(descriptor, 1 << 20):
            pieces.append(piece)
        os.close(descriptor)

    thread = threading.Thread(target=read)
    thread.start()

    def lines() -> list[dict[str, Any]]:
        thread.join(TIMEOUT_SECONDS)
        return [json.loads(line) for line in b"".join(pieces).splitlines()]

    return lines


def test_pipe_that_is_not_read_stops_nothing(piped: PipedDaemon) -> None:
    piped.request(PIPE_REQUESTS)
    assert get(piped.port, "/health/live")[0] == 200
    piped.stop()
    os.close(piped.reader)


def test_lines_are_written_in_order_when_the_reader_resumes(piped: PipedDaemon) -> None:
    piped.request(QUEUE_REQUESTS)
    assert get(piped.port, "/health/live")[0] == 200
    assert piped.dropped() > 0
    assert piped.dropped_in_metrics() > 0
    lines = read_lines(piped.reader)
    eventually(lambda: piped.dropped() == piped.dropped())
    total = get(piped.port, "/stats")[1]["requests"]["total"]
    piped.stop()
    found = lines()
    reports = [line for line in found if "log lines were dropped" in line.get("message", "")]
    dropped = sum([int(line["message"].split()[0]) for line in reports])
    requests = [line["time"] for line in found if line["event"] == "request"]
    assert dropped > 0
    assert {line["level"] for line in reports} == {"warn"}
    assert len(requests) + dropped == total
    assert requests == sorted(requests)
    assert found[-1]["message"] == "Server Shut Down."


def test_pipe_without_a_reader_stops_nothing(piped: PipedDaemon) -> None:
    os.close(piped.reader)
    piped.request(BATCH)
    eventually(lambda: piped.dropped() >= BATCH)
    piped.stop()


def test_full_disk_stops_nothing(start: Start) -> None:
    port = free_port()
    process = start(twistd=("--logfile=/dev/full",), LISTEN=f"tcp:{port}:interface=127.0.0.1")

    def dropped() -> int:
        try:
            return int(get(port, "/stats")[1]["log"]["lines_dropped"])
        except ConnectionRefusedError:
            return 0

    process.until(lambda: dropped() > 5)
    process.send(signal.SIGTERM)
    assert process.ended() in (0, -signal.SIGTERM)
    assert process.out == process.err == ""


def test_named_pipe_that_is_not_read_does_not_stop_the_start(start: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    port = free_port()
    process = start(twistd=("--logfile=pipe",), LISTEN=f"tcp:{port}:interface=127.0.0.1")

    def answers() -> bool:
        try:
            return get(port, "/health/live")[0] == 200
        except ConnectionRefusedError:
            return False

    process.until(answers)
    process.send(signal.SIGTERM)
    assert process.ended() in (0, -signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_signal_reopens_the_log_file(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    log, moved = tmp_path / "own.log", tmp_path / "moved.log"
    process = start(twistd=("--logfile=own.log",))
    (port,) = process.listening(text=lambda: log.read_text() if log.exists() else "")
    log.rename(moved)
    process.send(number)
    process.until(lambda: get(port, "/health")[0] == 200 and log.exists())
    process.send(signal.SIGTERM)
    assert process.ended() in (0, -signal.SIGTERM)
    assert "Server Shut Down." in log.read_text()
    assert "Server Shut Down." not in moved.read_text()


def test_signals_do_not_end_a_process_that_logs_to_syslog(start: Start) -> None:
    port = free_port()
    process = start(twistd=("--syslog",), LISTEN=f"tcp:{port}:interface=127.0.0.1")

    def answers() -> bool:
        try:
            return get(port, "/health/live")[0] == 200
        except ConnectionRefusedError:
            return False

    process.until(answers)
    for number in (signal.SIGUSR1, signal.SIGHUP):
        process.send(number)
        assert answers()
    process.send(signal.SIGTERM)
    assert process.ended() in (0, -signal.SIGTERM)
    assert process.err == ""


def test_truncated_log_file_has_no_gap(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "own.log"
    process = start(twistd=("--logfile=own.log",))
    process.listening(text=lambda: log.read_text() if log.exists() else "")
    os.truncate(log, 0)
    process.send(signal.SIGTERM)
    assert process.ended() in (0, -signal.SIGTERM)
    assert b"\0" not in log.read_bytes()
    assert json.loads(log.read_bytes().splitlines()[-1])["message"] == "Server Shut Down."


def test_log_file_that_cannot_be_opened_ends_the_start_with_one_line(start: Start) -> None:
    process = start(twistd=("--logfile=absent/own.log",))
    assert process.ended() == 1
    (line,) = process.err.splitlines()
    assert line.startswith("goproxyai: --logfile is 'absent/own.log', expected a file")
    assert process.out == ""
