"""Texts that operators and clients write: addresses, hosts, durations, settings, targets to log.

Each is read a second time, in another way, and both readings must agree; what is printed must read
back as itself; and what must not be told must not be told whatever stands around it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from fractions import Fraction
from ipaddress import IPv6Address, ip_address, ip_network

from goproxyai.config.urls import UpstreamURL
from goproxyai.config.variables import VARIABLES, SettingError
from goproxyai.durations import MAX_NANOSECONDS, UNITS, format_duration, parse_duration
from goproxyai.limits.addresses import (
    MAX_FORWARDED_FOR_BYTES,
    MAX_FORWARDED_FOR_ENTRIES,
    Networks,
    bucket_key,
    canonical_address,
    client_address,
)
from goproxyai.messages.redaction import (
    MAX_LOGGED_PATH_CHARACTERS,
    mask_credentials,
    redacted_target,
)
from goproxyai.upstream.no_proxy import bypasses_proxy, parse_no_proxy
from tests.fuzz.work import forget, linear

SECRET = "hunter2hunter2xyz"
"""Never to be seen."""


def parts(data: bytes, count: int) -> list[bytes]:
    """*data* as *count* values, some of which may be empty."""
    found = data.split(b"\0", count - 1)
    return found + [b""] * (count - len(found))


# Addresses.


def _address(text: str) -> str | None:
    """The address in *text*, read by :mod:`ipaddress` and by splitting alone."""
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
    """Hold the client behind trusted proxies against a plain reading of the rules."""
    peer, trust, header = parts(data, 3)
    text = peer.decode("latin-1")
    forget()
    try:
        trusted = Networks.parse(trust.decode("latin-1"))
    except ValueError:
        trusted = Networks.parse("127.0.0.0/8, ::1")
    assert Networks.parse(str(trusted)) == trusted, "what is printed reads back"
    with linear(len(data)):
        client = client_address(text, header, trusted)
        bucket = bucket_key(client)
    here = canonical_address(text)
    assert here == _address(text), "two readings of an address"
    for entry in header.split(b","):
        said = entry.decode("latin-1")
        assert canonical_address(said) == _address(said), "two readings of an entry"
    assert client == (text if here is None else _client(here, header, trusted))
    if here is not None:
        assert canonical_address(client) == client, "it is canonical"
        assert bucket == str(ip_network(client)).partition("/")[0] or "/64" in bucket
        hearsay = b"203.0.113.9, " + header
        if not trusted.contains(client) and len(hearsay) < MAX_FORWARDED_FOR_BYTES:
            if header.count(b",") < MAX_FORWARDED_FOR_ENTRIES - 1:
                assert client_address(text, hearsay, trusted) == client, "hearsay counts"


def _client(here: str, header: bytes, trusted: Networks) -> str:
    def is_trusted(address: str) -> bool:
        within = any(ip_address(address) in network for network in trusted.networks)
        assert within == trusted.contains(address), "two readings of membership"
        return within

    client = here
    if not is_trusted(client):
        return client
    for entry in header[-MAX_FORWARDED_FOR_BYTES:].split(b",")[::-1][:MAX_FORWARDED_FOR_ENTRIES]:
        address = _address(entry.decode("latin-1").strip(" \t"))
        if address is None:
            return here
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
    """Hold NO_PROXY against a plain reading of its table."""
    listed, given, number = parts(data, 3)
    host, port = given.decode("latin-1"), len(number) * 77 % 65536
    forget()
    try:
        with linear(len(data), base=5000):
            entries = parse_no_proxy(listed.decode("latin-1"))
    except ValueError:
        return
    assert parse_no_proxy(",".join(entries)) == entries, "what is printed reads back"
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


# Durations.

_GO_UNITS = sorted(UNITS, key=len, reverse=True)


def go_seconds(text: str) -> Fraction | None:
    """Seconds, as Go's ``time.ParseDuration`` scans them: from left to right."""
    rest = text.removeprefix("+")
    if rest == "0":
        return Fraction(0)
    if not rest:
        return None
    total = 0
    while rest:
        number = ""
        while rest and (rest[0] in "0123456789" or (rest[0] == "." and "." not in number)):
            number, rest = number + rest[0], rest[1:]
        unit = next((unit for unit in _GO_UNITS if rest.startswith(unit)), None)
        if number in ("", ".") or unit is None:
            return None
        rest = rest[len(unit) :]
        whole, _, fraction = number.partition(".")
        exact = Fraction(int(whole or "0")) + Fraction(int(fraction or "0"), 10 ** len(fraction))
        total += int(exact * UNITS[unit])
    return Fraction(total, 10**9) if total <= MAX_NANOSECONDS else None


