"""Hosts that are connected to without the egress proxy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.upstream.no_proxy import bypasses_proxy, invalid_entries, parse_no_proxy

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


# Values as they are found in the environments of curl, Go, Docker, Kubernetes, Java and Windows.
FOUND: list[tuple[str, list[str], list[str]]] = [
    ("localhost,127.0.0.1,::1", ["localhost", "127.0.0.1", "::1"], ["api.example.com"]),
    ("localhost, 127.0.0.1 , .corp.example,", ["a.corp.example"], ["corp.example"]),
    ('"localhost,.corp.example"', ["localhost", "a.corp.example"], ["api.example.com"]),
    ("'*.corp.example'", ["a.corp.example"], ["corp.example"]),
    (".svc,.svc.cluster.local,.cluster.local", ["api.ns.svc", "a.svc.cluster.local"], ["svc"]),
    ("kubernetes.default.svc,10.96.0.0/12", ["kubernetes.default.svc", "10.97.0.1"], ["10.1.1.1"]),
    ("10.0.0.1/8", ["10.200.3.4"], ["11.0.0.1"]),
    ("172.16.0.0/255.240.0.0", ["172.31.1.1"], ["172.32.1.1"]),
    ("169.254.169.254,metadata.google.internal", ["169.254.169.254"], ["169.254.169.253"]),
    ("host.docker.internal my_service", ["my_service", "host.docker.internal"], ["service"]),
    ("http://gateway.corp.example", ["gateway.corp.example"], ["corp.example"]),
    ("https://gateway.corp.example:443/v1/", ["gateway.corp.example"], ["corp.example"]),
    ("http://gateway.corp.example:8080", [], ["gateway.corp.example"]),
    ("gateway.corp.example/", ["gateway.corp.example"], ["corp.example"]),
    ("gateway.corp.example:*", ["gateway.corp.example"], ["corp.example"]),
    ("gateway.corp.example:", ["gateway.corp.example"], ["corp.example"]),
    ("gateway.corp.example.,.corp.", ["gateway.corp.example", "a.corp"], ["corp"]),
    ("localhost|127.*|[::1]|*.corp", ["127.9.9.9", "::1", "a.corp"], ["128.0.0.1"]),
    ("localhost;10.*;192.168.*.*;<local>", ["intranet", "10.1.1.1", "192.168.7.7"], ["a.b"]),
    ("10.*:443", ["10.1.1.1"], ["11.1.1.1"]),
    ("*corp.example", ["corp.example", "a.corp.example", "mycorp.example"], ["corp.test"]),
    ("api-*.example.com, intra*", ["api-eu.example.com", "intranet"], ["api.example.com"]),
    ("[fd00::]/8,[fe80::/10],[2001:db8::1]:443", ["fd12::1", "fe80::1", "2001:db8::1"], ["::1"]),
    ("[::1]:*", ["::1"], ["::2"]),
    ("*,", ["example.com", "10.0.0.1"], []),
    (",, ,", [], ["example.com", "localhost"]),
    ("\n- localhost\n- .corp.example\n", ["localhost", "a.corp.example"], ["api.example.com"]),
]


@pytest.mark.parametrize(("text", "direct_hosts", "proxied_hosts"), FOUND)
def test_value_in_use_is_understood(
    text: str, direct_hosts: list[str], proxied_hosts: list[str]
) -> None:
    assert set(invalid_entries(text)) <= {"-"}
    assert [host for host in direct_hosts if not direct(text, host)] == []
    assert [host for host in proxied_hosts if direct(text, host)] == []


@pytest.mark.parametrize(
    "entry",
    [
        "example.com:65536",
        "example.com:0",
        "example.com:http",
        "example.com:80-90",
        "example.com/path",
        "10.0.0.0/33",
        "10.0.0.256",
        "10.0.0.0-10.0.0.255",
        "192.168.",
        "10.0",
        "10.*.5.*",
        "*.*",
        "a..b",
        "..example.com",
        ".",
        "[::1",
        "[::1]x",
        ":443",
        "http://",
        "http://user:hunter2@example.com",
        "user@example.com",
        "b\u00fccher.example",
        "fe80::1%eth0",
        "[fe80::1%eth0]:80",
        "<-loopback>",
        "example.com?x",
        "$HOST",
        "10.0.0.0/8/8",
    ],
)
def test_invalid_entry_is_skipped(entry: str) -> None:
    text = f"example.org, {entry} .example.net"
    assert invalid_entries(text) == (entry,)
    assert parse_no_proxy(text) == ("example.org", ".example.net")


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


@given(st.text(max_size=40) | st.text("*.[]:/10af,<>-%", max_size=20), st.text(max_size=20))
def test_any_text_is_parsed(text: str, host: str) -> None:
    assert bypasses_proxy(parse_no_proxy(text), host, 443) in (True, False)
    assert set(parse_no_proxy(text)).isdisjoint(invalid_entries(text))
