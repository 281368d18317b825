"""The compared proxies, and how each is started for a role.

The role is the task of the peer: to answer repeated requests from its cache (``CACHING``), to relay
small answers with its default settings (``RELAYING``), or to relay data immediately
(``STREAMING``). Rate limits are on, but high enough never to refuse a request. goproxyai logs each
request, as by default.
"""

from __future__ import annotations

import dataclasses
import enum
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from bench.daemons import Command, Placement, nginx_command
from bench.machine import CHECKOUT, DAEMON_CORE, HERE, built
from bench.wrk import relays


class Role(enum.Enum):
    """The task of a peer."""

    CACHING = "caching"
    RELAYING = "relaying"
    STREAMING = "streaming"


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a daemon is started for.

    ``upstream`` is the kind of upstream: ``fixed`` or ``gauge``. ``tls`` is whether the connections
    to it have TLS, ``front`` whether those of the clients have it. With ``egress``, a CONNECT proxy
    is between the daemon and the upstream. ``workers`` run on ``core``, which may be a list.
    """

    role: Role
    upstream: str = "fixed"
    tls: bool = True
    front: bool = False
    egress: bool = False
    workers: int = 1
    core: str = DAEMON_CORE


@dataclasses.dataclass(frozen=True)
class Peer:
    """One column of the table.

    ``command`` is ``None`` for the upstream itself. ``ready`` is called with the port for at most
    ``timeout`` seconds. ``headers`` returns the headers that this peer needs, for the upstream's
    URL. An ``optional`` peer that does not start is missing, not failed, and its answers may
    differ from the upstream's bytes.
    """

    name: str
    title: str
    command: Callable[[Placement, Role], Command] | None = None
    ready: Callable[[int], bool] = relays
    timeout: float = 20
    optional: bool = False
    headers: Callable[[str], dict[str, str]] = lambda _upstream: {}


def nginx(placement: Placement, role: Role) -> Command:
    """``proxy_pass``, with ``proxy_cache`` for hits and without buffering for streams."""
    values = {
        "LISTEN": " ".join(
            [
                str(placement.port),
                *(["ssl"] if placement.front else []),
                # Otherwise, one worker may accept nearly all connections.
                *(["reuseport"] if placement.workers > 1 else []),
            ]
        ),
        "TLS": nginx_certificate(placement) if placement.front else "",
        "SCHEME": "https" if placement.tls else "http",
        "ROOT": nginx_root(placement) if placement.tls else "",
        "UPSTREAM": str(placement.upstream),
        "WORKERS": str(placement.workers),
        "CACHE": "completions" if role is Role.CACHING else "off",
        "BUFFERING": "off" if role is Role.STREAMING else "on",
        "FILES": str(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 17)),
    }
    return nginx_command(HERE / "conf" / "nginx.conf", values, placement.directory)


def nginx_certificate(placement: Placement) -> str:
    """The directives for a listener with TLS."""
    files = placement.files
    return f"ssl_certificate {files.certificate}; ssl_certificate_key {files.key};"


def nginx_root(placement: Placement) -> str:
    """The directives that verify the certificate of the upstream."""
    return f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {placement.files.root};"


def original(placement: Placement, role: Role) -> Command:
    """The Go original, with or without its cache; it always reads an answer completely."""
    env = {
        "PORT": str(placement.port),
        "OPENAI_API_URL": placement.openai,
        "GOMAXPROCS": str(placement.workers),
        **placement.env,
        **egress(placement),
    }
    argv = [built("original")]
    if placement.front:
        argv += ["-cert", str(placement.files.certificate), "-key", str(placement.files.key)]
    return Command(argv, env if role is Role.CACHING else {**env, "NOCACHE": "1"})


def egress(placement: Placement) -> dict[str, str]:
    """The variable of the Go original and of goproxyai for a CONNECT proxy."""
    return {"PROXY_URL": f"http://127.0.0.1:{placement.egress}"} if placement.egress else {}


def stock(placement: Placement, role: Role) -> Command:
    """The same service built from stock Twisted; it also reads an answer completely."""
    env = {"PORT": str(placement.port), "OPENAI_API_URL": placement.openai, **placement.env}
    argv = [sys.executable, "-m", "bench.stock"]
    return Command(argv, env if role is Role.CACHING else {**env, "NOCACHE": "1"})


def goproxyai(placement: Placement, role: Role, level: str = "info", **settings: str) -> Command:
    """This checkout, with the twistd of the interpreter that runs the benchmark."""
    twistd = Path(sys.executable).with_name("twistd")
    argv = [str(twistd), "--nodaemon", "--pidfile=", f"--logfile={placement.directory / 'log'}"]
    listen = f"tcp:{placement.port}"
    if placement.front:
        files = placement.files
        listen = f"ssl:{placement.port}:privateKey={files.key}:certKey={files.certificate}"
    env = {
        "LISTEN": f"{listen}:interface=127.0.0.1:backlog=4096",
        "OPENAI_API_URL": placement.openai,
        "RATE_LIMIT": "10000000",
        "LOG_LEVEL": level,
        "CACHE_TTL": "1h" if role is Role.CACHING else "0",
        "WORKERS": str(placement.workers),
        "PYTHONPATH": str(CHECKOUT),  # takes precedence over an installed goproxyai
        **placement.env,
        **egress(placement),
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
            "quiet",
            "goproxyai, no request log",
            lambda placement, role: goproxyai(placement, role, "warn"),
        ),
    )
}
