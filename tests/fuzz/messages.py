"""Targets for the heads of messages: directives, header fields, request targets, CONNECT responses.

The oracle of each is a second, simpler implementation.
"""

from __future__ import annotations

import re
from contextlib import suppress
from fractions import Fraction
from urllib.parse import unquote_to_bytes, urlsplit

from goproxyai.cache.directives import parse_cache_control, request_directives, requested_ttl
from goproxyai.errors import ProxyError
from goproxyai.messages.connect import MAX_CONNECT_RESPONSE_BYTES, ConnectParser
from goproxyai.messages.connect_errors import ConnectMalformed, ConnectRefused
from goproxyai.messages.header_templates import HeaderTemplate
from goproxyai.messages.headers import (
    Fields,
    Headers,
    index_fields,
    is_forwarding_loop,
    is_list_member,
    nominated_fields,
    request_headers_for_upstream,
    response_headers_for_client,
    serialize_headers,
)
from goproxyai.messages.socks5 import Socks5Handshake, SocksMalformed, SocksRefused
from goproxyai.messages.targets import MAX_TARGET_BYTES, check_host, origin_form
from tests.fuzz.texts import go_seconds, split_values
from tests.fuzz.work import linear

# Cache-Control and X-Cache-TTL.


def _split_unquoted(control: bytes) -> list[bytes]:
    """Split *control* at the commas outside quoted strings, byte by byte."""
    found, current, quoted, escaped = [], bytearray(), False, False
    for byte in control:
        if escaped:
            escaped = False
        elif quoted and byte == ord("\\"):
            escaped = True
        elif byte == ord('"'):
            quoted = not quoted
        elif byte == ord(",") and not quoted:
            found.append(bytes(current))
            current.clear()
            continue
        current.append(byte)
    found.append(bytes(current))
    return [member for member in found if member]


def check_directives(data: bytes) -> None:
    """Compare the parsing of ``Cache-Control`` and ``X-Cache-TTL`` with a simple parser."""
    control, ttl = split_values(data, 2)
    with linear(len(data)):
        parsed_members = parse_cache_control(control)
        parsed = request_directives({b"cache-control": control})
    expected = [member.partition(b"=") for member in _split_unquoted(control)]
    assert [name for name, _ in parsed_members] == [name.strip().lower() for name, _, _ in expected]
    names = {name for name, _ in parsed_members}
    assert parsed.no_cache == (b"no-cache" in names)
    assert parsed.no_store == (b"no-store" in names)
    assert parsed.only_if_cached == (b"only-if-cached" in names)
    ages = [value for name, value in parsed_members if name == b"max-age"]
    if parsed.max_age is None:
        assert not ages
    else:
        assert parsed.max_age == min(
            min(int(age), 2**31) if age.isdigit() and len(age) < 4000 else _clamped(age)
            for age in ages
        )
    assert 0 <= parsed.max_stale <= 2**31
    with linear(len(data)):
        seconds = requested_ttl({b"x-cache-ttl": ttl})
    if seconds is not None:
        text = ttl.strip().decode("ascii")
        exact = Fraction(min(int(text), 2**31)) if text.isdigit() else go_seconds(text)
        assert exact is not None
        assert seconds == float(exact)


def _clamped(age: bytes) -> int:
    return 2**31 if age.isdigit() else 0


DIRECTIVES = (
    b"no-cache, no-store", b"max-age=60", b"max-age=0", b"max-stale", b"max-stale=5", b"no-cache",
    b"only-if-cached", b"private=\"a, b\"", b'max-age="60"', b"max-age=99999999999", b"\0", b"90",
    b"1h30m", b",", b"=", b'"', b"\\", b'\\"', b" ", b"\t", b"MAX-AGE=1", b"\xb2", b"-1",
    b"max-age=",
)  # fmt: skip


# Header hygiene.

_HOP_BY_HOP = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}


