"""Targets for client addresses from trusted proxies, the PROXY protocol, and ``NO_PROXY``.

The oracle of each is a second, simpler implementation.
"""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from goproxyai.limits.addresses import (
    LOCAL_PEER,
    MAX_FORWARDED_FOR_BYTES,
    MAX_FORWARDED_FOR_ENTRIES,
    Networks,
    TrustedProxies,
    bucket_key,
    canonical_address,
    client_address,
)
from goproxyai.messages.proxy_protocol import (
    MAX_V1_BYTES,
    MAX_V2_BYTES,
    ProxyHeader,
    ProxyHeaderError,
    SourceKind,
    parse_proxy_header,
)
from goproxyai.upstream.no_proxy import bypasses_proxy, parse_no_proxy
from tests.fuzz.texts import split_values
from tests.fuzz.work import clear_caches, linear

# Addresses.


def _address(text: str) -> str | None:
    """The normal form of the address in *text*; ``None`` if it is invalid."""
    if len(text) > 128:
        return None
    text = text.strip(" \t")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip(" \t")
    port = ""
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or "[" in text or (port and not port.startswith(":")):
            return None
        if port == ":":
            return None
        port = port[1:]
    elif text.count(":") == 1 and set(text.partition(":")[0]) <= set("0123456789."):
        text, _, port = text.partition(":")
        if not port:
            return None
    if port and (not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535):
        return None
    try:
        address = ip_address(text.partition("%")[0] if ip_address(text).version == 6 else text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def check_addresses(data: bytes) -> None:
    """Compare the client address from trusted proxies' headers with a simple implementation."""
    peer, trust, header = split_values(data, 3)
    text = peer.decode("latin-1")
    clear_caches()
    try:
        trusted = TrustedProxies.parse(trust.decode("latin-1"))
    except ValueError:
        trusted = TrustedProxies.parse("127.0.0.0/8, ::1")
    assert TrustedProxies.parse(str(trusted)) == trusted, "str() does not parse back"
    with linear(len(data)):
        client = client_address(text, header, trusted)
        bucket = bucket_key(client)
    peer_address = canonical_address(text)
    assert peer_address == _address(text), "the results for the peer differ"
    for value in header.split(b","):
        entry = value.decode("latin-1")
        assert canonical_address(entry) == _address(entry), "the results for an entry differ"
    if text != LOCAL_PEER:
        expected = text if peer_address is None else _client(peer_address, header, trusted)
        assert client == expected, "the results for the client differ"
    if peer_address is not None:
        assert canonical_address(client) == client, "the client's address is not in normal form"
        assert bucket == str(ip_network(client)).partition("/")[0] or "/64" in bucket
        forged = b"203.0.113.9, " + header
        if not trusted.contains(client) and len(forged) < MAX_FORWARDED_FOR_BYTES:
            if header.count(b",") < MAX_FORWARDED_FOR_ENTRIES - 1:
                assert client_address(text, forged, trusted) == client, "a forged entry is used"


def _client(peer: str, header: bytes, trusted: TrustedProxies) -> str:
    def is_trusted(address: str) -> bool:
        within = any(ip_address(address) in network for network in trusted.networks.networks)
        assert within == trusted.contains(address), "the results for membership differ"
        return within

    client = peer
    if not is_trusted(client):
        return client
    for entry in header[-MAX_FORWARDED_FOR_BYTES:].split(b",")[::-1][:MAX_FORWARDED_FOR_ENTRIES]:
        address = _address(entry.decode("latin-1").strip(" \t"))
        if address is None:
            return peer
        client = address
        if not is_trusted(address):
            break
    return client


ADDRESSES = (
    b"127.0.0.1\0127.0.0.0/8 ::1\0203.0.113.7, 127.0.0.1",
    b"::1\0::1/128,2001:db8::/32\0[2001:db8::1]:443, ::1",
    b"::ffff:10.0.0.1\0::ffff:10.0.0.0/104\0198.51.100.1:80", b"10.0.0.0/8", b"::/0", b"0.0.0.0/0",
    b"::ffff:0:0/96", b"fe80::1%eth0", b"1.2.3.4:5", b"[::1]", b"[::1]:65535", b":65536",
    b'"1.2.3.4"', b", ", b",", b"\0", b" ", b"\t", b"unknown", b"01.2.3.4", b"1.2.3", b"256.1.1.1",
    b"::", b"%", b"/33", b"/0",
)  # fmt: skip


# Hosts that bypass the egress proxy.


def check_noproxy(data: bytes) -> None:
    """Compare the matching of ``NO_PROXY`` with a simple implementation."""
    listed, host_bytes, number = split_values(data, 3)
    host, port = host_bytes.decode("latin-1"), len(number) * 77 % 65536
    clear_caches()
    try:
        with linear(len(data), base=5000):
            entries = parse_no_proxy(listed.decode("latin-1"))
    except ValueError:
        return
    assert parse_no_proxy(",".join(entries)) == entries, "the entries do not parse back"
    with linear(len(data) * 8, base=5000):
        found = bypasses_proxy(entries, host, port)
    assert found == any(_matches(entry.lower(), host, port) for entry in entries)


def _matches(entry: str, host: str, port: int) -> bool:
    host = host.lower().removesuffix(".")
    networks = None
    with suppress(ValueError):
        networks = Networks.parse(entry)
    if networks is None:
        head, colon, number = entry.rpartition(":")
        if colon and number.isdigit() and (head.startswith("[") or ":" not in head):
            if int(number) != port:
                return False
            entry = head
        with suppress(ValueError):
            networks = Networks.parse(entry.strip("[]"))
    if entry == "*":
        return True
    try:
        is_address = "%" not in str(ip_address(host))
    except ValueError:
        is_address = False
    if networks is not None:
        return is_address and networks.contains(host)
    if is_address:
        return False
    name = entry.removesuffix(".").removeprefix("*")
    labels, wanted = host.split("."), name.removeprefix(".").split(".")
    if labels[-len(wanted) :] != wanted:
        return False
    return len(labels) > len(wanted) or not name.startswith(".")


NOPROXY = (
    b"example.com,.example.org *.test\0www.example.com\0", b"*\0anything\0",
    b"10.0.0.0/8 [::1]:443\0010.1.2.3\0", b"::1,::ffff:10.0.0.0/104\0::1\0",
    b"localhost:77\0localhost\0a", b".", b"*.", b",", b" ", b":77", b"[", b"]", b"\0", b"a",
    b"192.0.2.1:77", b"xn--a", b"_", b"-", b"*", b"/8", b"::", b"%eth0",
)  # fmt: skip


# Headers of the PROXY protocol.

_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V1_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?|TCP([46]) (\S+) (\S+) ([0-9]+) ([0-9]+))\r\n"
)


