"""Services on several "machines" that share a Redis server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.process.daemon_process import (
    FEW_CONNECTIONS,
    ON_LOOPBACK,
    DaemonProcess,
    command,
    eventually,
)
from tests.process.forked_process import CHECKOUT
from tests.process.worker_service import Service, Upstream
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, redis_server

SECRET = "the-secret-of-the-shared-state"

PATIENCE = Path(__file__).with_name("patience")

Serve = Callable[..., Service]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def serve(upstream: Upstream, redis: RedisServer, tmp_path: Path) -> Iterator[Serve]:
    """Start services with the shared state of :func:`redis`; kill them after the test."""
    with serving(tmp_path, upstream, redis) as served:
        yield served


@contextmanager
def serving(parent: Path, upstream: Upstream, redis: RedisServer) -> Iterator[Serve]:
    """Start services with directories in *parent*; kill them at the end.

    They wait for Redis as long as it takes, unless they are not ``patient``.
    """
    running: list[DaemonProcess] = []

    def served(patient: bool = True, **settings: str) -> Service:
        directory = parent / f"service-{len(running)}"
        directory.mkdir()
        settings = {
            "LISTEN": ON_LOOPBACK,
            "MAX_CONNECTIONS": FEW_CONNECTIONS,
            "OPENAI_API_URL": f"http://127.0.0.1:{upstream.server_port}",
            "STATE_URL": redis.url,
            "STATE_SECRET": SECRET,
            "RATE_LIMIT": "0",
            **settings,
        }
        if patient:
            settings["PYTHONPATH"] = os.pathsep.join((str(CHECKOUT), str(PATIENCE), "."))
        process = DaemonProcess(directory, command(), settings)
        running.append(process)
        (port,) = process.listening()
        return Service(process, port)

    try:
        yield served
    finally:
        for process in running:
            process.kill()


def state(service: Service) -> Any:
    """Return the shared state as ``/stats`` has it."""
    return service.stats()["state"]


def readiness(service: Service) -> Any:
    """Return the ``state`` of ``/health/ready``, which always answers 200."""
    answer = service.ask("/health/ready")
    assert answer.status == 200
    return answer.document["state"]


def until_state(service: Service, wanted: str) -> None:
    """Wait until all processes of *service* are in the state *wanted*."""
    eventually(lambda: state(service)["state"] == wanted)


def commands(service: Service, kind: str) -> dict[str, int]:
    """Return the number of commands of *kind* by result."""
    return dict(state(service)["commands"].get(kind, {}))


def is_master(server: RedisServer) -> bool:
    with suppress(OSError):  # the server closes connections when its role changes
        return bool(server.command("ROLE")[0] == b"master")
    return False


@contextmanager
def sentinel_of(directory: Path, master: RedisServer) -> Iterator[int]:
    """Run a Sentinel that decides alone, and return its port; the service is ``main``."""
    port = free_port()
    config = directory / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\n"
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n"
    )
    process = subprocess.Popen(
        ["redis-server", str(config), "--sentinel"], cwd=directory, stdout=subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.kill()
        process.wait()