def check_headers(data: bytes) -> None:
    """Forwarded header fields are end-to-end, unchanged and in order; forwarding is idempotent."""
    headers: Headers = []
    for line in data.split(b"\n"):
        name, _, value = line.partition(b":")
        headers.append((name, value))
    size = len(data)
    with linear(size):
        fields, repeated = index_fields(headers)
        ours, back = (
            request_headers_for_upstream(headers, fields),
            response_headers_for_client(headers, fields),
        )
        template = HeaderTemplate(tuple(name for name, _ in headers))
        by_template = template.relayed_lines(tuple(value for _, value in headers), fields)
    assert repeated == (len({name.lower() for name, _ in headers}) < len(headers))
    assert by_template == serialize_headers(back), "the template and the function disagree"
    assert template.fields(tuple(value for _, value in headers)) == fields
    cached = template.shareable_lines(tuple(value for _, value in headers), fields)
    for dropped in (b"\r\nset-cookie:", b"\r\nage:", b"\r\ncontent-length:"):
        assert dropped not in b"\r\n" + cached.lower() or b"\r" in data, "a field is cached"
    hop_by_hop = _HOP_BY_HOP | _connection_options(fields)
    for passed in (ours, back):
        rest = iter(headers)
        assert all(pair in rest for pair in passed), "order or values change"
        for name, _ in passed:
            assert name.lower() not in hop_by_hop, "a hop-by-hop field is forwarded"
            assert not name.lower().startswith(b"proxy-")
        assert nominated_fields(index_fields(passed)[0]) == frozenset()
    assert request_headers_for_upstream(ours, index_fields(ours)[0]) == ours, (
        "forwarding is not idempotent"
    )
    assert response_headers_for_client(back, index_fields(back)[0]) == back, (
        "relaying is not idempotent"
    )
    with linear(size):
        looped = is_forwarding_loop(fields, b"i0")
    assert looped == _is_loop(fields.get(b"via", b""))
    listed = fields.get(b"expect", b"")
    assert is_list_member(listed, b"x") == (
        b"x" in [s.strip(b" \t") for s in listed.lower().split(b",")]
    )


def _connection_options(fields: Fields) -> set[bytes]:
    names = {name.strip().lower() for name in fields.get(b"connection", b"").split(b",")}
    return names - {b"content-length", b"host", b"close", b""}


def _is_loop(via: bytes) -> bool:
    """Whether *via* has the instance ``i0``, or eight entries of the proxy; byte by byte."""
    kept, depth, escaped = bytearray(), 0, False
    for byte in via.lower():
        if escaped:
            escaped = False
            if depth:
                continue
        elif byte == ord("\\"):
            escaped = True
            if depth:
                continue
        elif byte == ord("("):
            depth += 1
            continue
        elif byte == ord(")") and depth:
            depth -= 1
            kept += b" "
            continue
        if not depth:
            kept.append(byte)
    text = bytes(kept) if not depth else via.lower()
    names = [element.split()[1:2] for element in text.split(b",")]
    has_instance = b"(i0)" in via.lower() and b"goproxyai" in via.lower()
    return has_instance or names.count([b"goproxyai"]) >= 8


HEADERS = (
    b"Connection: close, X-A\n", b"Connection: content-length, host, upgrade\n", b"X-A: b\n",
    b"Content-Length: 5\n", b"Set-Cookie: a=b\n", b"Set-Cookie: c=d\n", b"Age: 3\n", b"TE: gzip\n",
    b"Via: 1.1 goproxyai\n", b"Via: 1.1 a (goproxyai), 1.0 goproxyai (x)\n", b"Via: 1.1 (( \\) )\n",
    b"Proxy-Authorization: x\n", b"X-Cache: HIT\n", b"Expect: x, y\n", b"Host: a\n",
    b"Upgrade: b\n", b"Transfer-Encoding: chunked\n", b"X-RateLimit-Limit: 5\n", b"%: %b\n", b"%s",
    b"%b", b",", b" ", b"\n", b":", b"(", b")", b"\\", b"goproxyai", b"connection", b"\t",
    b"Via: 1.1 goproxyai (i0)\n", b"Via: " + b", ".join([b"1.1 goproxyai"] * 8) + b"\n",
    b"Keep-Alive: 5\n",
)  # fmt: skip


# Targets.


def check_targets(data: bytes) -> None:
    """A served target stays on the upstream's host and has no dot segments."""
    target, host = split_values(data, 2)
    host = host or b"a"
    with suppress(ProxyError), linear(len(data), base=5000):
        check_host(host, False)
        assert not set(host.strip(b" \t")) & set(b"/?#@\\ ")
    try:
        with linear(len(data), base=5000):
            served = origin_form(target, host)
    except ProxyError:
        return
    assert served.startswith(b"/")
    assert len(served) <= MAX_TARGET_BYTES + 1
    assert target.endswith(served.removeprefix(b"/")), "the bytes change"
    assert origin_form(served, host) == served, "the result is not in origin form"
    url = urlsplit(b"https://api.openai.com" + served)
    assert url.netloc == b"api.openai.com", "the target changes the host"
    assert not url.fragment
    path = served.partition(b"?")[0]
    for text in (path, unquote_to_bytes(path)):
        for segment in re.split(rb"[/\\]", text):
            assert segment.partition(b";")[0] not in (b".", b".."), "a dot segment"


TARGETS = (
    b"/v1/models", b"/v1/files?limit=1", b"http://a/v1/models\0a", b"http://a?b\0a",
    b"HTTPS://A\0a", b"http://b/v1/\0a", b"http://a:80/\0a:80", b"/..", b"/.", b"/%2e%2e/",
    b"/.%2E", b"%2f..%2f", b"%5c..", b"\\..\\", b"/...", b"/.a", b";", b"/..;a/", b"@", b"#", b"?",
    b"//", b"*", b"\0", b"%25", b"[::1]:443", b"\x7f", b"\xff", b" ", b"%", b"%2", b"/v1/..?",
    b"://",
)  # fmt: skip