def _header(data: bytes) -> ProxyHeader | str | None:
    """The header that *data* begins with; ``"invalid"``, or ``None`` if incomplete."""
    try:
        return parse_proxy_header(data)
    except ProxyHeaderError as error:
        return f"invalid: {error}"


def _announced(data: bytes) -> tuple[str, int]:
    """The address and port in the valid header that *data* begins with, by a simple reading."""
    if data.startswith(_V2):
        family, size = data[13] >> 4, int.from_bytes(data[14:16], "big")
        payload = data[16 : 16 + size]
        width = {1: 4, 2: 16}.get(family, 0)
        if data[12] == 0x20 or not width:
            return "", 0
        kind = IPv4Address if width == 4 else IPv6Address
        port = int.from_bytes(payload[2 * width : 2 * width + 2], "big")
        return str(canonical_address(str(kind(payload[:width])))), port
    match = _V1_LINE.match(data)
    assert match is not None, "not a header of version 1"
    if match[1] is None:
        return "", 0
    address = ip_address(match[2].decode())
    assert str(address.version) == match[1].decode(), "the family is another one"
    return str(canonical_address(match[2].decode())), int(match[4])


def check_proxy_protocol(data: bytes) -> None:
    """The header is bounded, ends where a simple reading says, and does not depend on the reads."""
    with linear(len(data)):
        whole = _header(data)
    results = [_header(data[:size]) for size in range(len(data) + 1)]
    first = next((size for size, result in enumerate(results) if result is not None), None)
    if not isinstance(whole, ProxyHeader):
        assert not any(isinstance(result, ProxyHeader) for result in results), "a header was lost"
        assert (whole is None) == (first is None), "the reads change the outcome"
        limit = MAX_V2_BYTES if data.startswith(_V2) else MAX_V1_BYTES
        assert whole is not None or len(data) < limit, "an incomplete header has no bound"
        return
    assert first == whole.length <= MAX_V2_BYTES, "the header ends elsewhere"
    assert all(result == whole for result in results[first:]), "later bytes change the header"
    assert (whole.address, whole.port) == _announced(data), "the results differ"
    assert bool(whole.address) == (whole.kind is SourceKind.ADDRESS)


PROXY_PROTOCOL = (
    b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n", b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n",
    b"PROXY UNKNOWN\r\n", b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b" ", b"\r\n", b"\r", b"\n",
    b"1.2.3.4 ", b"::ffff:1.2.3.4 ", b"::1 ", b"fe80::1%1 ", b"65535", b"65536", b"0", b"01",
    _V2, _V2 + b"\x20\0\0\0", _V2 + b"\x21\x11\0\x0c" + bytes(12), b"\x21", b"\x11", b"\x12",
    _V2 + b"\x21\x21\0\x24" + bytes(10) + b"\xff\xff" + bytes(24), b"\0\x0c", b"\x0f\xf0",
    b"\xff\xff", _V2 + b"\x21\x31\0\xd8" + bytes(216),
    _V2 + b"\x21\x11\0\x13" + bytes(12) + b"\3\0\4abcd",
    b"GET / HTTP/1.1\r\n", b"\x16\3\1",
)  # fmt: skip
