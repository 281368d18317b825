"""The header of the PROXY protocol, versions 1 and 2, as bytes in and an address out.

A load balancer sends the header before the first byte of its client's connection (specification:
``doc/proxy-protocol.txt`` of HAProxy, sections 2.1 and 2.2).

1. A version 1 header is a line of at most :data:`MAX_V1_BYTES`. A version 2 header is binary, and
   states its length; at most :data:`MAX_V2_BYTES` are accepted.
2. The announced source is an address, a Unix socket, or the sender itself. The sender speaks for
   itself in a health check (version 2 ``LOCAL``), and where the client has no address that the
   header can carry (version 1 ``UNKNOWN``, version 2 ``UNSPEC``).
3. The destination and the TLVs of version 2 are not used. The destination is checked all the same,
   TLVs are skipped.
4. Anything else is an error: nothing is guessed, because a wrong address would get the rights and
   the rate limit of another client. The outcome does not depend on how the bytes are split into
   reads.
"""

from __future__ import annotations

import re
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from struct import unpack_from
from typing import Final

import attrs

MAX_V1_BYTES: Final = 107
"""Bytes of a version 1 header with its CRLF, as the specification has it."""

MAX_V2_BYTES: Final = 4096
"""Bytes of a version 2 header with its TLVs. Load balancers send less than 1 KB."""

_V1_PREFIX: Final = b"PROXY "
_V2_PREFIX: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED_BYTES: Final = 16

_PORT = rb"(?:0|[1-9][0-9]{0,4})"
_V1_TCP = re.compile(
    rb"PROXY TCP(?:4 ([0-9.]{7,15}) ([0-9.]{7,15})|6 ([0-9A-Fa-f:.]{2,45}) ([0-9A-Fa-f:.]{2,45}))"
    rb" (%b) (%b)" % (_PORT, _PORT)
)
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?")

_LOCAL, _PROXY = 0x20, 0x21  # version 2, command
_UNSPEC, _IPV4, _IPV6, _UNIX = range(4)
_MAX_TRANSPORT = 2  # unspecified, stream, datagram (HAProxy says datagram for QUIC clients)
_ADDRESS_BYTES = {_UNSPEC: 0, _IPV4: 12, _IPV6: 36, _UNIX: 216}


class ProxyHeaderError(Exception):
    """The bytes are no valid header. The argument is a clause that says why, without the bytes."""


class SourceKind(Enum):
    """What the header announces as the source of the connection."""

    ADDRESS = "address"
    UNIX = "unix"
    SENDER = "sender"


@attrs.frozen
class ProxyHeader:
    """A valid header.

    :ivar length: of the header in bytes; the bytes after it are the client's.
    :ivar address: the canonical text of the source; empty unless *kind* is ``ADDRESS``.
    :ivar port: of the source; 0 unless *kind* is ``ADDRESS``.
    """

    length: int
    kind: SourceKind
    address: str = ""
    port: int = 0


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """Parse the header that *data*, all bytes of the connection so far, begins with.

    :returns: ``None`` while the header is incomplete.
    :raises ProxyHeaderError: if no continuation of *data* is a valid header.
    """
    if data.startswith(_V1_PREFIX):
        return _parse_v1(data)
    if data.startswith(_V2_PREFIX):
        return _parse_v2(data)
    if _V1_PREFIX.startswith(data) or _V2_PREFIX.startswith(data):
        return None
    raise ProxyHeaderError("it does not begin with a header of the PROXY protocol")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    line, found, _ = data[:MAX_V1_BYTES].partition(b"\r\n")
    if not found:
        if len(data) >= MAX_V1_BYTES:
            raise ProxyHeaderError("its header exceeds 107 bytes")
        return None
    length = len(line) + len(found)
    if _V1_UNKNOWN.fullmatch(line) is not None:
        return ProxyHeader(length, SourceKind.SENDER)
    match = _V1_TCP.fullmatch(line)
    if match is None:
        raise ProxyHeaderError("its header of version 1 is malformed")
    source4, destination4, source6, destination6, source_port, destination_port = match.groups()
    if int(source_port) > 65535 or int(destination_port) > 65535:
        raise ProxyHeaderError("a port in its header is out of range")
    try:
        if source4 is not None:
            source: IPv4Address | IPv6Address = IPv4Address(source4.decode("ascii"))
            IPv4Address(destination4.decode("ascii"))
        else:
            source = IPv6Address(source6.decode("ascii"))
            IPv6Address(destination6.decode("ascii"))
    except ValueError:
        raise ProxyHeaderError("an address in its header is invalid") from None
    return ProxyHeader(length, SourceKind.ADDRESS, _canonical(source), int(source_port))


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _V2_FIXED_BYTES:
        if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
            raise ProxyHeaderError("its header has an unknown version or command")
        return None
    command, protocol, size = unpack_from(">BBH", data, len(_V2_PREFIX))
    family, transport = protocol >> 4, protocol & 15
    if command not in (_LOCAL, _PROXY):
        raise ProxyHeaderError("its header has an unknown version or command")
    length = _V2_FIXED_BYTES + size
    if length > MAX_V2_BYTES:
        raise ProxyHeaderError("its header exceeds 4096 bytes")
    if command == _PROXY:  # the family of LOCAL is to be ignored
        if family not in _ADDRESS_BYTES or transport > _MAX_TRANSPORT:
            raise ProxyHeaderError("its header has an unknown address family or transport")
        if size < _ADDRESS_BYTES[family]:
            raise ProxyHeaderError("its header is too short for its addresses")
    if len(data) < length:
        return None
    if command == _LOCAL or family == _UNSPEC:
        return ProxyHeader(length, SourceKind.SENDER)
    if family == _UNIX:
        return ProxyHeader(length, SourceKind.UNIX)
    if family == _IPV4:
        packed, _, port, _ = unpack_from(">4s4sHH", data, _V2_FIXED_BYTES)
        return ProxyHeader(length, SourceKind.ADDRESS, str(IPv4Address(packed)), port)
    packed, _, port, _ = unpack_from(">16s16sHH", data, _V2_FIXED_BYTES)
    return ProxyHeader(length, SourceKind.ADDRESS, _canonical(IPv6Address(packed)), port)


def _canonical(address: IPv4Address | IPv6Address) -> str:
    """Return the text of *address*; of an IPv4-mapped one, that of the IPv4 address."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
