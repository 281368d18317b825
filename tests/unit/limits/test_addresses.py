"""Addresses, networks and the client behind trusted proxies."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.limits.addresses import (
    LOCAL_PEER,
    MAX_FORWARDED_FOR_BYTES,
    MAX_FORWARDED_FOR_ENTRIES,
    Networks,
    TrustedProxies,
    bucket_key,
    canonical_address,
    client_address,
    is_private,
)

EMPTY = TrustedProxies()
PRIVATE = TrustedProxies.parse("10.0.0.0/8 ::1 fd00::/8")

v4 = st.ip_addresses(v=4).map(str)
v6 = st.ip_addresses(v=6).map(str).filter(lambda text: IPv6Address(text).ipv4_mapped is None)
outsiders = st.integers(0xCB007100, 0xCB0071FF).map(lambda number: str(IPv4Address(number)))
insiders = st.integers(0x0A000000, 0x0AFFFFFF).map(lambda number: str(IPv4Address(number)))


def joined(*entries: str) -> bytes:
    return ", ".join(entries).encode("latin-1")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:567", "192.0.2.1"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:8080", "192.0.2.1"),
        ("::FFFF:C000:0201", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:443", "fe80::1"),
        ("  192.0.2.1\t", "192.0.2.1"),
        ('"[2001:db8::1]:4711"', "2001:db8::1"),
        ('" 192.0.2.1 "', "192.0.2.1"),
    ],
)
def test_canonical_address_of_each_notation(text: str, address: str) -> None:
    assert canonical_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        '"',
        '""',
        "unknown",
        "_hidden",
        "localhost",
        "1",
        "3232235777",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.01",
        "192.0.2.1:",
        "192.0.2.1:65536",
        "192.0.2.1:http",
        "192.0.2.1%eth0",
        "192.0.2.1/32",
        "[::1",
        "::1]",
        "[[::1]]",
        "[::1]:",
        "[::1]80",
        "[]:80",
        "1::2::3",
        "\u0661.2.3.4",
        "::1" + "%" + "z" * 200,
        "192.0.2.1, 192.0.2.2",
    ],
)
def test_invalid_text_has_no_canonical_address(text: str) -> None:
    assert canonical_address(text) is None


@given(v4 | v6)
def test_canonical_address_is_unchanged(address: str) -> None:
    assert canonical_address(address) == address
    assert canonical_address(f" {address} ") == address


@given(st.ip_addresses(v=6), st.integers(0, 65535))
def test_brackets_and_ports_are_removed(address: IPv6Address, port: int) -> None:
    assert canonical_address(f"[{address}]:{port}") == canonical_address(str(address))


@given(st.text(max_size=200))
def test_any_text_has_canonical_address_or_none(text: str) -> None:
    found = canonical_address(text)
    assert found is None or str(ip_address(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0/33",
        "10.0.0.1/8",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "fe80::1%eth0",
        "localhost",
        "10.0.0.0/8;::1",
        "[::1]",
        "10.0.0.1:80",
    ],
)
def test_invalid_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"network|host bits"):
        Networks.parse(f"127.0.0.1 {text}")


def test_networks_are_separated_by_commas_or_spaces() -> None:
    expected = "10.0.0.0/8 ::1/128 192.0.2.1/32"
    for text in ("10.0.0.0/8, ::1,192.0.2.1", "10.0.0.0/8 ::1\t192.0.2.1", expected):
        assert str(Networks.parse(text)) == expected
        assert Networks.parse(text) == Networks.parse(expected)
        assert hash(Networks.parse(text)) == hash(Networks.parse(expected))


def test_empty_networks_contain_nothing() -> None:
    assert Networks.parse("") == Networks.parse(" , ") == EMPTY.networks
    assert not EMPTY.contains("127.0.0.1")
    assert not EMPTY.contains("")


def test_mapped_address_equals_ipv4_address() -> None:
    assert PRIVATE.contains("::ffff:10.1.2.3")
    assert not Networks.parse("::/0").contains("::ffff:10.1.2.3")
    assert Networks.parse("::ffff:10.0.0.0/104").contains("10.1.2.3")
    assert not Networks.parse("::ffff:10.0.0.0/104").contains("11.1.2.3")


def test_invalid_address_is_in_no_network() -> None:
    everything = Networks.parse("0.0.0.0/0 ::/0")
    assert not everything.contains("")
    assert not everything.contains("localhost")
    assert not everything.contains("1" * 100_000)
    assert everything.contains("fe80::1%eth0")


def test_networks_are_immutable() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        PRIVATE.networks.networks = ()  # type: ignore[misc]


def test_peer_of_unix_socket_is_trusted_only_by_the_word_unix() -> None:
    header = b"203.0.113.9, 10.0.0.2"
    trusting = TrustedProxies.parse("10.0.0.0/8, unix")
    assert str(trusting) == "10.0.0.0/8 unix"
    assert client_address(LOCAL_PEER, header, trusting) == "203.0.113.9"
    assert client_address(LOCAL_PEER, b"unix:", trusting) == LOCAL_PEER
    assert client_address(LOCAL_PEER, None, trusting) == LOCAL_PEER
    assert client_address(LOCAL_PEER, header, PRIVATE) == LOCAL_PEER
    assert not TrustedProxies.parse("unix").contains("127.0.0.1")
    with pytest.raises(ValueError, match="network"):
        Networks.parse("unix")


def test_private_peers_are_those_of_private_networks_and_unix_sockets() -> None:
    for peer in ("127.0.0.1", "10.9.8.7", "172.31.0.1", "::1", "fd00::1", "fe80::1", LOCAL_PEER):
        assert is_private(peer)
    for peer in ("172.32.0.1", "203.0.113.9", "2001:db8::1", ""):
        assert not is_private(peer)


@given(st.lists(st.tuples(v4, st.integers(0, 32)), max_size=4), v4)
def test_contains_agrees_with_ipaddress(nets: list[tuple[str, int]], address: str) -> None:
    parts = [ip_network(f"{net}/{prefix}", strict=False) for net, prefix in nets]
    networks = Networks.parse(" ".join(map(str, parts)))
    expected = any(ip_address(address) in part for part in parts)
    assert networks.contains(address) is expected
    assert networks.contains(address) is expected  # from the cache


def test_untrusted_peer_is_the_client() -> None:
    assert client_address("203.0.113.9", b"192.0.2.1", PRIVATE) == "203.0.113.9"
    assert client_address("10.0.0.1", b"192.0.2.1", EMPTY) == "10.0.0.1"


def test_trusted_peer_without_header_is_the_client() -> None:
    assert client_address("10.0.0.1", None, PRIVATE) == "10.0.0.1"
    assert client_address("10.0.0.1", b"", PRIVATE) == "10.0.0.1"


def test_first_untrusted_entry_from_the_right_is_the_client() -> None:
    header = joined("192.0.2.66", "203.0.113.9:4711", "[fd00::2]:80", "::ffff:10.0.0.2")
    assert client_address("10.0.0.1", header, PRIVATE) == "203.0.113.9"
    assert client_address("::ffff:10.0.0.1", header, PRIVATE) == "203.0.113.9"


def test_leftmost_entry_is_the_client_if_all_are_trusted() -> None:
    assert client_address("10.0.0.1", joined("10.0.0.9", "10.0.0.2"), PRIVATE) == "10.0.0.9"


@pytest.mark.parametrize("junk", ["unknown", "", "_hidden", "10.0.0.300", "\xff", "1" * 300])
def test_invalid_entry_makes_the_peer_the_client(junk: str) -> None:
    header = joined("203.0.113.9", junk, "10.0.0.2")
    assert client_address("10.0.0.1", header, PRIVATE) == "10.0.0.1"


def test_junk_left_of_the_client_is_ignored() -> None:
    assert client_address("10.0.0.1", joined("junk", "203.0.113.9"), PRIVATE) == "203.0.113.9"


def test_peer_without_address_is_returned_unchanged() -> None:
    assert client_address("", b"203.0.113.9", PRIVATE) == ""


def test_number_of_entries_is_bounded() -> None:
    entries = [f"10.0.{n >> 8}.{n & 255}" for n in range(1000)]
    seen = client_address("10.0.0.1", joined("203.0.113.9", *entries), PRIVATE)
    assert seen == entries[-MAX_FORWARDED_FOR_ENTRIES]


def test_entry_cut_by_the_length_limit_is_ignored() -> None:
    header = b"11" + b".0.0.1".ljust(MAX_FORWARDED_FOR_BYTES - 1)
    assert client_address("10.0.0.1", header, PRIVATE) == "10.0.0.1"
    header += b", 10.0.0.7"
    assert client_address("10.0.0.1", header, PRIVATE) == "10.0.0.7"


def test_long_header_takes_bounded_time() -> None:
    assert client_address("10.0.0.1", b"," * 1_000_000, PRIVATE) == "10.0.0.1"


@given(st.binary(max_size=200), outsiders, st.lists(insiders, max_size=5))
def test_forged_entries_never_count(written: bytes, client: str, hops: list[str]) -> None:
    header = b", ".join([written, *(entry.encode() for entry in [client, *hops])])
    assert client_address("10.0.0.1", header, PRIVATE) == client


@given(insiders | outsiders, st.none() | st.binary(max_size=300))
def test_client_is_always_a_valid_address(peer: str, header: bytes | None) -> None:
    assert canonical_address(client_address(peer, header, PRIVATE)) is not None


def test_bucket_key_is_ipv4_address_or_ipv6_64() -> None:
    assert bucket_key("192.0.2.1") == "192.0.2.1"
    assert bucket_key("::ffff:192.0.2.1") == "192.0.2.1"
    assert bucket_key("2001:db8:1:2:3:4:5:6") == "2001:db8:1:2::/64"
    assert bucket_key("") == bucket_key("/run/goproxyai.sock") == "local"


@given(st.ip_addresses(v=6, network="2001:db8::/32"), st.integers(0, 2**64 - 1))
def test_all_addresses_of_a_64_share_a_bucket(address: IPv6Address, suffix: int) -> None:
    neighbour = IPv6Address(int(address) >> 64 << 64 | suffix)
    assert bucket_key(str(neighbour)) == bucket_key(str(address))
