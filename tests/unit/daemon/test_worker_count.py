"""The number of workers, and their shares of the limits."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest

from goproxyai.config.settings import Settings
from goproxyai.config.variable import SettingError
from goproxyai.daemon import worker_count as module
from goproxyai.daemon.restart_policy import MAX_DELAY_SECONDS, STABLE_SECONDS, RestartPolicy
from goproxyai.daemon.shared_memory import MAX_RING_BYTES
from goproxyai.daemon.worker_count import (
    processors,
    ring_size,
    second_level_size,
    share_of,
    worker_count,
)


def settings(**texts: str) -> Settings:
    return Settings.from_texts(texts)


def test_number_is_taken_as_it_is() -> None:
    assert worker_count(settings()) == 1
    assert worker_count(settings(WORKERS="7")) == 7


@pytest.mark.parametrize("text", ["0", "257", "-1", "1.5", "all"])
def test_invalid_number_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"WORKERS is .* expected a whole number of processes"):
        settings(WORKERS=text)


def test_auto_is_the_number_of_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "processors", lambda: 3)
    assert worker_count(settings(WORKERS="auto")) == 3
    monkeypatch.setattr(module, "processors", lambda: 1000)
    assert worker_count(settings(WORKERS="auto")) == 256


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("9000000 100000", 8), ("", 8)],
)
def test_quota_of_a_container_limits_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    assert processors(str(file)) == expected
    assert processors(str(tmp_path / "missing")) == 8


def test_limits_are_divided() -> None:
    whole = settings(
        MAX_CACHE_SIZE="100",
        MAX_REQUEST_MEMORY="64",
        MAX_CONNECTIONS="10",
        MAX_CONNECTIONS_PER_CLIENT="5",
    )
    share = share_of(whole, 4)
    assert 4 * share.max_cache_size + second_level_size(whole) == whole.max_cache_size
    assert 4 * ring_size(share) == second_level_size(whole)
    assert share.max_request_memory == whole.max_request_memory // 4
    assert share.max_connections == 3
    assert share.max_connections_per_client == 5


def test_workers_have_the_whole_cache_if_redis_has_the_second_level() -> None:
    whole = settings(MAX_CACHE_SIZE="100", STATE_URL="redis://h", STATE_SECRET="s" * 16)
    assert second_level_size(whole) == 0
    assert share_of(whole, 4).max_cache_size == whole.max_cache_size // 4
    assert ring_size(share_of(whole, 4)) == 0


def test_ring_is_not_larger_than_its_part_of_the_memory() -> None:
    share = attrs.evolve(settings(), max_cache_size=MAX_RING_BYTES + 1)
    assert ring_size(share) == MAX_RING_BYTES


def test_first_replacement_is_immediate_and_later_ones_back_off() -> None:
    policy = RestartPolicy()
    delays = [policy.delay_after(1.0) for _ in range(12)]
    assert delays[:5] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert delays[-1] == MAX_DELAY_SECONDS
    assert policy.delay_after(STABLE_SECONDS) == 0.0
    assert policy.delay_after(1.0) == 0.5
