"""Who is asking: addresses, networks, and the client behind trusted proxies.

1. An address is compared in its canonical text; an IPv4-mapped IPv6 address *is* the IPv4 address.
2. Only a peer in the trusted networks may speak for another address, and ``X-Forwarded-For`` is
   then read from the right: what stands left of the first untrusted entry is hearsay.
3. An entry that is no address (an empty one, ``unknown``) ends the search; the peer is the client.
4. The work is bounded whatever a header holds: at most :data:`MAX_FORWARDED_FOR_ENTRIES` entries of the last
   :data:`MAX_FORWARDED_FOR_BYTES` bytes are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import attrs

MAX_FORWARDED_FOR_BYTES = 8 * 1024
"""Bytes of ``X-Forwarded-For``, from its end, that are looked at."""

MAX_FORWARDED_FOR_ENTRIES = 64
"""Entries of ``X-Forwarded-For``, from its end, that are looked at."""

_LONGEST_ADDRESS = 128  # characters; a scoped IPv6 address in brackets with a port fits easily
_REMEMBERED = 16 * 1024
_IPV4 = re.compile(r"([0-9.]+)(?::([0-9]{1,5}))?")
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::([0-9]{1,5}))?")
_NETWORK = re.compile(r"([0-9A-Fa-f.:]+)(?:/([0-9]{1,3}))?")

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_CANONICAL = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}")  # IPv4, as nearly all are

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network


def canonical_address(text: str) -> str | None:
    """The canonical text of the address in *text*, ``None`` where there is none.

    Surrounding spaces and quotes, brackets, a port and a zone are left out, and an IPv4-mapped
    address is written as the IPv4 address that it is.
    """
    if _CANONICAL.fullmatch(text) is not None:
        return text
    if len(text) > _LONGEST_ADDRESS:
        return None  # not looked up either: a long key would stay in memory
    return _normal_address(text)


@lru_cache(_REMEMBERED)
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
        return _plain(ip_address(host))
    except ValueError:
        return None


def _plain(address: _Address) -> _Address:
    """*address* without its zone, and IPv4 where it is mapped."""
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def _parsed_network(text: str) -> _Network:
    if _NETWORK.fullmatch(text) is None:  # no zones, no netmasks in dotted form
        raise ValueError(f"{text[:64]!r} is neither an address nor a network")
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _judge(networks: tuple[_Network, ...]) -> Callable[[str], bool]:
    def judged(text: str) -> bool:
        address = _parsed(text)
        return address is not None and any(address in network for network in networks)

    return lru_cache(_REMEMBERED)(judged)


@attrs.frozen
class Networks:
    """A set of IP networks, such as those of trusted proxies.

    An IPv4-mapped network is the IPv4 network; ``::/0`` holds no IPv4 address.
    """

    networks: tuple[_Network, ...] = ()
    _judged: Callable[[str], bool] = attrs.field(
        init=False,
        eq=False,
        repr=False,
        default=attrs.Factory(lambda self: _judge(self.networks), takes_self=True),
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
        """The networks in *text*, separated by commas or spaces; a bare address is one of its own.

        :raises ValueError: where one of them is neither, or has bits set behind its prefix.
        """
        return cls(tuple(_parsed_network(part) for part in text.replace(",", " ").split()))

    def contains(self, address: str) -> bool:
        """Whether *address* is in one of the networks; false for what is no address."""
        if _CANONICAL.fullmatch(address) is not None:
            first, second, third, fourth = map(int, address.split("."))
            number = first << 24 | second << 16 | third << 8 | fourth
            return any(number & mask == network for network, mask in self._ipv4)
        return len(address) <= _LONGEST_ADDRESS and self._judged(address)

    def __str__(self) -> str:
        return " ".join(str(network) for network in self.networks)


def client_address(peer: str, forwarded_for: bytes | None, trusted: Networks) -> str:
    """The address that a request is accounted to, canonical; *peer* itself where it is no address.

    :param peer: the connection's other end.
    :param forwarded_for: ``X-Forwarded-For``, repeated lines joined with ``", "``.
    :param trusted: the proxies whose word counts.
    """
    here = canonical_address(peer)
    if here is None:
        return peer
    if forwarded_for is None or not trusted.contains(here):
        return here
    client = here
    for entry in _from_the_right(forwarded_for):
        address = canonical_address(entry)
        if address is None:
            return here
        client = address
        if not trusted.contains(client):
            break
    return client


def _from_the_right(forwarded_for: bytes) -> list[str]:
    """The last entries of the header, the rightmost first; never one that is cut."""
    window = forwarded_for[-MAX_FORWARDED_FOR_BYTES:]
    entries = window.rsplit(b",", MAX_FORWARDED_FOR_ENTRIES)
    if len(entries) > MAX_FORWARDED_FOR_ENTRIES or len(window) < len(forwarded_for):
        del entries[0]  # the rest, or one that may have lost its beginning
    return [entry.strip(b" \t").decode("latin-1") for entry in reversed(entries)]


@lru_cache(_REMEMBERED)
def bucket_key(address: str) -> str:
    """Which token bucket *address* draws from.

    An IPv6 client owns a /64 (RFC 6177), so that is what is limited; an IPv4 address stands for
    itself; what is no address, such as the peer on a unix socket, is ``local``.
    """
    if _CANONICAL.fullmatch(address) is not None:
        return address
    parsed = _parsed(address)
    if parsed is None:
        return "local"
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    return str(IPv6Network((parsed, 64), strict=False))
