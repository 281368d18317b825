"""The clients and cached paths with the most requests in the last minutes.

The tables are bounded (:mod:`.recent_counts`) and are no counters: a client or path that has few
requests may be missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import nlargest
from typing import Final

from goproxyai.telemetry.recent_counts import RecentCounts, most

CLIENT_WINDOW_SECONDS: Final = 300.0
PATH_WINDOW_SECONDS: Final = 1800.0
MAX_CLIENTS: Final = 500
MAX_PATHS: Final = 250

SAMPLED_BATCH: Final = 128
"""Requests of a batch from which a sample is counted."""

SAMPLED_STEP: Final = 5

REPORTED: Final = 30
"""Rows of each table that a process reports."""

ClientRow = tuple[str, int, int, int]
"""Address, requests, requests refused by the rate limit, failed requests."""

PathRow = tuple[str, int]
"""Path, requests answered from the cache."""


class Busiest:
    """Counts by client and by path.

    :ivar clients: requests by client address.
    :ivar limited: requests that the rate limit refused, by client address.
    :ivar failed: requests that failed otherwise, by client address.
    :ivar hits: requests answered from the cache, by path without query.
    """

    def __init__(self) -> None:
        self.clients = RecentCounts(CLIENT_WINDOW_SECONDS, MAX_CLIENTS)
        self.limited = RecentCounts(CLIENT_WINDOW_SECONDS, MAX_CLIENTS)
        self.failed = RecentCounts(CLIENT_WINDOW_SECONDS, MAX_CLIENTS)
        self.hits = RecentCounts(PATH_WINDOW_SECONDS, MAX_PATHS)
        self._start = 0  # of the next sample: clients may take turns

    def add_clients(self, clients: Sequence[str], now: float) -> None:
        """Count the requests of a batch by client.

        Of a large batch, which is a sign of thousands of requests a second, every fifth request is
        counted for five: counting all would take 0.1 us of the 11 us of a hit.
        """
        if len(clients) < SAMPLED_BATCH:
            self.clients.add(Counter(clients), now)
            return
        self._start = (self._start + 1) % SAMPLED_STEP
        self.clients.add(Counter(clients[self._start :: SAMPLED_STEP]), now, SAMPLED_STEP)

    def client_rows(self, now: float) -> list[ClientRow]:
        """Return at most :data:`REPORTED` clients, those with the most refusals first."""
        requests, limited = self.clients.counts(now), self.limited.counts(now)
        failed = self.failed.counts(now)
        names = {name for table in (limited, failed, requests) for name, _ in most(table, REPORTED)}
        rows = [(name, limited.get(name, 0), failed.get(name, 0)) for name in names]
        return sorted_clients(
            # The requests may be an estimate, see `add_clients`.
            (name, max(requests.get(name, 0), refused + wrong), refused, wrong)
            for name, refused, wrong in rows
        )

    def path_rows(self, now: float) -> list[PathRow]:
        """Return at most :data:`REPORTED` paths, those with the most hits first."""
        return most(self.hits.counts(now), REPORTED)


def sorted_clients(rows: Iterable[ClientRow]) -> list[ClientRow]:
    """Return the first :data:`REPORTED` rows: by refusals, then by failures, then by requests."""
    return nlargest(REPORTED, rows, key=lambda row: (row[2], row[3], row[1]))


def summed_clients(tables: Iterable[Iterable[ClientRow]]) -> list[ClientRow]:
    """Return the rows of several processes, added by client."""
    requests: Counter[str] = Counter()
    limited: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for rows in tables:
        for client, *numbers in rows:
            for counts, number in zip((requests, limited, failed), numbers, strict=True):
                counts[client] += number
    return sorted_clients(
        (client, number, limited[client], failed[client]) for client, number in requests.items()
    )


def summed_paths(tables: Iterable[Iterable[PathRow]]) -> list[PathRow]:
    """Return the rows of several processes, added by path."""
    summed: Counter[str] = Counter()
    for rows in tables:
        for path, hits in rows:
            summed[path] += hits
    return summed.most_common(REPORTED)
