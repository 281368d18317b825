"""What a restart keeps of the cache, and what becomes of a file that is not right."""

from __future__ import annotations

import errno
import io
import os
import resource
import stat
import tracemalloc
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogEvent, eventAsText, globalLogPublisher

from goproxyai.cache import snapshot_format as sealed
from goproxyai.cache.snapshot_format import HEADER_BYTES, MAGIC, Record, Refused
from goproxyai.cache.store import COMPUTED, Entry, Store
from goproxyai.daemon.cache_snapshot import CacheSnapshot
from goproxyai.usage.usage import Usage

ALICE, BOB = b"\0\0alice-alice-al", b"\0\1bob-bob-bob-bo"
FILES = b"/v1/files"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_1\r\n"
BODY = b'{"answer": "what somebody was told"}'
PASSPHRASE = "Zq8passphrase"
TTL = 300.0

KEY = b"\7" * 32
HEADER = sealed.new_header(b"\1" * sealed.RANDOM_BYTES)

VERSION_2 = (
    "676f70726f787961692063616368650002000102030405060708090a0b0c0d0e0f101112131415162841fd71f2"
    "acc38ad3f2e4c909551926dd5b7bc4c0b5f01fdd3c0b712d4ef1ea659d2584910a831fc4030bdaa68aac899e26"
    "c6997e84eb27a746c639cc592ac7123eaf3352a82ab61c596079c9c955e6b1f941a70b73b9f768f251e7aa3d62"
    "6c849b7b5fdc2f1e0d145278157da66f7b9325c5c22db0e9661ac1261b96f8ebe122e47d2f93af9dcf7b6193e4"
    "22fbe398c5f054e9d7166499fb78721d43d17ea7f993b81a5ad22a0e65f1e1e3d35414db8ceeafbee4c4"
)
"""A file of one record, of the passphrase ``key`` and the upstream ``up``, at the real cost."""

