"""IP addresses and networks, and the client address behind trusted proxies.

1. Addresses are compared in their canonical text. An IPv4-mapped IPv6 address equals the IPv4
   address.
2. ``X-Forwarded-For`` is used only if the peer is a trusted proxy. It is read from the right up to
   the first untrusted address: entries to the left of it can be forged.
3. If an entry is not an address (empty, ``unknown``), the peer is the client.
4. The work is bounded: at most :data:`MAX_FORWARDED_FOR_ENTRIES` entries of the last
   :data:`MAX_FORWARDED_FOR_BYTES` bytes are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import attrs

LOCAL_PEER = "local"
"""The peer of a connection without an IP address, such as one over a Unix socket."""

MAX_FORWARDED_FOR_BYTES = 8 * 1024
"""Bytes at the end of ``X-Forwarded-For`` that are read."""

MAX_FORWARDED_FOR_ENTRIES = 64
"""Entries at the end of ``X-Forwarded-For`` that are read."""

_UNIX = "unix"  # in TRUSTED_PROXIES
_MAX_ADDRESS_CHARACTERS = 128  # more than a scoped IPv6 address in brackets with a port has
_CACHE_SIZE = 16 * 1024
_IPV4 = re.compile(r"([0-9.]+)(?::([0-9]{1,5}))?")
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::([0-9]{1,5}))?")
_NETWORK = re.compile(r"([0-9A-Fa-f.:]+)(?:/([0-9]{1,3}))?")

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_CANONICAL_IPV4 = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}")  # most addresses

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network


def canonical_address(text: str) -> str | None:
    """Return the canonical text of the address in *text*; ``None`` if there is no address.

    Surrounding spaces and quotes, brackets, a port and a zone are removed. An IPv4-mapped address
    becomes the IPv4 address.
    """
    if _CANONICAL_IPV4.fullmatch(text) is not None:
        return text
    if len(text) > _MAX_ADDRESS_CHARACTERS:
        return None  # and is not cached: a long text would stay in memory
    return _normal_address(text)


@lru_cache(_CACHE_SIZE)
def _normal_address(text: str) -> str | None:
    address = _parsed(text)
    return None if address is None else str(address)


def _parsed(text: str) -> _Address | None:
    text = text.strip(" \t")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip(" \t")
    match = _BRACKETED.fullmatch(text) or _IPV4.fullmatch(text)
    host, port = (text, None) if match is None else match.groups()
    if port is not None and int(port) > 65535:
        return None
    try:
        return _unmapped(ip_address(host))
    except ValueError:
        return None


def _unmapped(address: _Address) -> _Address:
    """Return *address* without a zone, and as IPv4 if it is IPv4-mapped."""
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def _parsed_network(text: str) -> _Network:
    if _NETWORK.fullmatch(text) is None:  # zones and dotted netmasks are invalid
        raise ValueError(f"{text[:64]!r} is neither an address nor a network")
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _cached_membership(networks: tuple[_Network, ...]) -> Callable[[str], bool]:
    def contains(text: str) -> bool:
        address = _parsed(text)
        return address is not None and any(address in network for network in networks)

    return lru_cache(_CACHE_SIZE)(contains)


@attrs.frozen
class Networks:
    """A set of IP networks.

    An IPv4-mapped network equals the IPv4 network; ``::/0`` contains no IPv4 address.
    """

    networks: tuple[_Network, ...] = ()
    _contains: Callable[[str], bool] = attrs.field(
        init=False,
        eq=False,
        repr=False,
        default=attrs.Factory(lambda self: _cached_membership(self.networks), takes_self=True),
    )

    _ipv4: tuple[tuple[int, int], ...] = attrs.field(
        init=False,
        eq=False,
        repr=False,
        default=attrs.Factory(
            lambda self: tuple(
                (int(network.network_address), int(network.netmask))
                for network in self.networks
                if isinstance(network, IPv4Network)
            ),
            takes_self=True,
        ),
    )

    @classmethod
    def parse(cls, text: str) -> Networks:
        """Parse networks, separated by commas or spaces; a single address is a network too.

        :raises ValueError: if a part is invalid or has host bits set.
        """
        return cls(tuple(_parsed_network(part) for part in text.replace(",", " ").split()))

    def contains(self, address: str) -> bool:
        """Whether *address* is in one of the networks; ``False`` if it is not an address."""
        if _CANONICAL_IPV4.fullmatch(address) is not None:
            first, second, third, fourth = map(int, address.split("."))
            number = first << 24 | second << 16 | third << 8 | fourth
            return any(number & mask == network for network, mask in self._ipv4)
        return len(address) <= _MAX_ADDRESS_CHARACTERS and self._contains(address)

    def __str__(self) -> str:
        return " ".join(str(network) for network in self.networks)


@attrs.frozen
class TrustedProxies:
    """The peers whose ``X-Forwarded-For`` is trusted.

    :ivar unix: whether the peers of Unix sockets are trusted.
    """

    networks: Networks = attrs.field(factory=Networks)
    unix: bool = False

    @classmethod
    def parse(cls, text: str) -> TrustedProxies:
        """Parse networks and the word ``unix``, separated by commas or spaces.

        :raises ValueError: as :meth:`Networks.parse`.
        """
        parts = text.replace(",", " ").split()
        networks = [part for part in parts if part != _UNIX]
        return cls(Networks.parse(" ".join(networks)), len(networks) < len(parts))

    def contains(self, peer: str) -> bool:
        """Whether *peer*, an address or :data:`LOCAL_PEER`, is a trusted proxy."""
        return self.networks.contains(peer) or (self.unix and peer == LOCAL_PEER)

    def __str__(self) -> str:
        networks = str(self.networks)
        return f"{networks} {_UNIX}".strip() if self.unix else networks


def client_address(peer: str, forwarded_for: bytes | None, trusted: TrustedProxies) -> str:
    """Return the canonical address of the client, for limits and logs.

    :param peer: the peer of the connection; returned as it is if it is not an address.
    :param forwarded_for: ``X-Forwarded-For``; the values of repeated lines are joined with ``, ``.
    """
    peer_address = canonical_address(peer) or peer
    if forwarded_for is None or not trusted.contains(peer_address):
        return peer_address
    client = peer_address
    for entry in _entries_from_the_right(forwarded_for):
        address = canonical_address(entry)
        if address is None:
            return peer_address
        client = address
        if not trusted.contains(client):
            break
    return client


PRIVATE_NETWORKS: Final = Networks.parse(
    "127.0.0.0/8 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 169.254.0.0/16 100.64.0.0/10 "
    "::1/128 fc00::/7 fe80::/10"
)
"""Addresses that are not reachable from the Internet (RFC 1918, 3927, 4193, 4291, 6598)."""


def is_private(peer: str) -> bool:
    """Whether *peer* is a private address or the peer of a Unix socket."""
    return peer == LOCAL_PEER or PRIVATE_NETWORKS.contains(peer)


def _entries_from_the_right(forwarded_for: bytes) -> list[str]:
    """Return the last entries, rightmost first, without an entry that is cut off."""
    window = forwarded_for[-MAX_FORWARDED_FOR_BYTES:]
    entries = window.rsplit(b",", MAX_FORWARDED_FOR_ENTRIES)
    if len(entries) > MAX_FORWARDED_FOR_ENTRIES or len(window) < len(forwarded_for):
        del entries[0]  # the unread entries, or an entry whose beginning may be cut off
    return [entry.strip(b" \t").decode("latin-1") for entry in reversed(entries)]


@lru_cache(_CACHE_SIZE)
def bucket_key(address: str) -> str:
    """Return the key of the token bucket of *address*.

    An IPv6 client owns a /64 (RFC 6177), so that the /64 is the key. An IPv4 address is its own
    key. The key is :data:`LOCAL_PEER` if *address* is not an address, as on a Unix socket.
    """
    if _CANONICAL_IPV4.fullmatch(address) is not None:
        return address
    parsed = _parsed(address)
    if parsed is None:
        return LOCAL_PEER
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    return str(IPv6Network((parsed, 64), strict=False))
