"""The address at which the daemon of this machine answers health checks.

The texts of ``PORT``, ``LISTEN`` and ``ADMIN_LISTEN`` are parsed without the table of settings and
without Twisted, whose import would take most of the time of ``goproxyai health``. The daemon has
refused invalid texts when it started.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

DEFAULT_PORT = "8080"
DEFAULT_LISTEN = "tcp46:$PORT"

_TCP = {"tcp": "127.0.0.1", "tcp46": "127.0.0.1", "tcp6": "::1", "ssl": "127.0.0.1"}
"""The host of each kind of endpoint that listens on all addresses."""

_ALL_ADDRESSES = {"", "0.0.0.0", "::"}  # noqa: S104  # compared, not listened on
_SEPARATOR = re.compile(r"(?<!\\):")


@attrs.frozen
class LocalAddress:
    """An address to connect to.

    :ivar host: empty for a Unix socket.
    :ivar path: of the Unix socket.
    :ivar announced: whether the daemon expects a PROXY protocol header.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    tls: bool = False
    announced: bool = False

    def __str__(self) -> str:
        if not self.host:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def local_address(texts: Mapping[str, str]) -> LocalAddress | None:
    """Return the address that is the simplest to ask; ``None`` if no address is known.

    Sockets from systemd and free ports (``PORT=0``) have no known address.

    :param texts: settings by name.
    """
    port = texts.get("PORT", "").strip() or DEFAULT_PORT
    listen = (texts.get("LISTEN", "").strip() or DEFAULT_LISTEN).replace("$PORT", port)
    found = [_address(each) for each in (*listen.split(), *texts.get("ADMIN_LISTEN", "").split())]
    known = [each for each in found if each is not None]
    return min(known, key=lambda each: (each.announced, each.tls), default=None)


def _address(endpoint: str) -> LocalAddress | None:
    inner = endpoint.removeprefix("haproxy:")
    announced = inner != endpoint
    kind, *fields = [each.replace("\\", "") for each in _SEPARATOR.split(inner)]
    named = dict(each.partition("=")[::2] for each in fields if "=" in each)
    first = fields[0] if fields and "=" not in fields[0] else ""
    if kind == "unix":
        path = named.get("address", first)
        return LocalAddress(path=path, announced=announced) if path else None
    port = named.get("port", first)
    if kind not in _TCP or not port.isdecimal() or int(port) == 0:
        return None
    host = named.get("interface", "")
    return LocalAddress(
        host=_TCP[kind] if host in _ALL_ADDRESSES else host,
        port=int(port),
        tls=kind == "ssl",
        announced=announced,
    )
