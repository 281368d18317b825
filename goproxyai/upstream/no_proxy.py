"""Which hosts are connected to without the egress proxy (``NO_PROXY``).

=================== =====================================================
entry               matches
=================== =====================================================
``*``               every host
``example.com``     the host and its subdomains
``.example.com``    the subdomains only; ``*.example.com`` is equivalent
``192.0.2.1``       the address, in any notation
``10.0.0.0/8``      the addresses of the network
``host:443``        any of the above on this port only; IPv6 in brackets
=================== =====================================================

The rules are those of Go's ``golang.org/x/net/http/httpproxy``, except that ``localhost`` is not an
implicit entry.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

import attrs

from goproxyai.limits.addresses import Networks

_NAME = re.compile(r"(?:\*?\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_WITH_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")


@attrs.frozen
class _Entry:
    """An entry.

    :ivar name: ``*``, a host name, or a suffix with a leading dot; unused if there are networks.
    :ivar networks: ``None`` for a name.
    :ivar port: ``None`` for any port.
    """

    name: str
    networks: Networks | None
    port: int | None


def parse_no_proxy(text: str) -> tuple[str, ...]:
    """Return the entries of ``NO_PROXY``, which are separated by commas or spaces.

    :raises ValueError: if an entry is invalid.
    """
    entries = tuple(text.replace(",", " ").split())
    for entry in entries:
        _entry(entry)
    return entries


def bypasses_proxy(no_proxy: tuple[str, ...], host: str, port: int) -> bool:
    """Whether connections to *host* and *port* bypass the egress proxy.

    :param no_proxy: returned by :func:`parse_no_proxy`.
    :param host: a name, or an address without brackets.
    """
    host = host.lower().removesuffix(".")
    address = _is_address(host)
    return any(_matches(_entry(entry), host, port, address) for entry in no_proxy)


def _matches(entry: _Entry, host: str, port: int, address: bool) -> bool:
    if entry.port is not None and entry.port != port:
        return False
    if entry.name == "*":
        return True
    if entry.networks is not None:
        return address and entry.networks.contains(host)
    if address:
        return False
    if entry.name.startswith("."):
        return host.endswith(entry.name)
    return host == entry.name or host.endswith("." + entry.name)


@lru_cache(256)
def _entry(text: str) -> _Entry:
    try:  # first, because the colons of an IPv6 address do not separate a port
        return _Entry("", Networks.parse(text), None)
    except ValueError:
        pass
    match = _WITH_PORT.fullmatch(text)
    if match is None or int(match.group(2) or 0) > 65535:
        raise ValueError(f"{text[:64]!r} is not a host")
    name = match.group(1).lower()
    port = None if match.group(2) is None else int(match.group(2))
    bare = name.strip("[]")
    if _is_address(bare):
        return _Entry("", Networks.parse(bare), port)
    if name != "*" and _NAME.fullmatch(name := name.removesuffix(".")) is None:
        raise ValueError(f"{text[:64]!r} is not a host")
    return _Entry(name.removeprefix("*") or "*", None, port)


def _is_address(text: str) -> bool:
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return False
    return "%" not in str(address)
