"""Recognition of other protocols by their first bytes."""

from __future__ import annotations

import pytest

from goproxyai.messages.foreign_protocols import foreign_protocol


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\x16\x03\x01\x02\x00", "a TLS handshake"),
        (b"\x16", "a TLS handshake"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "the preface of HTTP/2"),
        (b"PROXY UNKNOWN\r\n", "a header of the PROXY protocol"),
        (b"\x00\r\nQUIT\n\x20\x00\x00\x00", "a header of the PROXY protocol"),
    ],
)
def test_other_protocol_is_recognised(data: bytes, name: str) -> None:
    found = foreign_protocol(data)
    assert found is not None
    assert found[0] == name


@pytest.mark.parametrize("data", [b"", b"GET", b"PROPFIND / HTTP/1.1", b"SSH-2.0", b"\r\n\r\n"])
def test_other_bytes_are_not_recognised(data: bytes) -> None:
    assert foreign_protocol(data) is None
