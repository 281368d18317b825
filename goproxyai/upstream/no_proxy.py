"""Which hosts are connected to without the egress proxy (``NO_PROXY``).

========================== ======================================================
entry                      matches
========================== ======================================================
``*``                      every host
``example.com``            the host and its subdomains
``.example.com``           the subdomains only; ``*.example.com`` is equivalent
``api-*.example.com``      the hosts with any text in place of ``*``
``<local>``                the names without a dot
``192.0.2.1``              the address, in any notation
``10.0.0.0/8``             the addresses of the network; ``10.*`` is equivalent
``host:443``               any of the above on this port only; IPv6 in brackets
``http://host:443/``       as ``host:443``
========================== ======================================================

Names, suffixes, addresses and networks have the rules of Go's
``golang.org/x/net/http/httpproxy``, except that ``localhost`` is not an implicit entry. The other
entries are in use elsewhere: with Java, with Windows, or by mistake.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import attrs

from goproxyai.limits.addresses import Networks

_ENTRIES = re.compile(r"""[^\s,;|"']+""")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
_WITH_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}|\*)?)?")
_IPV4_PREFIX = re.compile(r"((?:[0-9]{1,3}\.){1,3})\*(?:\.\*)*")
_NAME = re.compile(r"\.?[a-z0-9_*-]+(?:\.[a-z0-9_*-]+)*")
_NUMERIC = re.compile(r"(?:.*\.)?[0-9]+|[0-9*.]+\*")  # resembles a part of an IPv4 address

_LOCAL = "<local>"


@attrs.frozen
class _Entry:
    """An entry.

    :ivar name: ``*``, ``<local>``, a host name, a suffix with a leading dot, or a pattern with
        ``*``; unused if there are networks.
    :ivar networks: ``None`` for a name.
    :ivar port: ``None`` for any port.
    """

    name: str
    networks: Networks | None
    port: int | None


def parse_no_proxy(text: str) -> tuple[str, ...]:
    """Return the valid entries of ``NO_PROXY``.

    Entries are separated by white space, ``,``, ``;`` or ``|``. Quotation marks are ignored.
    """
    return tuple(entry for entry in _ENTRIES.findall(text) if _entry(entry) is not None)


def invalid_entries(text: str) -> tuple[str, ...]:
    """Return the entries of ``NO_PROXY`` that :func:`parse_no_proxy` skips."""
    return tuple(entry for entry in _ENTRIES.findall(text) if _entry(entry) is None)


def bypasses_proxy(no_proxy: tuple[str, ...], host: str, port: int) -> bool:
    """Whether connections to *host* and *port* bypass the egress proxy.

    :param no_proxy: returned by :func:`parse_no_proxy`.
    :param host: a name, or an address without brackets.
    """
    host = host.lower().removesuffix(".")
    address = _is_address(host)
    entries = map(_entry, no_proxy)
    return any(entry is not None and _matches(entry, host, port, address) for entry in entries)


def _matches(entry: _Entry, host: str, port: int, address: bool) -> bool:
    name = entry.name
    if entry.port is not None and entry.port != port:
        return False
    if name == "*":
        return True
    if entry.networks is not None:
        return address and entry.networks.contains(host)
    if address:
        return False
    if name == _LOCAL:
        return "." not in host
    if "*" in name:
        return fnmatchcase(host, name)
    if name.startswith("."):
        return host.endswith(name)
    return host == name or host.endswith("." + name)


@lru_cache(256)
def _entry(text: str) -> _Entry | None:
    """Parse an entry; ``None`` if it is invalid."""
    if not text.isascii() or "%" in text:
        return None
    text = _without_url_syntax(text.lower())
    networks = _networks(text)  # first, because the colons of an IPv6 address separate no port
    if networks is not None:
        return _Entry("", networks, None)
    match = _WITH_PORT.fullmatch(text)
    if match is None:
        return None
    host, port = match[1], None if match[2] in (None, "", "*") else int(match[2])
    if port is not None and not 0 < port <= 65535:
        return None
    networks = _networks(host)
    if networks is not None:
        return _Entry("", networks, port)
    name = host.removesuffix(".")
    if name.startswith("*.") and "*" not in name[1:]:
        name = name[1:]
    if name in ("*", _LOCAL) or (_NAME.fullmatch(name) and not _NUMERIC.fullmatch(name)):
        return _Entry(name, None, port)
    return None


def _without_url_syntax(text: str) -> str:
    """Return *text* without scheme and path, if it is a URL, and without a slash at the end."""
    scheme = _SCHEME.match(text)
    if scheme is not None:
        return text[scheme.end() :].partition("/")[0]
    return text.removesuffix("/")


def _networks(text: str) -> Networks | None:
    """Return the network or address in *text*, with or without brackets, if there is one."""
    if text.startswith("[") and text.count("]") == 1:  # [::1], [fd00::]/8 or [fd00::/8]
        address, _, rest = text[1:].partition("]")
        text = address + rest if rest.startswith("/") or not rest else ""
    prefix = _IPV4_PREFIX.fullmatch(text)
    if prefix is not None and text.count(".") <= 3:  # 10.* or 10.*.*.*
        octets = prefix[1].count(".")
        text = f"{prefix[1]}{'0.' * (3 - octets)}0/{8 * octets}"
    try:
        return Networks.parse(str(ip_network(text, strict=False)))
    except ValueError:
        return None


def _is_address(text: str) -> bool:
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return False
    return "%" not in str(address)
