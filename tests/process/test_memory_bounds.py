"""What clients can make a daemon hold stays within the formula of docs/reference/limits.md.

One daemon suffers all attacks, one after the other. The peak of its resident memory is reset before
each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from tests.process.daemon_process import ON_LOOPBACK, DaemonProcess, command, eventually, get
from tests.support.attacks import MIB, Attackers, memory_of, reset_peak
from tests.support.memory_attacks import ATTACKS, CONNECTIONS, Attack
from tests.support.slow_upstream import slow_upstream

pytestmark = pytest.mark.process

CACHE_MIB, REQUEST_MIB = 20, 32
BYTES_PER_CONNECTION = 12 * 1024


@attrs.frozen
class Victim:
    """A daemon that is attacked.

    :ivar start: its resident memory in bytes after the start.
    """

    process: DaemonProcess
    port: int
    start: int

    def stats(self) -> Any:
        _, document = get(self.port, "/stats")
        return document

    def bound(self, connections: int) -> float:
        """Return the most that the resident memory may be."""
        return (
            self.start
            + 1.2 * CACHE_MIB * MIB
            + 1.5 * REQUEST_MIB * MIB
            + BYTES_PER_CONNECTION * connections
        )


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with slow_upstream() as upstream:
        settings = {
            "LISTEN": ON_LOOPBACK + ":backlog=1024",
            "OPENAI_API_URL": f"http://127.0.0.1:{upstream.port}",
            "MAX_CACHE_SIZE": str(CACHE_MIB),
            "MAX_REQUEST_MEMORY": str(REQUEST_MIB),
            "MAX_CONNECTIONS": str(CONNECTIONS + 100),
            "RATE_LIMIT": "0",
            "COALESCE": "all",
            "BREAKER": "0",
            "LOG_SAMPLE": "0",
        }
        process = DaemonProcess(tmp_path_factory.mktemp("victim"), command(), settings)
        try:
            (port,) = process.listening()
            get(port, "/v1/models")
            yield Victim(process, port, memory_of(process.pid))
        finally:
            process.kill()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_memory_is_bounded(victim: Victim, attack: Attack) -> None:
    reset_peak(victim.process.pid)
    with Attackers(victim.port) as attackers:
        attack(attackers)
        status, _ = get(victim.port, "/health/live")
        connections = len(attackers.sockets) + 2
    assert status == 200
    assert memory_of(victim.process.pid, "VmHWM") <= victim.bound(connections)

    def all_released() -> bool:
        stats = victim.stats()
        return bool(stats["connections"]["open"] == 1 and stats["request_memory"]["bytes"] == 0)

    eventually(all_released)
