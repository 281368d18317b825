"""Hosts that are connected to without the egress proxy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.upstream.no_proxy import bypasses_proxy, parse_no_proxy

LABELS = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PORTS = st.integers(1, 65535)


def direct(entries: str, host: str, port: int = 443) -> bool:
    return bypasses_proxy(parse_no_proxy(entries), host, port)


@pytest.mark.parametrize(
    ("entries", "host", "expected"),
    [
        ("", "example.com", False),
        ("*", "example.com", True),
        ("*", "::1", True),
        ("*:443", "example.com", True),
        ("*:80", "example.com", False),
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com.", True),
        ("Example.COM.", "example.com", True),
        ("example.com", "api.example.com", True),
        ("example.com", "badexample.com", False),
        (".example.com", "api.example.com", True),
        (".example.com", "a.b.example.com", True),
        (".example.com", "example.com", False),
        (".example.com", "badexample.com", False),
        ("*.example.com", "api.example.com", True),
        ("*.example.com", "example.com", False),
        ("example.com:443", "api.example.com", True),
        ("example.com:8443", "example.com", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1:443", "192.0.2.1", True),
        ("192.0.2.1:80", "192.0.2.1", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "ten.example", False),
        ("2.1", "192.0.2.1", False),
        ("::1", "::1", True),
        ("0:0::1", "::1", True),
        ("[::1]", "::1", True),
        ("[::1]:443", "::1", True),
        ("[::1]:80", "::1", False),
        ("fd00::/8", "fd12::1", True),
        ("a.example,b.example c.example", "c.example", True),
        ("a.example , ,b.example", "b.example", True),
        ("localhost", "localhost", True),
        ("example.com", "localhost", False),
    ],
)
def test_entry_matches_hosts(entries: str, host: str, expected: bool) -> None:
    assert direct(entries, host) is expected


@pytest.mark.parametrize(
    "entry",
    [
        "http://example.com",
        "example.com:",
        "example.com:65536",
        "example.com:http",
        "exa mple/8",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "a..b",
        "*.*.example.com",
        "foo*",
        "[::1",
        ":443",
        "user@example.com",
        "b\u00fccher.example",
        "[fe80::1%eth0]:80",
    ],
)
def test_invalid_entry_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        parse_no_proxy(f"example.org {entry}")


@given(NAMES, LABELS, PORTS)
def test_name_matches_itself_and_its_subdomains(name: str, label: str, port: int) -> None:
    assert direct(name, name, port)
    assert direct(name, f"{label}.{name}", port)
    assert not direct(name, f"{label}{name}", port)
    assert not direct(f"{label}.{name}", name, port)


@given(NAMES, PORTS, PORTS)
def test_port_limits_entry_to_the_port(name: str, port: int, other: int) -> None:
    assert direct(f"{name}:{port}", name, other) is (port == other)


@given(st.ip_addresses(), PORTS)
def test_address_matches_itself(address: object, port: int) -> None:
    assert direct(f"192.0.2.77 {address}", str(address), port)


@given(st.text(max_size=40), st.text(max_size=20))
def test_any_text_is_parsed_or_raises_value_error(text: str, host: str) -> None:
    try:
        entries = parse_no_proxy(text)
    except ValueError:
        return
    assert bypasses_proxy(entries, host, 443) in (True, False)