# CONNECT responses of the egress proxy.

Outcome = tuple[str, int, bytes]
"""``open`` and the rest; ``refused``, status, reason; ``broken`` and the cause; or ``waiting``."""


def _connect(data: bytes, size: int) -> Outcome:
    tunnel = ConnectParser(b"api.openai.com:443")
    tunnel.request_bytes()
    try:
        for begin in range(0, len(data), size):
            beyond = tunnel.receive(data[begin : begin + size])
            if beyond is not None:
                return "open", 0, beyond + data[begin + size :]
    except ConnectRefused as refused:
        return "refused", refused.status, refused.reason
    except ConnectMalformed as broken:
        return "broken", 0, broken.reason.encode()
    return "waiting", 0, b""


def check_tunnel(data: bytes) -> None:
    """The outcome does not depend on the read size; bytes after the head belong to the tunnel."""
    with linear(len(data), each=400):
        whole = _connect(data, len(data) or 1)
    assert _connect(data, 1) == whole, "the read size changes the outcome"
    assert _connect(data, 7) == whole, "the read size changes the outcome"
    kind, status, rest = whole
    if kind == "open":
        head = data[: len(data) - len(rest)]
        assert data.endswith(rest)
        assert len(head) <= MAX_CONNECT_RESPONSE_BYTES
        assert re.search(rb"(?:\A|\n)HTTP/1\.[0-9] 2[0-9][0-9][ \r\n]", head), "no 2xx"
        assert head.endswith((b"\n\r\n", b"\n\n")), "the head has not ended"
        assert _status_class(data) == "2"
    elif kind == "refused":
        assert 300 <= status <= 999
        assert len(rest) <= 256


def _status_class(data: bytes) -> str:
    """The first digit of the status of the first final response, line by line."""
    at_head = True
    for line in data.replace(b"\r\n", b"\n").split(b"\n"):
        if at_head:
            found = line.partition(b" ")[2][:1].decode("latin-1")
            if found != "1":
                return found
            at_head = False
        elif not line:
            at_head = True
    return ""


def _socks(data: bytes, size: int) -> Outcome:
    handshake = Socks5Handshake("api.openai.com", 443, (b"user", b"password"))
    handshake.request_bytes()
    try:
        for begin in range(0, len(data), size):
            beyond = handshake.receive(data[begin : begin + size])
            assert len(handshake.data_to_send()) < 300, "too much is sent"
            if beyond is not None:
                return "open", 0, beyond + data[begin + size :]
    except SocksRefused as refused:
        return "refused", refused.reply, b""
    except SocksMalformed as broken:
        return "broken", 0, str(broken).encode()
    return "waiting", 0, b""


def check_socks(data: bytes) -> None:
    """The outcome does not depend on the read size; bytes after the reply belong to the tunnel."""
    with linear(len(data), each=400):
        whole = _socks(data, len(data) or 1)
    assert _socks(data, 1) == whole, "the read size changes the outcome"
    assert _socks(data, 7) == whole, "the read size changes the outcome"
    kind, reply, rest = whole
    if kind == "open":
        assert data.endswith(rest)
        head = data[: len(data) - len(rest)]
        assert head.startswith((b"\5\0\5\0", b"\5\2\1\0\5\0")), "no grant"
        assert len(head) <= 2 + 2 + 262
    elif kind == "refused":
        assert 0 < reply <= 257


SOCKS = (
    b"\5\0", b"\5\2", b"\5\xff", b"\1\0", b"\1\1", b"\5\0\0\1" + bytes(6), b"\5\0\0\4" + bytes(18),
    b"\5\0\0\3\4host\0\1", b"\5\0\0\3\xff", b"\5\0\0\x09", b"\5\5\0\1", b"\0\x5a", b"HTTP/1.1 400",
    b"\5\0\5\0\0\1" + bytes(6), b"\5\2\1\0\5\0\0\1" + bytes(6), b"\5", b"\0", b"tunnel",
)  # fmt: skip

TUNNEL = (
    b"HTTP/1.1 200 Connection established\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n", b"\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/2.0 200\r\n", b"HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n", b"\x16\x03\x03",
    b"HTTP/1.1 200", b"\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: x\r\n",
    b"Upgrade: a\r\n", b"\n", b"\n\n", b"X: y", b"Connection: upgrade\r\n", b" ", b"\0",
    b"HTTP/1.1 299 \r\n", b"HTTP/1.1 600 \r\n", b": ",
)  # fmt: skip
