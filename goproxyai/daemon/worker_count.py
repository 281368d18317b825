"""The number of workers, and what each of them gets of the limits."""

from __future__ import annotations

import os
from contextlib import suppress
from math import ceil

import attrs

from goproxyai.config.parsers import AUTO
from goproxyai.config.settings import Settings
from goproxyai.config.variables import MAX_WORKERS
from goproxyai.daemon.shared_memory import MAX_RING_BYTES

CPU_QUOTA_FILE = "/sys/fs/cgroup/cpu.max"
"""Of a container, in the second version of control groups: the quota and its period, or ``max``."""


def worker_count(settings: Settings) -> int:
    """Return the number of workers of ``WORKERS``."""
    if settings.workers != AUTO:
        return settings.workers
    return min(processors(), MAX_WORKERS)


def processors(quota_file: str = CPU_QUOTA_FILE) -> int:
    """Return the number of processors that the process may use, at least 1."""
    count = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no control group, or no quota
        with open(quota_file, encoding="ascii") as file:
            quota, period = file.read().split()
        count = min(count, ceil(int(quota) / int(period)))
    return max(1, count)


def second_level_size(settings: Settings) -> int:
    """Return the bytes of ``MAX_CACHE_SIZE`` that the second level has, in shared memory.

    These are half of them, or none where Redis has the second level. A response is usually in the
    second level and in the memory of some workers. So the second level decides how many different
    responses the service keeps, and a worker's own memory how many hits are served from it.
    """
    return settings.max_cache_size // 2 if settings.state_url is None else 0


def ring_size(share: Settings) -> int:
    """Return the bytes that a worker has of the second level: as many as of its own memory.

    :param share: made by :func:`share_of`.
    """
    return min(share.max_cache_size, MAX_RING_BYTES) if share.state_url is None else 0


def share_of(settings: Settings, workers: int) -> Settings:
    """Return the settings of one of *workers* processes.

    ``MAX_CONNECTIONS_PER_CLIENT`` is not divided: the kernel does not spread the connections of one
    client evenly.
    """
    return attrs.evolve(
        settings,
        max_cache_size=(settings.max_cache_size - second_level_size(settings)) // workers,
        max_request_memory=max(1, settings.max_request_memory // workers),
        max_connections=ceil(settings.max_connections / workers),
    )