real_cost = sealed.COST


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys at a price that a test can pay."""
    monkeypatch.setattr(sealed, "COST", 2)


# The format.

times = st.floats(allow_nan=False)
texts = st.binary(max_size=40)
any_record = st.builds(
    Record,
    key=st.binary(min_size=32, max_size=32),
    status=st.integers(0, 65_535),
    head=texts,
    body=st.binary(max_size=400),
    pace=st.none() | texts,
    initial_age=st.integers(0, 2**32 - 1),
    stored=times,
    expires=times,
    path=texts,
    owner=texts,
    usage=st.none()
    | st.builds(
        Usage,
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
        *[st.integers(0, 10**12)] * 4,
    ),
)
any_records = st.lists(any_record, max_size=5)
frames_of = st.sampled_from([1, 7, 64, 2**20])
"""Bytes in a frame."""


def record(number: int = 0, **more: Any) -> Record:
    key = b"%032d" % number
    return attrs.evolve(Record(key, 200, HEAD, BODY, None, 0, 1e9, 1e9 + TTL, FILES, ALICE), **more)


def written(records: Iterable[Record], header: bytes = HEADER, key: bytes = KEY) -> bytes:
    return b"".join(sealed.seal(records, header, key))


def read(data: bytes, key: bytes = KEY) -> list[Record]:
    return list(sealed.opened(io.BytesIO(data[HEADER_BYTES:]).read, data[:HEADER_BYTES], key))


def with_passphrase(
    data: bytes, passphrase: bytes = b"key", upstream: bytes = b"up"
) -> list[Record]:
    return read(data, sealed.key_of(data[:HEADER_BYTES], passphrase, upstream))


def small() -> bytes:
    """A file that :func:`with_passphrase` reads."""
    return written([record()], HEADER, sealed.key_of(HEADER, b"key", b"up"))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(any_records, frames_of)
def test_what_is_read_is_what_was_written(records: list[Record], frame: int) -> None:
    with mock.patch.object(sealed, "FRAME", frame):
        assert read(written(records)) == records


def test_a_body_of_several_frames_is_read_as_it_was() -> None:
    large = record(1, body=os.urandom(3 * sealed.FRAME + 17))
    records = [record(), large, record(2, body=bytes(sealed.FRAME)), record(3)]
    assert read(written(records)) == records


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_records_may_end_where_a_frame_does(more: int) -> None:
    frame = len(written([record()])) - HEADER_BYTES - 16
    with mock.patch.object(sealed, "FRAME", frame):
        records = [record(), record(1, body=BODY + bytes(frame + more))]
        assert read(written(records)) == records


def test_every_bit_that_is_flipped_is_told() -> None:
    data = small()
    assert with_passphrase(data) == [record()]
    for bit in range(len(data) * 8):
        with pytest.raises(Refused):
            with_passphrase(flipped(data, bit))


def test_every_byte_that_is_missing_at_the_end_is_told() -> None:
    data = small()
    for length in range(len(data)):
        with pytest.raises(Refused):
            with_passphrase(data[:length])


@given(any_records, frames_of, st.data())
def test_whatever_is_flipped_cut_off_or_appended_is_told(
    records: list[Record], frame: int, data: st.DataObject
) -> None:
    with mock.patch.object(sealed, "FRAME", frame):
        whole = written(records)
        changed = data.draw(
            st.integers(0, len(whole) * 8 - 1).map(lambda bit: flipped(whole, bit))
            | st.integers(HEADER_BYTES, len(whole) - 1).map(lambda length: whole[:length])
            | st.binary(min_size=1, max_size=100).map(lambda more: whole + more)
        )
        with pytest.raises(Refused):
            read(changed)


def test_frames_that_are_left_out_repeated_or_elsewhere_are_told() -> None:
    with mock.patch.object(sealed, "FRAME", 350):
        whole = written([record(body=bytes(1_500))])  # that which moves is of a body, all zeros
        text = whole[HEADER_BYTES:]
        frames = [text[at : at + 366] for at in range(0, len(text), 366)]
        assert len(frames) == 5
        assert read(whole[:HEADER_BYTES] + b"".join(frames)) == [record(body=bytes(1_500))]
        for order in (each for count in range(6) for each in product(frames, repeat=count)):
            if list(order) != frames:
                with pytest.raises(Refused, match="damaged"):
                    read(whole[:HEADER_BYTES] + b"".join(order))


def test_a_frame_of_another_file_is_told() -> None:
    other = sealed.new_header(b"\1" * 22 + b"\2")
    ours, theirs = written([record()]), written([record()], other)
    with pytest.raises(Refused, match="damaged"):
        read(ours[:HEADER_BYTES] + theirs[HEADER_BYTES:])


@pytest.mark.parametrize(("passphrase", "upstream"), [(b"kez", b"up"), (b"key", b"down")])
def test_another_key_or_upstream_is_refused(passphrase: bytes, upstream: bytes) -> None:
    with pytest.raises(Refused, match="damaged, or of another key or upstream"):
        with_passphrase(small(), passphrase, upstream)


@pytest.mark.parametrize("version", [b"\0", b"\1", b"\3", b"\xff"])
@pytest.mark.parametrize("rest", [b"", b"\n", small()[len(MAGIC) + 1 :]])
def test_another_version_is_refused(version: bytes, rest: bytes) -> None:
    with pytest.raises(Refused, match="of another version"):
        with_passphrase(MAGIC + version + rest)


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", MAGIC[:-1], b"x" * 500])
def test_a_file_of_somebody_else_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, match="no file of ours"):
        with_passphrase(data)


def hostile(**lengths: int) -> bytes:
    """An authentic file, of a record that claims *lengths*."""
    names = ("head", "pace", "path", "owner", "model", "body")
    claimed = [lengths.get(name, 0) for name in names]
    numbers = sealed._RECORD.pack(bytes(32), 200, 0, 0.0, 0.0, *claimed, *sealed._NO_USAGE[1:])
    sealed_parts = sealed._sealed(sealed._cut([numbers, BODY]), HEADER, KEY)
    return HEADER + b"".join(sealed_parts)


@pytest.mark.parametrize("name", ["head", "pace", "path", "owner", "model", "body"])
@pytest.mark.parametrize("claimed", [len(BODY) + 1, 2**31, 2**40, 2**40 + 1, 2**63, 2**64 - 2])
def test_a_length_that_leads_outside_is_damage(name: str, claimed: int) -> None:
    with pytest.raises(Refused, match="damaged"):
        read(hostile(**{name: claimed}))


def test_bytes_behind_the_last_record_are_damage() -> None:
    assert len(read(hostile(body=len(BODY)))) == 1
    with pytest.raises(Refused, match="damaged"):
        read(hostile(body=len(BODY) - 1))


def test_two_files_of_the_same_have_nothing_in_common() -> None:
    headers = [sealed.new_header(os.urandom(sealed.RANDOM_BYTES)) for _ in range(2)]
    keys = [sealed.key_of(header, b"key", b"up") for header in headers]
    one, other = (
        written([record()], header, key)[HEADER_BYTES:]
        for header, key in zip(headers, keys, strict=True)
    )
    assert not any(one[at : at + 8] in other for at in range(len(one) - 8))


def test_the_second_version_is_read_for_as_long_as_it_is_called_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sealed, "COST", real_cost)
    data = bytes.fromhex(VERSION_2)
    usage = Usage("m", 1, 2, 3, 4)
    kept = record(0, head=b"h", body=b"b", pace=b"", initial_age=7, usage=usage)
    assert with_passphrase(data) == [kept]


def test_writing_and_reading_take_the_memory_of_some_frames_and_an_entry() -> None:
    body = bytes(4 * sealed.FRAME)
    pieces = sealed.seal((record(number, body=body) for number in range(8)), HEADER, KEY)
    next(pieces)
    tracemalloc.start()
    try:
        for each in sealed.opened(lambda count: next(pieces, b""), HEADER, KEY):
            assert len(each.body) == len(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Of the entries: the one before, the one at hand, and its parts.
    assert peak < 3 * len(body) + 8 * sealed.FRAME


# Times.

moments = st.floats(0, 4e9)


@given(moments, st.floats(0, 1e7), moments, moments, st.floats(0, 1e6))
def test_no_entry_outlives_what_it_had_to_live(
    stored: float, lifetime: float, now: float, wall: float, stale: float
) -> None:
    old = record(stored=stored, expires=stored + lifetime)
    lifetime = old.expires - old.stored  # as floats have it
    entry = sealed.revived(old, now, wall, stale)
    if entry is None:
        skew = max(stored - wall, 0.0)
        assert lifetime + stale <= max(wall - stored, 0.0) + 1e-3 or skew > sealed.LEEWAY
    else:
        assert stored <= wall + sealed.LEEWAY
        assert entry.stored_at <= now
        assert now - stale < entry.expires_at <= now + lifetime
        assert entry.expires_at - now <= old.expires - wall + sealed.LEEWAY + 1e-3


# The file.


class Host:
    """A file, clocks, and a store that each restart makes anew."""

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
        """Begin anew, with a monotonic clock that has begun anew, too."""
        self.wall += after
        self.monotonic = 12.5
        self.store = Store(room, stale)
        self.snapshot = CacheSnapshot(
            str(self.path), key, self.store, lambda: self.monotonic, lambda: self.wall, "up"
        )
        return self.store

    def put(self, number: int, owner: bytes = ALICE, ttl: float = TTL, **more: Any) -> Entry:
        now = self.monotonic
        values = {"status": 200, "head": HEAD, "body": BODY, "initial_age": 0, "pace": None} | more
        entry = Entry(b"%032d" % number, stored_at=now, expires_at=now + ttl, **values)
        assert self.store.put(entry, FILES, owner, self.store.ticket())
        return entry

    def got(self, number: int) -> Entry | None:
        return self.store.get(b"%032d" % number, self.monotonic)

    def said(self) -> list[tuple[str, str]]:
        """The lines since last time."""
        lines, self.lines = self.lines, []
        return lines

    def warned(self, *words: str) -> None:
        """There was one line since last time, a warning with these words in it."""
        ((level, text),) = self.said()
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


def test_an_entry_is_after_a_restart_what_it_was(host: Host) -> None:
    host.put(1, status=404, pace=b"\0" * 8, initial_age=3, ttl=100.0)
    host.monotonic += 40
    host.wall += 40
    host.snapshot.save()
    host.restart(after=20)
    host.snapshot.load()
    entry = host.got(1)
    assert entry is not None
    assert (entry.status, entry.head, entry.body) == (404, HEAD, BODY)
    assert (entry.pace, entry.initial_age) == (b"\0" * 8, 3)
    assert entry.age(host.monotonic) == 63
    assert entry.expires_at == pytest.approx(host.monotonic + 40)
    assert entry.place is not None
    assert (entry.place.path, entry.place.owner) == (FILES, ALICE)
    host.monotonic += 40.1
    assert host.got(1) is None


def test_the_order_of_use_is_restored(host: Host) -> None:
    for number in range(5):
        host.put(number)
    host.got(1)
    before = numbers(host.store)
    host.snapshot.save()
    host.restart()
    host.snapshot.load()
    assert numbers(host.store) == before == [0, 2, 3, 4, 1]


def test_what_no_longer_fits_goes_as_it_would_have_gone(host: Host) -> None:
    for number in range(50):
        host.put(number)
    host.snapshot.save()
    store = host.restart(room=20_000)
    host.snapshot.load()
    assert numbers(store) == list(range(50 - len(store), 50))
    assert 10 < len(store) < 40
    assert host.said()[1] == ("info", f"restored {len(store)} of 50 answers from {host.path}")


def test_each_restart_is_told_in_a_line(host: Host) -> None:
    host.put(1)
    host.put(2, ttl=10.0)
    host.snapshot.save()
    size = host.path.stat().st_size
    assert host.said() == [("info", f"kept 2 answers in {host.path}, {size} bytes")]
    host.restart(after=11)
    host.snapshot.load()
    assert host.said() == [("info", f"restored 1 of 2 answers from {host.path}")]


def test_an_entry_expires_when_it_would_have_expired(host: Host) -> None:
    host.put(1, ttl=100.0)
    host.put(2, ttl=200.0)
    host.snapshot.save()
    host.restart(after=100)
    host.snapshot.load()
    assert numbers(host.store) == [2]
    host.monotonic += 99
    assert host.got(2) is not None
    host.monotonic += 1.1
    assert host.got(2) is None


def test_an_expired_entry_is_kept_for_as_long_as_it_may_be_stale(host: Host) -> None:
    host.restart(stale=50.0)
    host.put(1, ttl=100.0)
    host.put(2, ttl=80.0)
    host.monotonic += 110
    host.wall += 110
    host.snapshot.save()
    host.restart(stale=50.0, after=25)
    host.snapshot.load()
    entry = host.got(1)
    assert numbers(host.store) == [1]
    assert entry is not None
    assert entry.expires_at < host.monotonic


def test_an_entry_from_the_future_is_left_out(host: Host) -> None:
    host.put(1)
    host.wall += 30
    host.monotonic += 30
    host.put(2)
    host.snapshot.save()
    host.restart(after=-75)  # the first is 45 seconds ahead, the second 75
    host.snapshot.load()
    entry = host.got(1)
    assert numbers(host.store) == [1]
    assert entry is not None
    assert entry.expires_at <= host.monotonic + TTL + 1e-3
    assert entry.age(host.monotonic) == 0


def test_a_write_after_a_restart_spares_what_was_computed(host: Host) -> None:
    for number, owner in enumerate([ALICE, BOB, COMPUTED]):
        host.put(number, owner)
    host.snapshot.save()
    store = host.restart()
    host.snapshot.load()
    store.invalidate(ALICE, [FILES])
    assert numbers(store) == [1, 2]


def test_the_file_is_gone_once_it_is_restored(host: Host) -> None:
    host.put(1)
    host.snapshot.save()
    host.restart()
    host.snapshot.load()
    assert list(host.directory.iterdir()) == []
    host.restart()  # without a stop: a crash
    host.snapshot.load()
    assert numbers(host.store) == []


def test_the_file_is_gone_before_anything_is_restored(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.put(1)
    host.snapshot.save()
    host.said()

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    store = host.restart()
    monkeypatch.setattr(os, "unlink", refuse)
    host.snapshot.load()
    assert len(store) == 0
    host.warned("cannot restore", "Permission denied", str(host.path))


def test_without_a_file_nothing_is_said(host: Host) -> None:
    host.snapshot.load()
    assert [level for level, _ in host.said()] == ["debug"]


@pytest.mark.parametrize("expired", [False, True])
def test_of_nothing_no_file_is_made_and_an_old_one_goes(host: Host, expired: bool) -> None:
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


def test_what_was_cleared_or_overwritten_is_not_kept(host: Host) -> None:
    for number in range(100):
        host.put(number)
    host.put(100, BOB)
    host.store.invalidate(ALICE, [FILES])  # dropped in slices
    host.snapshot.save()
    host.restart()
    host.snapshot.load()
    assert numbers(host.store) == [100]


def test_only_the_owner_may_read_the_file_and_only_with_the_key(host: Host) -> None:
    host.put(1)
    host.snapshot.save()
    data = host.path.read_bytes()
    assert stat.S_IMODE(host.path.stat().st_mode) == 0o600
    assert list(host.directory.iterdir()) == [host.path]
    for part in (HEAD[:16], BODY[:16], FILES, ALICE[:8], b"%032d" % 1, PASSPHRASE.encode()):
        assert part not in data
    assert PASSPHRASE not in repr(host.snapshot)


# What is not right.


def spoiled(host: Host, how: str) -> str:
    """Leave a file of ours that cannot be restored; the key to try it with."""
    for number in range(3):
        host.put(number, body=os.urandom(sealed.FRAME))
    host.snapshot.save()
    data = host.path.read_bytes()
    if how == "damaged":
        data = flipped(data, len(data) * 8 - 1)  # after two whole entries
    elif how == "cut off":
        data = data[: HEADER_BYTES + sealed.FRAME + 16]
    elif how == "version":
        data = MAGIC + b"\3" + data[len(MAGIC) + 1 :]
    host.path.write_bytes(data)
    host.said()
    return "another key" if how == "key" else PASSPHRASE


@pytest.mark.parametrize("how", ["damaged", "cut off", "version", "key"])
def test_a_spoiled_file_is_a_line_and_an_empty_cache_and_is_replaced(host: Host, how: str) -> None:
    key = spoiled(host, how)
    store = host.restart(key)
    host.snapshot.load()
    assert (len(store), store.bytes, store.stores) == (0, 0, 0)
    host.warned("cannot restore", str(host.path), "version" if how == "version" else "damaged")
    host.put(9)
    host.snapshot.save()
    host.restart(key)
    host.snapshot.load()
    assert numbers(host.store) == [9]


def test_a_file_that_fails_the_second_time_it_is_read_leaves_the_cache_empty(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        host.put(number)
    host.snapshot.save()
    host.said()
    times = iter([True, False])

    def failing(*given: Any) -> Iterator[Record]:
        last = next(times)
        records = really(*given)
        yield next(records)
        if not last:
            raise OSError(errno.EIO, "Input/output error")
        yield from records

    really = sealed.opened
    monkeypatch.setattr(sealed, "opened", failing)
    store = host.restart()
    host.snapshot.load()
    assert (len(store), store.stores) == (0, 1)
    host.warned("cannot restore", "Input/output error")


FOREIGN = [b"somebody's diary\n", MAGIC[:-1] + b"\n" + bytes(100)]


def test_an_empty_file_is_room_that_somebody_made(host: Host) -> None:
    host.path.touch()
    host.snapshot.load()
    assert [level for level, _ in host.said()] == ["info"]
    host.put(1)
    host.snapshot.save()
    assert host.path.read_bytes().startswith(MAGIC)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("data", FOREIGN)
def test_a_file_of_somebody_else_is_never_touched(host: Host, data: bytes, linked: bool) -> None:
    target = host.directory / "diary" if linked else host.path
    target.write_bytes(data)
    if linked:
        host.path.symlink_to(target)
    before = sorted(host.directory.iterdir()), target.stat()
    host.snapshot.load()
    host.warned("cannot restore", "no file of ours")
    for _ in range(2):
        host.snapshot.save()  # nothing at first, then something
        host.warned("cannot keep", "no file of ours")
        host.put(1)
    assert len(host.store) == 1
    assert target.read_bytes() == data
    after = sorted(host.directory.iterdir()), target.stat()
    assert (after[0], after[1].st_ino, after[1].st_mtime_ns) == (
        before[0], before[1].st_ino, before[1].st_mtime_ns,
    )  # fmt: skip


REASONS = {"directory": "Is a directory", "unreadable": "Permission denied"}


@pytest.mark.parametrize("kind", ["directory", "pipe", "busy pipe", "unreadable"])
def test_what_cannot_be_read_is_a_line_and_is_left(
    host: Host, kind: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    really = os.open

    def refuse(path: Any, *more: Any, **named: Any) -> int:
        if path == str(host.path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return really(path, *more, **named)

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
    reason = "no file of ours" if kind.endswith("pipe") else REASONS[kind]
    host.snapshot.load()
    host.warned("cannot restore", reason)
    host.put(1)
    host.snapshot.save()
    host.warned("cannot keep", reason)
    assert list(host.directory.iterdir()) == [host.path]
    assert host.path.stat().st_mode == mode


def test_a_link_is_replaced_and_not_written_through(host: Host) -> None:
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


# What fails as it is written.


def test_without_a_directory_there_is_one_line(host: Host) -> None:
    host.path = host.directory / "nowhere" / "cache"
    host.restart()
    host.put(1)
    host.snapshot.save()
    host.warned("cannot keep", "No such file or directory")


def test_without_room_there_is_one_line_and_no_file(host: Host) -> None:
    host.put(1, body=bytes(100_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        host.snapshot.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    host.warned("cannot keep", "File too large")
    assert list(host.directory.iterdir()) == []


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_what_fails_at_last_leaves_the_file_that_was_there(
    host: Host, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.put(1)
    host.snapshot.save()
    host.said()
    host.put(2)

    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        host.snapshot.save()
    host.warned("cannot keep", "No space left on device")
    assert list(host.directory.iterdir()) == [host.path]
    host.restart()
    host.snapshot.load()
    assert numbers(host.store) == [1]


@pytest.mark.parametrize("data", [b"", MAGIC[:5], MAGIC + b"\1half"])
def test_what_a_killed_process_left_is_replaced(host: Host, data: bytes) -> None:
    (host.directory / "cache.new").write_bytes(data)
    host.put(1)
    host.snapshot.save()
    assert list(host.directory.iterdir()) == [host.path]
    host.restart()
    host.snapshot.load()
    assert numbers(host.store) == [1]


def test_what_somebody_else_has_beside_the_file_is_left(host: Host) -> None:
    beside = host.directory / "cache.new"
    beside.write_bytes(b"somebody's diary")
    host.put(1)
    host.snapshot.save()
    host.warned("cannot keep", "File exists", str(beside))
    assert list(host.directory.iterdir()) == [beside]
    assert beside.read_bytes() == b"somebody's diary"


def test_a_file_without_a_directory_in_its_name_is_beside_us(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(host.directory)
    host.path = Path("cache")
    host.restart()
    host.put(1)
    host.snapshot.save()
    assert host.said()[0][0] == "info"
    assert host.path.exists()
