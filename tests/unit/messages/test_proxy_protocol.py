"""Headers of the PROXY protocol."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.messages.proxy_protocol import (
    MAX_V1_BYTES,
    MAX_V2_BYTES,
    ProxyHeader,
    ProxyHeaderError,
    SourceKind,
    parse_proxy_header,
)

V2 = b"\r\n\r\n\x00\r\nQUIT\n"
SENDER, UNIX, ADDRESS = SourceKind.SENDER, SourceKind.UNIX, SourceKind.ADDRESS


def v2(command: int, protocol: int, payload: bytes = b"") -> bytes:
    return V2 + pack(">BBH", command, protocol, len(payload)) + payload


def ipv4(source: str, port: int = 1, more: bytes = b"") -> bytes:
    return (
        IPv4Address(source).packed + IPv4Address("192.0.2.1").packed + pack(">HH", port, 443) + more
    )


def ipv6(source: str, port: int = 1) -> bytes:
    return IPv6Address(source).packed * 2 + pack(">HH", port, 443)


VALID = [
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n", ADDRESS, "192.0.2.7", 56324),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ADDRESS, "255.255.255.255",
     65535),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 0 443\r\n", ADDRESS, "2001:db8::7", 0),
    (b"PROXY TCP6 2001:DB8:0:0:0:0:0:7 ::1 5 443\r\n", ADDRESS, "2001:db8::7", 5),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 5 443\r\n", ADDRESS, "192.0.2.7", 5),
    (b"PROXY UNKNOWN\r\n", SENDER, "", 0),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", SENDER, "", 0),
    (b"PROXY UNKNOWN " + b"x" * (MAX_V1_BYTES - 16) + b"\r\n", SENDER, "", 0),
    (v2(0x20, 0x00), SENDER, "", 0),
    (v2(0x20, 0xFF, b"ignored"), SENDER, "", 0),
    (v2(0x21, 0x00), SENDER, "", 0),
    (v2(0x21, 0x00, b"\x03\x00\x04abcd"), SENDER, "", 0),
    (v2(0x21, 0x11, ipv4("192.0.2.7", 9)), ADDRESS, "192.0.2.7", 9),
    (v2(0x21, 0x12, ipv4("192.0.2.7", 9)), ADDRESS, "192.0.2.7", 9),
    (v2(0x21, 0x11, ipv4("192.0.2.7", 9, b"\x03\x00\x04abcd")), ADDRESS, "192.0.2.7", 9),
    (v2(0x21, 0x21, ipv6("2001:db8::7")), ADDRESS, "2001:db8::7", 1),
    (v2(0x21, 0x21, ipv6("::ffff:192.0.2.7")), ADDRESS, "192.0.2.7", 1),
    (v2(0x21, 0x31, b"/run/a.sock".ljust(216, b"\0")), UNIX, "", 0),
    (v2(0x21, 0x11, ipv4("192.0.2.7").ljust(MAX_V2_BYTES - 16, b"\0")), ADDRESS, "192.0.2.7", 1),
]  # fmt: skip

INVALID = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"PROXY\r\n",
    b"proxy TCP4 192.0.2.7 192.0.2.1 1 2\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 192.0.2.7 192.0.2.1 1 2\r\n",
    b"PROXY UDP4 192.0.2.7 192.0.2.1 1 2\r\n",
    b"PROXY  TCP4 192.0.2.7 192.0.2.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7  192.0.2.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 \r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\n\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 01 2\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 2\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1 65536\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 -1 2\r\n",
    b"PROXY TCP4 192.0.2.256 192.0.2.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.07 192.0.2.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2 1 2\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n",
    b"PROXY TCP4 localhost localhost 1 2\r\n",
    b"PROXY TCP6 192.0.2.7 192.0.2.1 1 2\r\n",
    b"PROXY TCP6 ::1 ::g 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    b"PROXY UNKNOWN\n\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY UNKNOWN " + b"x" * 200,
    b"PROXY UNKNOWN " + b"x" * (MAX_V1_BYTES - 15) + b"\r\n",
    V2 + b"\x11\x11\x00\x0c",
    V2 + b"\x22",
    v2(0x21, 0x41, bytes(300)),
    v2(0x21, 0x13, ipv4("192.0.2.7")),
    v2(0x21, 0x11, ipv4("192.0.2.7")[:-1]),
    v2(0x21, 0x21, ipv4("192.0.2.7")),
    v2(0x21, 0x31, bytes(215)),
    V2 + b"\x21\x11\xff\xff",
    V2 + b"\x20\x00\xff\xff",
    b"\r\n\r\n\x00\r\nQUIX",
]


def outcome(pieces: list[bytes]) -> ProxyHeader | str | None:
    """Return the result after as many *pieces* as are needed; ``"invalid"`` for an error."""
    data = b""
    for piece in pieces:
        data += piece
        try:
            header = parse_proxy_header(data)
        except ProxyHeaderError:
            return "invalid"
        if header is not None:
            return header
    return None


@pytest.mark.parametrize(("data", "kind", "address", "port"), VALID)
def test_valid_header_is_read(data: bytes, kind: SourceKind, address: str, port: int) -> None:
    expected = ProxyHeader(len(data), kind, address, port)
    assert parse_proxy_header(data) == expected
    assert parse_proxy_header(data + b"PROXY \r\n\r\n") == expected


@pytest.mark.parametrize("data", [each[0] for each in VALID])
def test_beginning_of_a_header_is_incomplete(data: bytes) -> None:
    for end in range(len(data)):
        assert parse_proxy_header(data[:end]) is None


@pytest.mark.parametrize("data", INVALID)
def test_invalid_header_is_an_error(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse_proxy_header(data)


@given(
    data=st.sampled_from([*[each[0] + b"GET /" for each in VALID], *INVALID]),
    cuts=st.lists(st.integers(1, 250), max_size=8),
)
def test_result_does_not_depend_on_the_reads(data: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(bounds)]
    assert outcome(pieces) == outcome([data])


@pytest.mark.parametrize("data", [*[each[0] + b"GET /" for each in VALID], *INVALID])
def test_result_does_not_change_in_reads_of_one_byte(data: bytes) -> None:
    assert outcome([data[n : n + 1] for n in range(len(data))]) == outcome([data])


@pytest.mark.parametrize("begin", [b"PROXY UNKNOWN ", V2 + b"\x21\x00\x0f\xf0"])
def test_incomplete_header_is_bounded(begin: bytes) -> None:
    for size in range(len(begin), MAX_V2_BYTES + 1):
        if outcome([begin.ljust(size, b"x")]) is not None:
            return
    pytest.fail("the header has no end")


@pytest.mark.parametrize("data", INVALID)
def test_error_does_not_quote_the_input(data: bytes) -> None:
    with pytest.raises(
        ProxyHeaderError, match=r"^(its header|it does not|a port|an address)"
    ) as caught:
        parse_proxy_header(data)
    assert data.decode("latin-1") not in str(caught.value)
