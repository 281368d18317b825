"""The destination of the log, and the writer of the requests' events."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import capturedLogs

from goproxyai.config.settings import Settings
from goproxyai.daemon import log_setup
from goproxyai.daemon.log_setup import (
    choose_output,
    log_file_of,
    log_request_events,
    open_output,
    request_writer,
    worker_output,
)
from goproxyai.telemetry.events import Batch, Event
from goproxyai.telemetry.log_output import LogOutput
from goproxyai.telemetry.outcome import CacheOutcome, Ending
from tests.support.harness import lines

EVENT = Event(
    began=1.0, method=b"GET", path="/v1/models?key", status=200, client="192.0.2.1",
    client_subject="", bytes_in=0, bytes_out=2, seconds=0.001, request_id=b"id-1",
    trace=None, cache=CacheOutcome.HIT, bypass_reason="", code="", detail="",
    ending=Ending.COMPLETE, upstream_seconds=-1.0, upstream_request_id=b"",
    first_byte_seconds=-1.0, usage=None,
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_chosen_output(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    chosen: list[LogOutput] = []
    monkeypatch.setattr(log_setup, "_chosen", chosen)
    yield
    for output in chosen:
        close(output)


def close(output: Any) -> None:
    """Write the lines that wait, and end the thread."""
    writer, output._writer = output._writer, None
    if writer is not None:
        writer.close()


def choose(twistd_options: dict[str, Any] | None, **texts: str) -> LogOutput | None:
    return choose_output(twistd_options, Settings.from_texts(texts))


@pytest.mark.parametrize("options", [None, {"logger": "own.observer"}, {"syslog": True}])
def test_logger_of_the_operator_stays(options: dict[str, Any] | None) -> None:
    before = dict(options or {})
    assert choose(options) is None
    assert (options or {}) == before


@pytest.mark.parametrize("name", [None, "", "-"])
def test_foreground_process_logs_to_standard_output(
    name: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"nodaemon": True, "logfile": name}
    output = choose(options, LOG_FORMAT="text")
    assert output is not None
    assert options["logger"] == "goproxyai.daemon.log_setup.open_output"
    assert open_output() is output
    output.requests([EVENT], Batch(0.0))
    close(output)
    assert "GET /v1/models?key 200 HIT" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "nodaemon", "expected"),
    [("own.log", True, "own.log"), ("own.log", False, "own.log"), (None, False, "twistd.log")],
)
def test_background_process_or_logfile_option_logs_to_a_file(
    name: str | None,
    nodaemon: bool,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    choose({"nodaemon": nodaemon, "logfile": name}, LOG_FORMAT="json")
    assert not (tmp_path / expected).exists()  # twistd changes its directory before it logs
    output: Any = open_output()
    output.requests([EVENT], Batch(0.0))
    close(output)
    assert '"path":"/v1/models?key","status":200' in (tmp_path / expected).read_text()


def test_log_file_is_rotated_and_some_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_setup, "MAX_LOG_FILE_BYTES", 1000)
    choose({"nodaemon": True, "logfile": str(tmp_path / "own.log")}, LOG_FORMAT="json")
    output: Any = open_output()
    for _ in range(100):
        output.requests([EVENT] * 10, Batch(0.0))
    close(output)
    kept = {f"own.log.{number}" for number in range(1, log_setup.MAX_ROTATED_LOG_FILES + 1)}
    assert {path.name for path in tmp_path.iterdir()} == {"own.log", *kept}


def test_log_to_a_pipe_is_not_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_setup, "MAX_LOG_FILE_BYTES", 1000)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    choose({"nodaemon": True, "logfile": str(pipe)}, LOG_FORMAT="json")
    output: Any = open_output()
    for _ in range(10):
        output.requests([EVENT], Batch(0.0))
    close(output)
    with open(reader, "rb") as file:
        assert file.read().count(b'"event":"request"') == 10
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_closed_standard_output_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    choose({"nodaemon": True})
    output = open_output()
    output.requests([EVENT], Batch(0.0))
    output.finish()
    assert output.dropped == 0


def test_background_process_writes_nothing_before_the_fork(tmp_path: Path) -> None:
    log = tmp_path / "own.log"
    choose({"nodaemon": False, "logfile": str(log)}, LOG_FORMAT="json")
    output = open_output()
    output.requests([EVENT], Batch(0.0))
    assert [thread.name for thread in threading.enumerate() if thread.name == "goproxyai log"] == []
    assert log.read_bytes() == b""
    output.start()
    close(output)
    assert log.read_bytes().count(b'"event":"request"') == 1


def test_log_file_that_cannot_be_opened_ends_the_start_with_one_line(tmp_path: Path) -> None:
    choose({"nodaemon": True, "logfile": str(tmp_path / "absent" / "own.log")})
    with pytest.raises(SystemExit) as caught:
        open_output()
    assert str(caught.value) == (
        f"goproxyai: --logfile is '{tmp_path}/absent/own.log', expected a file that can be opened "
        "for appending: No such file or directory"
    )


def test_log_level_decides_whether_requests_are_written() -> None:
    output: Any = choose({"nodaemon": True})
    assert request_writer(output) == output.requests
    output.set_level("warn")
    assert request_writer(output) is None
    output.set_level("debug")
    assert request_writer(output) == output.requests


def test_logger_of_the_operator_gets_an_event_for_each_request_without_secrets() -> None:
    writer = request_writer(None)
    assert writer is log_request_events
    with capturedLogs() as events:
        writer([EVENT, EVENT], Batch(100.0))
    assert lines(events) == ["info: GET /v1/models?key 200 HIT 192.0.2.1"] * 2
    assert events[0]["at"] == 101.0


def test_worker_writes_to_the_file_of_the_parent(tmp_path: Path) -> None:
    path = tmp_path / "own.log"
    output = worker_output(str(path), -1, Settings.from_texts({"LOG_FORMAT": "text"}))
    output._write(b"line\n")
    output.check_size()
    output.reopen()
    output.rotated()
    assert output._writer is not None
    output._writer.close()  # type: ignore[attr-defined]  # of the real writer
    assert path.read_bytes() == b"line\n"


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"nodaemon": True}, ""),
        ({"nodaemon": True, "logfile": "-"}, ""),
        ({"nodaemon": True, "logfile": "own.log"}, "own.log"),
        ({"nodaemon": False}, "twistd.log"),
    ],
)
def test_path_of_the_log_is_that_of_twistd(options: dict[str, Any], path: str) -> None:
    assert log_file_of(options) == path
