"""The descriptors of the log: appending, rotation, reopening, and errors."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from goproxyai.telemetry import log_file
from goproxyai.telemetry.log_file import LogStream, RotatedFile, open_log, open_shared_log

MAX_BYTES = 10
MAX_ROTATED = 3

LINE = b"123456789\n"


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def opened(path: Path, resources: ExitStack, max_bytes: int = MAX_BYTES) -> LogStream:
    log = open_log(str(path), max_bytes, MAX_ROTATED)
    resources.callback(log.close)
    return log


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_file_is_appended_to(tmp_path: Path, resources: ExitStack) -> None:
    path = tmp_path / "own.log"
    path.write_bytes(b"before\n")
    log = opened(path, resources, 1000)
    assert log.write(LINE) == len(LINE)
    assert path.read_bytes() == b"before\n" + LINE
    assert not log.isatty()


def test_file_that_another_program_truncates_has_no_gap(
    tmp_path: Path, resources: ExitStack
) -> None:
    path = tmp_path / "own.log"
    log = opened(path, resources, 1000)
    log.write(LINE * 5)
    os.truncate(path, 0)
    log.write(LINE)
    assert path.read_bytes() == LINE


def test_full_file_is_rotated_and_some_files_are_kept(tmp_path: Path, resources: ExitStack) -> None:
    log = opened(tmp_path / "own.log", resources)
    for number in range(6):
        log.write(b"line %d...\n" % number)
    assert contents(tmp_path) == {
        "own.log": b"line 5...\n", "own.log.1": b"line 4...\n", "own.log.2": b"line 3...\n",
        "own.log.3": b"line 2...\n",
    }  # fmt: skip


def test_rotation_keeps_the_mode_of_the_file(tmp_path: Path, resources: ExitStack) -> None:
    path = tmp_path / "own.log"
    path.touch()
    path.chmod(0o640)
    log = opened(path, resources)
    log.write(LINE)
    log.write(LINE)
    assert sorted(contents(tmp_path)) == ["own.log", "own.log.1"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_rotation_renames_the_target_of_a_link(tmp_path: Path, resources: ExitStack) -> None:
    link = tmp_path / "link.log"
    link.symlink_to(tmp_path / "own.log")
    log = opened(link, resources)
    log.write(LINE)
    log.write(LINE)
    assert sorted(contents(tmp_path)) == ["link.log", "own.log", "own.log.1"]
    assert link.is_symlink()


def test_file_that_another_program_has_renamed_is_not_rotated(
    tmp_path: Path, resources: ExitStack
) -> None:
    path = tmp_path / "own.log"
    log = opened(path, resources)
    log.write(LINE)
    path.rename(tmp_path / "moved.log")
    log.write(LINE)
    assert contents(tmp_path) == {"own.log": LINE, "moved.log": LINE}
    path.rename(tmp_path / "moved.log")
    path.write_bytes(b"other\n")
    log.write(LINE)
    assert contents(tmp_path) == {"own.log": b"other\n" + LINE, "moved.log": LINE}


def test_failed_rotation_goes_on_with_the_same_file(
    tmp_path: Path, resources: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.log"
    log = opened(path, resources)
    attempts = []

    def fail(*names: str) -> None:
        attempts.append(names)
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(log_file.os, "replace", fail)
        for _ in range(4):
            assert log.write(LINE[:5] * 2) == 10
    assert path.stat().st_size == 40
    assert len(attempts) == 3  # once for each MAX_BYTES, not for each write
    os.truncate(path, 0)
    log.write(LINE)
    log.write(LINE)
    assert contents(tmp_path) == {"own.log": LINE, "own.log.1": LINE}


def test_reopen_follows_the_name(tmp_path: Path, resources: ExitStack) -> None:
    path = tmp_path / "own.log"
    log = opened(path, resources, 1000)
    log.write(b"1\n")
    path.rename(tmp_path / "moved.log")
    log.write(b"2\n")
    log.reopen()
    log.write(b"3\n")
    assert contents(tmp_path) == {"moved.log": b"1\n2\n", "own.log": b"3\n"}


def test_failed_reopen_keeps_the_previous_file(tmp_path: Path, resources: ExitStack) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    log = opened(directory / "own.log", resources, 1000)
    moved = directory.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        log.reopen()
    log.write(LINE)
    assert contents(moved) == {"own.log": LINE}


# Streams: pipes and devices.


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
def test_device_is_not_rotated(device: str, resources: ExitStack) -> None:
    before = os.stat(device)
    log = opened(Path(device), resources, max_bytes=1)
    for _ in range(3):
        log.write(LINE)
    log.reopen()
    assert type(log) is LogStream
    assert os.path.samestat(before, os.stat(device))


def test_standard_output_is_not_rotated_under_any_name(
    tmp_path: Path, resources: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "redirected"
    path.touch()
    fstat = os.fstat
    monkeypatch.setattr(
        log_file.os, "fstat", lambda number: os.stat(path) if number == 1 else fstat(number)
    )
    assert type(opened(path, resources)) is LogStream
    assert type(opened(tmp_path / "own.log", resources)) is RotatedFile


def test_named_pipe_without_a_reader_can_be_opened(tmp_path: Path, resources: ExitStack) -> None:
    os.mkfifo(tmp_path / "pipe")
    log = opened(tmp_path / "pipe", resources)
    assert log.write(LINE) == len(LINE)


def test_full_disk_accepts_nothing(resources: ExitStack) -> None:
    assert opened(Path("/dev/full"), resources).write(LINE) == 0


def test_closed_pipe_accepts_nothing(resources: ExitStack) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = LogStream(writer)
    resources.callback(log.close)
    assert log.write(LINE) == 0


def test_non_blocking_pipe_is_written_when_it_is_read(resources: ExitStack) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    log = LogStream(writer)
    data = LINE * 30_000  # more than a pipe's 64 KiB
    read = bytearray()

    def read_all() -> None:
        while piece := os.read(reader, 65536):
            read.extend(piece)

    thread = threading.Thread(target=read_all)
    thread.start()
    assert log.write(data) == len(data)
    log.close()
    thread.join()
    os.close(reader)
    assert read == data


def test_line_after_an_incomplete_one_begins_a_line(
    tmp_path: Path, resources: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.log"
    log = opened(path, resources, 1000)
    write = os.write
    room = 4

    def write_until_full(descriptor: int, data: Any) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, data[:room])
        room -= written
        return written

    monkeypatch.setattr(log_file.os, "write", write_until_full)
    assert log.write(b"1\n2345\n") == 4
    assert log.write(b"6\n") == 0
    room = 100
    assert log.write(b"7\n") == 2
    room = 2
    assert log.write(b"8\n9\n") == 2
    room = 100
    log.write(b"10\n")
    assert path.read_bytes() == b"1\n23\n7\n8\n10\n"


def test_rotation_is_told_and_another_process_goes_on_with_the_new_file(
    tmp_path: Path, resources: ExitStack
) -> None:
    path, rotations = tmp_path / "own.log", []
    parent = open_log(str(path), MAX_BYTES, MAX_ROTATED, lambda: rotations.append(1))
    worker = open_shared_log(str(path), lock=-1)
    for each in (parent, worker):
        resources.callback(each.close)
    for _ in range(3):
        assert worker.write(LINE) == len(LINE)
    assert contents(tmp_path) == {"own.log": LINE * 3}
    worker.check_size()
    assert rotations == []
    parent.check_size()
    assert rotations == [1]
    worker.reopen()
    worker.write(LINE)
    assert contents(tmp_path) == {"own.log": LINE, "own.log.1": LINE * 3}


def test_lock_is_held_during_each_write_to_a_pipe(
    tmp_path: Path, resources: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(log_file.fcntl, "lockf", lambda *call: calls.append(call))
    os.mkfifo(tmp_path / "pipe")
    for opened_log in (
        open_log(str(tmp_path / "pipe"), MAX_BYTES, MAX_ROTATED, lock=7),
        open_shared_log(str(tmp_path / "pipe"), lock=7),
    ):
        resources.callback(opened_log.close)
        opened_log.write(LINE)
        opened_log.check_size()
    assert calls == [(7, log_file.fcntl.LOCK_EX), (7, log_file.fcntl.LOCK_UN)] * 2


def test_file_needs_no_lock(tmp_path: Path, resources: ExitStack) -> None:
    log = open_shared_log(str(tmp_path / "own.log"), lock=-1)  # locking it would fail
    resources.callback(log.close)
    assert log.write(LINE) == len(LINE)
