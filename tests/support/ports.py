"""Ports for processes under test."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_SYSTEM_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_PORTS = 10_000
"""How many ports the choice is made from."""

_random = random.SystemRandom()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is unused at the moment.

    The system gives it to no client: a process that is restarted while others connect would find
    its port taken.
    """
    lowest = int(_SYSTEM_RANGE.read_text().split()[0])
    while True:
        port = 0 if lowest < 2 * _PORTS else _random.randrange(lowest - _PORTS, lowest)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # in use
                continue
            return int(probe.getsockname()[1])
