"""What is compared, and how each peer is started for a role.

A role says what the peer has to do: answer repeats from its cache (``CACHING``), relay small
answers as it would by default (``RELAYING``), or pass on what comes as it comes (``STREAMING``).
Every rate limit is on, at a limit that is never reached.
"""

from __future__ import annotations

import dataclasses
import enum
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from bench.daemons import Command, OwnerBucket, nginx_command
from bench.machine import CHECKOUT, HERE, built
from bench.wrk import relays


class Role(enum.Enum):
    """What a peer is started for."""

    CACHING = "caching"
    RELAYING = "relaying"
    STREAMING = "streaming"


@dataclasses.dataclass(frozen=True)
class Peer:
    """One column of the table.

    ``command`` is none for the upstream itself. ``ready`` is asked with the port, for
    ``patience`` seconds. ``headers`` are those that this peer wants, with its upstream's port.
    An ``optional`` peer that does not start is absent, not failed, and its answers need not be
    upstream's, byte for byte.
    """

    name: str
    title: str
    command: Callable[[OwnerBucket, Role], Command] | None = None
    ready: Callable[[int], bool] = relays
    patience: float = 20
    optional: bool = False
    headers: Callable[[int], dict[str, str]] = lambda _upstream: {}


def nginx(place: OwnerBucket, role: Role) -> Command:
    """``proxy_pass``, with ``proxy_cache`` for hits and without buffering for streams."""
    values = {
        "PORT": str(place.port),
        "UPSTREAM": str(place.upstream),
        "CACHE": "completions" if role is Role.CACHING else "off",
        "BUFFERING": "off" if role is Role.STREAMING else "on",
        "FILES": str(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 17)),
    }
    return nginx_command(HERE / "conf" / "nginx.conf", values, place.directory)


def original(place: OwnerBucket, role: Role) -> Command:
    """The Go original, with or without its cache; it always reads an answer whole."""
    env = {"PORT": str(place.port), "OPENAI_API_URL": place.openai, "GOMAXPROCS": "1"}
    return Command([built("original")], env if role is Role.CACHING else {**env, "NOCACHE": "1"})


def stock(place: OwnerBucket, role: Role) -> Command:
    """The same service as Twisted's own parts make it; it too reads an answer whole."""
    env = {"PORT": str(place.port), "OPENAI_API_URL": place.openai}
    argv = [sys.executable, "-m", "bench.stock"]
    return Command(argv, env if role is Role.CACHING else {**env, "NOCACHE": "1"})


def goproxyai(place: OwnerBucket, role: Role, level: str = "warn", **settings: str) -> Command:
    """This checkout, under the twistd beside the interpreter that runs the bench."""
    twistd = Path(sys.executable).with_name("twistd")
    argv = [str(twistd), "--nodaemon", "--pidfile=", f"--logfile={place.directory / 'log'}"]
    env = {
        "LISTEN": f"tcp:{place.port}:interface=127.0.0.1:backlog=4096",
        "OPENAI_API_URL": place.openai,
        "RATE_LIMIT": "10000000",
        "LOG_LEVEL": level,
        "CACHE_TTL": "1h" if role is Role.CACHING else "0",
        "PYTHONPATH": str(CHECKOUT),  # even where another goproxyai is installed
    }
    return Command([*argv, "goproxyai"], {**env, **settings})


PEERS = {
    peer.name: peer
    for peer in (
        Peer("direct", "no proxy"),
        Peer("nginx", "nginx", nginx),
        Peer("original", "Go original", original),
        Peer("stock", "stock Twisted", stock),
        Peer("goproxyai", "goproxyai", goproxyai),
        Peer("info", "goproxyai, logging", lambda place, role: goproxyai(place, role, "info")),
    )
}
