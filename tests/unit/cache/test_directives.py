"""The cache directives of a request."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache.directives import (
    NO_DIRECTIVES,
    Directives,
    request_directives,
    requested_ttl,
    wants_paced_replay,
)


def test_no_cache_control_returns_shared_value() -> None:
    assert request_directives({b"accept": b"no-cache"}) is NO_DIRECTIVES
    assert request_directives({b"pragma": b"x"}) is NO_DIRECTIVES


@pytest.mark.parametrize(
    ("control", "directives"),
    [
        (b"no-cache", Directives(no_cache=True)),
        (b"No-Store , ONLY-if-cached", Directives(no_store=True, only_if_cached=True)),
        (b"max-age=30", Directives(max_age=30)),
        (b'max-age="30"', Directives(max_age=30)),
        (b"max-age = 30", Directives(max_age=30)),
        (b"max-age=30, max-age=10, max-age=20", Directives(max_age=10)),
        (b"max-age=-1", Directives(max_age=0)),
        (b"max-age", Directives(max_age=0)),
        (b"max-age=1.5", Directives(max_age=0)),
        (b"max-age=" + b"9" * 5000, Directives(max_age=2**31)),
        (b"max-age=" + b"0" * 5000 + b"7", Directives(max_age=7)),
        (b"max-age=\xb2", Directives(max_age=0)),
        (b"", Directives()),
        (b',,;=",\\', Directives()),
        (b'x="no-cache, no-store"', Directives()),
        (b'x="a\\", no-store", no-cache', Directives(no_cache=True)),
        (b"no-cache-please, xno-store, s-maxage=1", Directives()),
    ],
)
def test_cache_control_with_case_quotes_repetition_and_junk(
    control: bytes, directives: Directives
) -> None:
    assert request_directives({b"cache-control": control}) == directives


def test_pragma_is_used_only_without_cache_control() -> None:
    assert request_directives({b"pragma": b"x, No-Cache"}) == Directives(no_cache=True)
    both = {b"pragma": b"no-cache", b"cache-control": b"max-age=1"}
    assert request_directives(both) == Directives(max_age=1)


@given(st.binary() | st.text('",=\\ maxge-1no', max_size=80).map(str.encode))
def test_any_cache_control_is_parsed(control: bytes) -> None:
    directives = request_directives({b"cache-control": control})
    assert directives.max_age is None or 0 <= directives.max_age <= 2**31


def test_parsing_hostile_cache_control_takes_linear_time() -> None:
    begun = time.process_time()
    for piece in (b'"', b'\\"', b'="', b'a"b', b"(,"):
        request_directives({b"cache-control": piece * (65536 // len(piece))})
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    ("control", "seconds"),
    [
        (b"max-stale=30", 30),
        (b"max-stale", 2**31),
        (b"max-stale=30, max-stale", 30),
        (b"max-stale=junk", 0),
        (b"max-stale=-1", 0),
        (b"max-age=5", 0),
    ],
)
def test_max_stale_with_and_without_seconds(control: bytes, seconds: int) -> None:
    assert request_directives({b"cache-control": control}).max_stale == seconds


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (b"90", 90.0),
        (b" 90 ", 90.0),
        (b"0", 0.0),
        (b"1h30m", 5400.0),
        (b"250ms", 0.25),
        (b"9" * 99, float(2**31)),
        (b"9" * 101, None),
        (b"-1s", None),
        (b"soon", None),
        (b"1, 2", None),
        (b"\xb2", None),
        (b"", None),
    ],
)
def test_requested_ttl_is_seconds_or_a_duration(given: bytes, seconds: float | None) -> None:
    assert requested_ttl({b"x-cache-ttl": given}) == seconds
    assert requested_ttl({}) is None


def test_paced_replay_is_requested_by_name() -> None:
    assert wants_paced_replay({b"x-cache-replay": b"Paced"})
    assert wants_paced_replay({b"x-cache-replay": b"x, paced"})
    assert not wants_paced_replay({b"x-cache-replay": b"at once"})
    assert not wants_paced_replay({})
