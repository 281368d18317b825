"""The compared proxies, and how each is started for a role.

The role is the task of the peer: to answer repeated requests from its cache (``CACHING``), to relay
small answers with its default settings (``RELAYING``), or to relay data immediately
(``STREAMING``). Rate limits are on, but high enough never to refuse a request.
"""

from __future__ import annotations

import dataclasses
import enum
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from bench.daemons import Command, Placement, nginx_command
from bench.machine import CHECKOUT, HERE, built
from bench.wrk import relays


class Role(enum.Enum):
    """The task of a peer."""

    CACHING = "caching"
    RELAYING = "relaying"
    STREAMING = "streaming"


@dataclasses.dataclass(frozen=True)
class Peer:
    """One column of the table.

    ``command`` is ``None`` for the upstream itself. ``ready`` is called with the port for at most
    ``timeout`` seconds. ``headers`` returns the headers that this peer needs, for the upstream's
    port. An ``optional`` peer that does not start is missing, not failed, and its answers may
    differ from the upstream's bytes.
    """

    name: str
    title: str
    command: Callable[[Placement, Role], Command] | None = None
    ready: Callable[[int], bool] = relays
    timeout: float = 20
    optional: bool = False
    headers: Callable[[int], dict[str, str]] = lambda _upstream: {}


def nginx(placement: Placement, role: Role) -> Command:
    """``proxy_pass``, with ``proxy_cache`` for hits and without buffering for streams."""
    values = {
        "PORT": str(placement.port),
        "UPSTREAM": str(placement.upstream),
        "CACHE": "completions" if role is Role.CACHING else "off",
        "BUFFERING": "off" if role is Role.STREAMING else "on",
        "FILES": str(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 17)),
    }
    return nginx_command(HERE / "conf" / "nginx.conf", values, placement.directory)


def original(placement: Placement, role: Role) -> Command:
    """The Go original, with or without its cache; it always reads an answer completely."""
    env = {"PORT": str(placement.port), "OPENAI_API_URL": placement.openai, "GOMAXPROCS": "1"}
    return Command([built("original")], env if role is Role.CACHING else {**env, "NOCACHE": "1"})


def stock(placement: Placement, role: Role) -> Command:
    """The same service built from stock Twisted; it also reads an answer completely."""
    env = {"PORT": str(placement.port), "OPENAI_API_URL": placement.openai}
    argv = [sys.executable, "-m", "bench.stock"]
    return Command(argv, env if role is Role.CACHING else {**env, "NOCACHE": "1"})


def goproxyai(placement: Placement, role: Role, level: str = "warn", **settings: str) -> Command:
    """This checkout, with the twistd of the interpreter that runs the benchmark."""
    twistd = Path(sys.executable).with_name("twistd")
    argv = [str(twistd), "--nodaemon", "--pidfile=", f"--logfile={placement.directory / 'log'}"]
    env = {
        "LISTEN": f"tcp:{placement.port}:interface=127.0.0.1:backlog=4096",
        "OPENAI_API_URL": placement.openai,
        "RATE_LIMIT": "10000000",
        "LOG_LEVEL": level,
        "CACHE_TTL": "1h" if role is Role.CACHING else "0",
        "PYTHONPATH": str(CHECKOUT),  # takes precedence over an installed goproxyai
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
        Peer(
            "info", "goproxyai, logging", lambda placement, role: goproxyai(placement, role, "info")
        ),
    )
}
