"""Workers that end, or cannot start, while others serve."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.process.daemon_process import CHECKOUT, eventually, start
from tests.process.worker_service import (
    Connection,
    Serve,
    Service,
    close_connections,
    serve,
    upstream,
)

__all__ = ["close_connections", "serve", "start", "upstream"]  # the fixtures

pytestmark = pytest.mark.process


class WorkerLoad:
    """Requests on connections to chosen workers, until the end of a ``with`` block.

    :ivar answered: complete answers, by worker.
    :ivar failed: connections that broke, by worker.
    """

    def __init__(self, connections: dict[int, Connection]) -> None:
        self.answered: Counter[int] = Counter()
        self.failed: Counter[int] = Counter()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=item) for item in connections.items()
        ]

    def __enter__(self) -> WorkerLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, pid: int, connection: Connection) -> None:
        try:
            while not self._stopped.is_set():
                assert connection.ask("/v1/a").status == 200
                self.answered[pid] += 1
        except (OSError, HTTPException):
            self.failed[pid] += 1


def counted(service: Service) -> int:
    """Return how many requests under ``/v1/`` the service has counted."""
    cache = service.stats()["cache"]
    return int(cache["hits"] + cache["misses"] + cache["coalesced"])


def test_worker_killed_under_load_loses_only_what_it_had_not_reported(serve: Serve) -> None:
    service = serve()
    connections = service.connection_to_each()
    victim, survivor = connections
    with WorkerLoad(connections) as load:
        eventually(lambda: min(load.answered[pid] for pid in connections) > 20)
    reported = sum(load.answered.values())
    eventually(lambda: counted(service) == reported)
    with WorkerLoad(connections) as last:
        eventually(lambda: min(last.answered[pid] for pid in connections) > 20)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: last.failed[victim])
        service.wait_for_workers(2)
        before = last.answered[survivor]
        eventually(lambda: last.answered[survivor] > before + 20)
    assert last.failed == {victim: 1}
    least = reported + last.answered[survivor]
    eventually(lambda: least <= counted(service) <= least + last.answered[victim] + 1)
    workers = service.stats()["workers"]
    assert (workers["restarts"], workers["lost_reports"]) == (1, 1)


FAILING_WORKER = """
import os, sys
if "goproxyai.worker" in sys.orig_argv and os.path.exists(os.environ["FAILURE"]):
    os._exit(3)
"""


def test_worker_that_can_no_longer_start_is_tried_later_and_later(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAILING_WORKER)
    failure = tmp_path / "failure"
    service = serve(
        PYTHONPATH=f"{tmp_path}{os.pathsep}{CHECKOUT}{os.pathsep}.", FAILURE=str(failure)
    )
    victim, survivor = service.pids()
    connection = service.connection_to(survivor)
    failure.touch()
    os.kill(victim, signal.SIGKILL)

    def delays() -> list[str]:
        lines = [line for line in service.process.messages("warn") if "ended" in line]
        return [line.rpartition("replaced")[2] for line in lines]

    eventually(lambda: len(delays()) >= 3)
    assert delays()[:3] == ["", " in 0.5 s", " in 1 s"]
    assert connection.ask("/v1/a").status == 200
    failure.unlink()
    assert survivor in service.wait_for_workers(2)
