"""The URL of the shared state: a Redis server, or Sentinels that know one.

======================================================  ==========================================
``redis://[user:password@]host[:port][/db]``            TCP
``rediss://…``                                          TLS
``unix://[user:password@]/path[?db=number]``            a Unix socket
``redis+sentinel://[…@]host[:port],…/service[/db]``     the master of *service*, from Sentinels
``rediss+sentinel://…``                                 the same; all connections use TLS
======================================================  ==========================================

An invalid URL raises ``ValueError``, which never contains the URL.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

import attrs

from goproxyai.config.urls import parse_host

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379

_MAX_CHARACTERS = 2048
_MAX_SENTINELS = 16
_MAX_DATABASE = 1_000_000

_NETWORK = re.compile(
    r"(?P<scheme>rediss?)(?P<sentinel>\+sentinel)?://(?:(?P<userinfo>[\x21-\x7e]*)@)?"
    r"(?P<hosts>[^/?#@]+)(?P<path>/[\x21-\x7e]*)?",
    re.IGNORECASE | re.ASCII,
)
_UNIX = re.compile(
    r"unix://(?:(?P<userinfo>[\x21-\x7e]*)@)?(?P<path>/[^?#@]+)(?:\?db=(?P<db>[0-9]{1,7}))?",
    re.IGNORECASE | re.ASCII,
)
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@attrs.frozen
class StateURL:
    """Where the shared state is.

    :ivar addresses: hosts and ports of the server, or of the Sentinels; empty for a Unix socket.
        Hosts are in lower case, IPv6 addresses have no brackets.
    :ivar socket: path of the Unix socket; empty for TCP.
    :ivar service: the name of the master that the Sentinels know; empty without Sentinels.
    :ivar secured: whether connections use TLS.
    :ivar database: number for ``SELECT``.
    :ivar username: percent-decoded; empty for the default user.
    :ivar password: percent-decoded; ``None`` without authentication.
    """

    addresses: tuple[tuple[str, int], ...]
    socket: str = ""
    service: str = ""
    secured: bool = False
    database: int = 0
    username: str = attrs.field(default="", repr=False)
    password: str | None = attrs.field(default=None, repr=False)

    @property
    def masked(self) -> str:
        """The URL as text, with ``***`` for the credentials."""
        userinfo = "" if self.password is None else "***:***@"
        if self.socket:
            suffix = f"?db={self.database}" if self.database else ""
            return f"unix://{userinfo}{self.socket}{suffix}"
        scheme = ("rediss" if self.secured else "redis") + ("+sentinel" if self.service else "")
        hosts = ",".join(
            [
                f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                for host, port in self.addresses
            ]
        )
        service = f"/{self.service}" if self.service else ""
        return f"{scheme}://{userinfo}{hosts}{service}/{self.database}"


def parse_state_url(text: str) -> StateURL | None:
    """Parse the URL of the shared state; ``None`` for an empty *text*.

    :raises ValueError: if *text* is no such URL.
    """
    if not text:
        return None
    if len(text) > _MAX_CHARACTERS:
        raise ValueError("too long")
    match = _UNIX.fullmatch(text)
    if match is not None:
        user, password = _credentials(match["userinfo"])
        path = unquote(match["path"], errors="strict")
        if _CONTROL.search(path):
            raise ValueError("a path with control characters")
        database = _database(match["db"] or "0")
        return StateURL((), path, database=database, username=user, password=password)
    match = _NETWORK.fullmatch(text)
    if match is None:
        raise ValueError("not a URL of a known scheme")
    user, password = _credentials(match["userinfo"])
    with_sentinel = match["sentinel"] is not None
    service, database = _service_and_database(match["path"] or "", with_sentinel)
    default_port = SENTINEL_PORT if with_sentinel else REDIS_PORT
    addresses = tuple([_address(each, default_port) for each in match["hosts"].split(",")])
    if len(addresses) > (_MAX_SENTINELS if with_sentinel else 1):
        raise ValueError("too many hosts")
    secured = match["scheme"].lower() == "rediss"
    return StateURL(addresses, "", service, secured, database, user, password)


def show_state_url(text: str) -> str:
    """Return a valid URL without its credentials."""
    url = parse_state_url(text)
    return "" if url is None else url.masked


def _service_and_database(path: str, with_sentinel: bool) -> tuple[str, int]:
    service = ""
    rest = path.removeprefix("/")
    if with_sentinel:
        quoted, _, rest = rest.partition("/")
        service = unquote(quoted, errors="strict")
        if not service or re.fullmatch(r"[\x21-\x7e]+", service) is None:
            raise ValueError("no name of a service")
    return service, _database(rest or "0")


def _database(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,7}", text) is None or int(text) > _MAX_DATABASE:
        raise ValueError("not the number of a database")
    return int(text)


def _address(text: str, default_port: int) -> tuple[str, int]:
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise ValueError("not a host and a port")
    port = int(match[2] or default_port)
    if not 0 < port <= 65535:
        raise ValueError("the port is out of range")
    return parse_host(match[1].lower()), port


def _credentials(userinfo: str | None) -> tuple[str, str | None]:
    """Return the user and the password of ``user:password`` or ``:password``."""
    if not userinfo:
        return "", None
    name, colon, word = userinfo.partition(":")
    if not colon or set(userinfo) & set("/?#\\@"):
        raise ValueError("not a user and a password")
    return unquote(name, errors="strict"), unquote(word, errors="strict")