def check_durations(data: bytes) -> None:
    """Hold durations against a scan from left to right, and print what was read."""
    text = data.decode("utf-8", "replace")
    try:
        with linear(len(data)):
            seconds = parse_duration(text)
    except ValueError:
        assert len(text) > 256 or go_seconds(text) is None, "Go reads it"
        return
    exact = go_seconds(text)
    assert exact is not None, "Go does not read it"
    assert seconds == float(exact)
    printed = format_duration(seconds)
    again = parse_duration(printed)
    assert abs(Fraction(again) - Fraction(seconds)) <= Fraction(seconds) / 2**50
    assert format_duration(again) == printed, "what is printed reads back"


DURATIONS = (
    b"1h30m", b"1.5s", b"250ms", b"0", b"+0", b"5m0s", b"2562047h47m16.854775807s", b".5s", b"1.s",
    "1\u00b5s".encode(), "1\u03bcs".encode(), b"1us", b"1ns", b"-1s", b"1e3s", b"1_0s", b" ", b".",
    b"9223372036854775807ns", b"9223372036854775808ns", b"\xd9\xa1s", b"0.000000000000001h", b"h",
)  # fmt: skip


# Settings.


def check_settings(data: bytes) -> None:
    """Every variable is set, or says why it is not: in one short line, without a secret."""
    which, value = (data[0] if data else 0), data[1:]
    text = value.decode("utf-8", "replace")
    variable = VARIABLES[which % len(VARIABLES)]
    forget()
    try:
        with linear(len(data), base=20_000):
            read = variable.read(text)
    except SettingError as error:
        line = str(error)
        assert line.isascii(), "it can be printed anywhere"
        assert line.isprintable(), "it is one line"
        assert len(line) < 1300, "it is short"
        assert variable.name in line
        if variable.name in ("ADMIN_TOKEN", "CACHE_SNAPSHOT_KEY") and len(text.strip()) > 9:
            assert text.strip() not in line
    else:
        assert variable.read(text) == read, "it reads the same again"
        if isinstance(read, UpstreamURL):
            assert variable.read(read.text) == read, "what is printed reads back"
    _check_url_secret(text)


def _check_url_secret(text: str) -> None:
    """A password in a URL is not told, however wrong the rest of the URL is."""
    proxy = next(one for one in VARIABLES if one.name == "PROXY_URL")
    for wrong in (
        f"http://user:{SECRET}@{text}",
        f"{text}:{SECRET}@proxy",
        f"//u:{SECRET}@{text}@",
    ):
        try:
            url = proxy.read(wrong)
        except SettingError as error:
            assert SECRET not in str(error)
        else:
            assert SECRET not in url.mask_credentials
            assert SECRET not in repr(url)


SETTINGS = (
    *(bytes([index]) + variable.default.encode() for index, variable in enumerate(VARIABLES)),
    b"http://user:password@proxy:8080", b"https://[::1]:443/v1/", b"http://", b"@", b":", b"/",
    b"?", b"#", b"%40", b"%00", b"..", b"[", b"]", b"1.2.3.4", b"tcp:8080:interface=127.0.0.1",
    b" ", b"\n", b"\x1b[0m", b"sk-abcdefgh", b"Bearer ", b"99999999999999999999", b"0.5",
    b"\xc2\xa0",
)  # fmt: skip


# What may be written down.

_KEPT_CHARACTERS = re.compile(r"[\x21-\x7e ]*")


def check_redaction(data: bytes) -> None:
    """No secret is written down, whatever stands around it; what is masked stays as it is."""
    forget()
    with linear(len(data), base=5000):
        path = redacted_target(data)
    assert len(path) <= MAX_LOGGED_PATH_CHARACTERS
    assert _KEPT_CHARACTERS.fullmatch(path), "visible ASCII"
    text = data.decode("latin-1")
    with linear(len(data), base=5000):
        once = mask_credentials(text)
    assert mask_credentials(once) == once, "masking twice masks no more"
    assert len(once) <= 2 * len(text) + 16
    before, after = parts(data, 2)
    forget()
    said = SECRET.encode()
    assert SECRET not in redacted_target(
        b"/v1/files?" + before.replace(b"&", b"") + b"=" + said + after
    )
    for shape in ("https://user:{}@host", "https://{}@host", "Bearer {}", "basic {}", "sk-{}"):
        planted = before.decode("latin-1") + " " + shape.format(SECRET)
        assert SECRET not in mask_credentials(planted), "a secret in a text"
        assert SECRET not in mask_credentials(planted + " " + after.decode("latin-1")), (
            "a secret in a text"
        )


REDACTION = (
    b"/v1/files?limit=1&after=x", b"http://user:pass@host/v1/a?b=c", b"Bearer abc", b"Basic ",
    b"bearer bearer x", b"sk-abcdefgh", b"sess-abcd", b"ek_abcd", b"%20sk-abcd", b"://", b"@", b"?",
    b"=", b"&", b"#", b"*", b"\0", b" ", b"\n", b"\xff", b'"', b"'", b"***", b"://a@b@c", b"sk-",
)  # fmt: skip
