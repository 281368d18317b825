"""The cache snapshot across restarts, and files that cannot be restored or written."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogEvent, eventAsText, globalLogPublisher

from goproxyai.cache import snapshot_format, snapshot_stream
from goproxyai.cache.entry import Entry, new_entry
from goproxyai.cache.record import Record
from goproxyai.cache.snapshot_stream import CHUNK_BYTES, HEADER_BYTES, MAGIC
from goproxyai.cache.store import Store
from goproxyai.cache.write_log import UNOWNED
from goproxyai.daemon.cache_snapshot import CacheSnapshot, StoreRecords

ALICE, BOB = b"\0\0alice-alice-al", b"\0\1bob-bob-bob-bo"
FILES = b"/v1/files"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_1\r\n"
BODY = b'{"answer": "the text of an answer"}'
PASSPHRASE = "Zq8passphrase"
TTL = 300.0


@pytest.fixture(autouse=True)
def low_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys at a cost that tests can afford."""
    monkeypatch.setattr(snapshot_stream, "KDF_MEMORY_BYTES", 8192)


class Host:
    """A snapshot file, clocks, and a store that :meth:`restart` replaces.

    :ivar lines: the logged lines: level and text.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "cache"
        self.directory = directory
        self.wall = 1_700_000_000.0
        self.monotonic = 80_000.0
        self.lines: list[tuple[str, str]] = []
        self.restart()

    def restart(
        self, key: str = PASSPHRASE, room: int = 100_000_000, stale: float = 0.0, after: float = 0.0
    ) -> Store:
        """Start with an empty store and another monotonic clock, *after* seconds later."""
        self.wall += after
        self.monotonic = 12.5
        self.store = Store(room, stale)
        self.snapshot = CacheSnapshot(
            str(self.path),
            key,
            StoreRecords(self.store, lambda: self.monotonic, lambda: self.wall),
            "up",
        )
        return self.store

    def put(self, number: int, owner: bytes = ALICE, ttl: float = TTL, **more: Any) -> Entry:
        now = self.monotonic
        fields = {
            "status": 200,
            "head": HEAD,
            "body": BODY,
            "initial_age": 0,
            "timing": None,
        } | more
        entry = new_entry(b"%032d" % number, stored_at=now, lifetime=ttl, **fields)
        assert self.store.put(entry, FILES, owner, self.store.generation())
        return entry

    def get(self, number: int) -> Entry | None:
        return self.store.get(b"%032d" % number, self.monotonic)

    def take_lines(self) -> list[tuple[str, str]]:
        """Return the lines since the last call."""
        lines, self.lines = self.lines, []
        return lines

    def assert_one_warning(self, *words: str) -> None:
        """Assert that one line was logged since the last call, a warning with *words*."""
        ((level, text),) = self.take_lines()
        assert level == "warn"
        assert PASSPHRASE not in text
        assert [word for word in words if word not in text] == [], text


def numbers(store: Store) -> list[int]:
    return [int(entry.key) for entry in store]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    one = Host(tmp_path)

    def observe(event: LogEvent) -> None:
        if event.get("log_namespace") == "goproxyai.daemon.cache_snapshot":
            assert "log_failure" not in event
            one.lines.append(
                (
                    event["log_level"].name,
                    eventAsText(event, includeTimestamp=False, includeSystem=False),
                )
            )

    globalLogPublisher.addObserver(observe)
    yield one
    globalLogPublisher.removeObserver(observe)


def test_entry_survives_a_restart(host: Host) -> None:
    host.put(1, status=404, timing=b"\0" * 8, initial_age=3, ttl=100.0)
    host.monotonic += 40
    host.wall += 40
    host.snapshot.save()
    host.restart(after=20)
    host.snapshot.load()
    entry = host.get(1)
    assert entry is not None
    assert (entry.status, entry.head, entry.body) == (404, HEAD, BODY)
    assert (entry.timing, entry.initial_age) == (b"\0" * 8, 3)
    assert entry.age(host.monotonic) == 63
    assert entry.expires_at == pytest.approx(host.monotonic + 40)
    assert entry.bucket is not None
    assert (entry.bucket.path, entry.bucket.owner) == (FILES, ALICE)
    host.monotonic += 40.1
    assert host.get(1) is None


def test_order_of_use_is_restored(host: Host) -> None:
    for number in range(5):
        host.put(number)
    host.get(1)
    before = numbers(host.store)
    host.snapshot.save()
    host.restart()
    host.snapshot.load()
    assert numbers(host.store) == before == [0, 2, 3, 4, 1]


def test_entries_that_no_longer_fit_are_evicted_in_order_of_use(host: Host) -> None:
    for number in range(50):
        host.put(number)
    host.snapshot.save()
    store = host.restart(room=20_000)
    host.snapshot.load()
    assert numbers(store) == list(range(50 - len(store), 50))
    assert 10 < len(store) < 40
    assert host.take_lines()[1] == (
        "info",
        f"restored {len(store)} of 50 cache entries from {host.path}",
    )


def test_save_and_load_log_one_line_each(host: Host) -> None:
    host.put(1)
    host.put(2, ttl=10.0)
    host.snapshot.save()
    size = host.path.stat().st_size
    assert host.take_lines() == [("info", f"saved 2 cache entries to {host.path}, {size} bytes")]
    host.restart(after=11)
    host.snapshot.load()
    assert host.take_lines() == [("info", f"restored 1 of 2 cache entries from {host.path}")]


def test_entry_expires_as_without_a_restart(host: Host) -> None:
    host.put(1, ttl=100.0)
    host.put(2, ttl=200.0)
    host.snapshot.save()
    host.restart(after=100)
    host.snapshot.load()
    assert numbers(host.store) == [2]
    host.monotonic += 99
    assert host.get(2) is not None
    host.monotonic += 1.1
    assert host.get(2) is None


def test_expired_entry_is_restored_while_it_may_be_stale(host: Host) -> None:
    host.restart(stale=50.0)
    host.put(1, ttl=100.0)
    host.put(2, ttl=80.0)
    host.monotonic += 110
    host.wall += 110
    host.snapshot.save()
    host.restart(stale=50.0, after=25)
    host.snapshot.load()
    entry = host.get(1)
    assert numbers(host.store) == [1]
    assert entry is not None
    assert entry.expires_at < host.monotonic


def test_entry_from_the_future_is_not_restored(host: Host) -> None:
    host.put(1)
    host.wall += 30
    host.monotonic += 30
    host.put(2)
    host.snapshot.save()
    host.restart(after=-75)  # the entries are 45 and 75 seconds ahead
    host.snapshot.load()
    entry = host.get(1)
    assert numbers(host.store) == [1]
    assert entry is not None
    assert entry.expires_at <= host.monotonic + TTL + 1e-3
    assert entry.age(host.monotonic) == 0


def test_write_after_a_restart_keeps_computed_entries(host: Host) -> None:
    for number, owner in enumerate([ALICE, BOB, UNOWNED]):
        host.put(number, owner)
    host.snapshot.save()
    store = host.restart()
    host.snapshot.load()
    store.invalidate(ALICE)
    assert numbers(store) == [1, 2]


def test_file_is_removed_by_the_restoration(host: Host) -> None:
    host.put(1)
    host.snapshot.save()
    host.restart()
    host.snapshot.load()
    assert list(host.directory.iterdir()) == []
    host.restart()  # without a save: a crash
    host.snapshot.load()
    assert numbers(host.store) == []


def test_nothing_is_restored_from_a_file_that_cannot_be_removed(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.put(1)
    host.snapshot.save()
    host.take_lines()

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    store = host.restart()
    monkeypatch.setattr(os, "unlink", refuse)
    host.snapshot.load()
    assert len(store) == 0
    host.assert_one_warning("cannot restore", "Permission denied", str(host.path))


def test_missing_file_is_logged_at_debug_level_only(host: Host) -> None:
    host.snapshot.load()
    assert [level for level, _ in host.take_lines()] == ["debug"]


@pytest.mark.parametrize("expired", [False, True])
def test_empty_store_writes_no_file_and_removes_an_old_one(host: Host, expired: bool) -> None:
    host.put(1, ttl=10.0)
    host.snapshot.save()
    assert host.path.exists()
    if expired:
        host.monotonic += 10
    else:
        host.store.clear()
    for _ in range(2):
        host.snapshot.save()
        assert list(host.directory.iterdir()) == []


def test_cleared_or_invalidated_entries_are_not_saved(host: Host) -> None:
    for number in range(100):
        host.put(number)
    host.put(100, BOB)
    host.store.invalidate(ALICE)  # dropped in slices
    host.snapshot.save()
    host.restart()
    host.snapshot.load()
    assert numbers(host.store) == [100]


def test_file_is_private_and_reveals_nothing_without_the_key(host: Host) -> None:
    host.put(1)
    host.snapshot.save()
    data = host.path.read_bytes()
    assert stat.S_IMODE(host.path.stat().st_mode) == 0o600
    assert list(host.directory.iterdir()) == [host.path]
    for part in (HEAD[:16], BODY[:16], FILES, ALICE[:8], b"%032d" % 1, PASSPHRASE.encode()):
        assert part not in data
    assert PASSPHRASE not in repr(host.snapshot)


# Files that cannot be restored.


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def spoil(host: Host, how: str) -> str:
    """Write a snapshot that cannot be restored; return the passphrase to load it with."""
    for number in range(3):
        host.put(number, body=os.urandom(CHUNK_BYTES))
    host.snapshot.save()
    data = host.path.read_bytes()
    if how == "damaged":
        data = flipped(data, len(data) * 8 - 1)  # after two whole entries
    elif how == "cut off":
        data = data[: HEADER_BYTES + CHUNK_BYTES + 41]
    elif how == "version":
        data = MAGIC + b"\2" + data[len(MAGIC) + 1 :]
    host.path.write_bytes(data)
    host.take_lines()
    return "another key" if how == "key" else PASSPHRASE


@pytest.mark.parametrize("how", ["damaged", "cut off", "version", "key"])
def test_spoiled_snapshot_is_logged_and_replaced(host: Host, how: str) -> None:
    key = spoil(host, how)
    store = host.restart(key)
    host.snapshot.load()
    assert (len(store), store.bytes, store.stores) == (0, 0, 0)
    host.assert_one_warning(
        "cannot restore", str(host.path), "version" if how == "version" else "damaged"
    )
    host.put(9)
    host.snapshot.save()
    host.restart(key)
    host.snapshot.load()
    assert numbers(host.store) == [9]


def test_error_during_the_second_read_leaves_the_cache_empty(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        host.put(number)
    host.snapshot.save()
    host.take_lines()
    first_read = iter([True, False])

    def failing(*arguments: Any) -> Iterator[Record]:
        complete = next(first_read)
        records = original(*arguments)
        yield next(records)
        if not complete:
            raise OSError(errno.EIO, "Input/output error")
        yield from records

    original = snapshot_format.read_records
    monkeypatch.setattr(snapshot_format, "read_records", failing)
    store = host.restart()
    host.snapshot.load()
    assert (len(store), store.stores) == (0, 1)
    host.assert_one_warning("cannot restore", "Input/output error")


FOREIGN = [b"another program's data\n", MAGIC[:-1] + b"\n" + bytes(100)]


def test_empty_file_is_replaced(host: Host) -> None:
    host.path.touch()
    host.snapshot.load()
    assert [level for level, _ in host.take_lines()] == ["info"]
    host.put(1)
    host.snapshot.save()
    assert host.path.read_bytes().startswith(MAGIC)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("data", FOREIGN)
def test_file_of_another_program_is_never_changed(host: Host, data: bytes, linked: bool) -> None:
    target = host.directory / "target" if linked else host.path
    target.write_bytes(data)
    if linked:
        host.path.symlink_to(target)
    before = sorted(host.directory.iterdir()), target.stat()
    host.snapshot.load()
    host.assert_one_warning("cannot restore", "not a cache snapshot")
    for _ in range(2):
        host.snapshot.save()  # an empty store first, then one entry
        host.assert_one_warning("cannot save", "not a cache snapshot")
        host.put(1)
    assert len(host.store) == 1
    assert target.read_bytes() == data
    after = sorted(host.directory.iterdir()), target.stat()
    assert (after[0], after[1].st_ino, after[1].st_mtime_ns) == (
        before[0], before[1].st_ino, before[1].st_mtime_ns,
    )  # fmt: skip


REASONS = {"directory": "Is a directory", "unreadable": "Permission denied"}


@pytest.mark.parametrize("kind", ["directory", "pipe", "busy pipe", "unreadable"])
def test_unreadable_path_is_logged_and_not_changed(
    host: Host, kind: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    original = os.open

    def refuse(path: Any, *more: Any, **named: Any) -> int:
        if path == str(host.path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return original(path, *more, **named)

    if kind == "directory":
        host.path.mkdir()
    elif kind.endswith("pipe"):
        os.mkfifo(host.path)
        if kind == "busy pipe":
            request.addfinalizer(partial(os.close, os.open(host.path, os.O_RDWR)))
    else:
        host.path.write_bytes(MAGIC)
        monkeypatch.setattr(os, "open", refuse)
    mode = host.path.stat().st_mode
    reason = "not a cache snapshot" if kind.endswith("pipe") else REASONS[kind]
    host.snapshot.load()
    host.assert_one_warning("cannot restore", reason)
    host.put(1)
    host.snapshot.save()
    host.assert_one_warning("cannot save", reason)
    assert list(host.directory.iterdir()) == [host.path]
    assert host.path.stat().st_mode == mode


def test_symbolic_link_is_replaced_and_its_target_not_written(host: Host) -> None:
    host.put(1)
    host.snapshot.save()
    elsewhere = host.directory / "elsewhere"
    host.path.rename(elsewhere)
    host.path.symlink_to(elsewhere)
    data = elsewhere.read_bytes()
    host.put(2)
    host.snapshot.save()
    assert not host.path.is_symlink()
    assert elsewhere.read_bytes() == data
    host.restart()
    host.snapshot.load()
    assert numbers(host.store) == [1, 2]


# Errors while writing.


def test_missing_directory_is_logged_as_one_line(host: Host) -> None:
    host.path = host.directory / "nowhere" / "cache"
    host.restart()
    host.put(1)
    host.snapshot.save()
    host.assert_one_warning("cannot save", "No such file or directory")


def test_full_disk_is_logged_as_one_line_and_leaves_no_file(host: Host) -> None:
    host.put(1, body=bytes(100_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        host.snapshot.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    host.assert_one_warning("cannot save", "File too large")
    assert list(host.directory.iterdir()) == []


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_error_at_the_end_keeps_the_old_file(
    host: Host, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.put(1)
    host.snapshot.save()
    host.take_lines()
    host.put(2)

    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        host.snapshot.save()
    host.assert_one_warning("cannot save", "No space left on device")
    assert list(host.directory.iterdir()) == [host.path]
    host.restart()
    host.snapshot.load()
    assert numbers(host.store) == [1]


@pytest.mark.parametrize("data", [b"", MAGIC[:5], MAGIC + b"\1half"])
def test_temporary_file_of_a_killed_process_is_replaced(host: Host, data: bytes) -> None:
    (host.directory / "cache.new").write_bytes(data)
    host.put(1)
    host.snapshot.save()
    assert list(host.directory.iterdir()) == [host.path]
    host.restart()
    host.snapshot.load()
    assert numbers(host.store) == [1]


def test_temporary_file_of_another_program_is_not_changed(host: Host) -> None:
    temporary = host.directory / "cache.new"
    temporary.write_bytes(b"another program's data")
    host.put(1)
    host.snapshot.save()
    host.assert_one_warning("cannot save", "File exists", str(temporary))
    assert list(host.directory.iterdir()) == [temporary]
    assert temporary.read_bytes() == b"another program's data"


def test_path_without_a_directory_is_in_the_working_directory(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(host.directory)
    host.path = Path("cache")
    host.restart()
    host.put(1)
    host.snapshot.save()
    assert host.take_lines()[0][0] == "info"
    assert host.path.exists()
