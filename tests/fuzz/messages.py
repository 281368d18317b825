"""What stands in the head of a message: Cache-Control, fields of either hop, targets.

Each is read a second time, in another and plainer way, and both readings must agree.
"""

from __future__ import annotations

import re
from contextlib import suppress
from fractions import Fraction
from urllib.parse import unquote_to_bytes, urlsplit

from goproxyai.cache.directives import parse_cache_control, request_directives, requested_ttl
from goproxyai.errors import ProxyError
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
from goproxyai.messages.targets import MAX_TARGET_BYTES, check_host, origin_form
from tests.fuzz.texts import go_seconds, parts
from tests.fuzz.work import linear

# Cache-Control and X-Cache-TTL.


def _split_unquoted(control: bytes) -> list[bytes]:
    """*control* at its commas, but for those in quotes; read character by character."""
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
    """Hold Cache-Control and X-Cache-TTL against a reading character by character."""
    control, ttl = parts(data, 2)
    with linear(len(data)):
        found = parse_cache_control(control)
        asked = request_directives({b"cache-control": control})
    plain = [member.partition(b"=") for member in _split_unquoted(control)]
    assert [name for name, _ in found] == [name.strip().lower() for name, _, _ in plain]
    names = {name for name, _ in found}
    assert asked.no_cache == (b"no-cache" in names)
    assert asked.no_store == (b"no-store" in names)
    assert asked.only_if_cached == (b"only-if-cached" in names)
    ages = [value for name, value in found if name == b"max-age"]
    if asked.max_age is None:
        assert not ages
    else:
        assert asked.max_age == min(
            min(int(age), 2**31) if age.isdigit() and len(age) < 4000 else _clamped(age)
            for age in ages
        )
    assert 0 <= asked.max_stale <= 2**31
    with linear(len(data)):
        wanted = requested_ttl({b"x-cache-ttl": ttl})
    if wanted is not None:
        text = ttl.strip().decode("ascii")
        exact = Fraction(min(int(text), 2**31)) if text.isdigit() else go_seconds(text)
        assert exact is not None
        assert wanted == float(exact)


def _clamped(age: bytes) -> int:
    return 2**31 if age.isdigit() else 0


DIRECTIVES = (
    b"no-cache, no-store", b"max-age=60", b"max-age=0", b"max-stale", b"max-stale=5", b"no-cache",
    b"only-if-cached", b"private=\"a, b\"", b'max-age="60"', b"max-age=99999999999", b"\0", b"90",
    b"1h30m", b",", b"=", b'"', b"\\", b'\\"', b" ", b"\t", b"MAX-AGE=1", b"\xb2", b"-1",
    b"max-age=",
)  # fmt: skip


# Header hygiene.

_HOP = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}


def check_headers(data: bytes) -> None:
    """What passes is end-to-end, in order and unchanged, however often it passes."""
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
        shape = HeaderTemplate(tuple(name for name, _ in headers))
        ours_again = shape.relayed_lines(tuple(value for _, value in headers), fields)
    assert repeated == (len({name.lower() for name, _ in headers}) < len(headers))
    assert ours_again == serialize_headers(back), "the two ways to relay a header"
    assert shape.fields(tuple(value for _, value in headers)) == fields
    kept = shape.shareable_lines(tuple(value for _, value in headers), fields)
    for lost in (b"\r\nset-cookie:", b"\r\nage:", b"\r\ncontent-length:"):
        assert lost not in b"\r\n" + kept.lower() or b"\r" in data, "it is kept for others"
    gone = _HOP | _named(fields)
    for passing in (ours, back):
        rest = iter(headers)
        assert all(pair in rest for pair in passing), "order and values are kept"
        for name, _ in passing:
            assert name.lower() not in gone, "it stays on its hop"
            assert not name.lower().startswith(b"proxy-")
        assert nominated_fields(index_fields(passing)[0]) == frozenset()
    assert request_headers_for_upstream(ours, index_fields(ours)[0]) == ours, (
        "passing twice changes no more"
    )
    assert response_headers_for_client(back, index_fields(back)[0]) == back
    with linear(size):
        looped = is_forwarding_loop(fields)
    assert looped == _names_us(fields.get(b"via", b""))
    listed = fields.get(b"expect", b"")
    assert is_list_member(listed, b"x") == (
        b"x" in [s.strip(b" \t") for s in listed.lower().split(b",")]
    )


def _named(fields: Fields) -> set[bytes]:
    names = {name.strip().lower() for name in fields.get(b"connection", b"").split(b",")}
    return names - {b"content-length", b"host", b"close", b""}


def _names_us(via: bytes) -> bool:
    """Whether a hop of ours stands in *via*, its comments left out; read character by character."""
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
    return any(element.split()[1:2] == [b"goproxyai"] for element in text.split(b","))


HEADERS = (
    b"Connection: close, X-A\n", b"Connection: content-length, host, upgrade\n", b"X-A: b\n",
    b"Content-Length: 5\n", b"Set-Cookie: a=b\n", b"Set-Cookie: c=d\n", b"Age: 3\n", b"TE: gzip\n",
    b"Via: 1.1 goproxyai\n", b"Via: 1.1 a (goproxyai), 1.0 goproxyai (x)\n", b"Via: 1.1 (( \\) )\n",
    b"Proxy-Authorization: x\n", b"X-Cache: HIT\n", b"Expect: x, y\n", b"Host: a\n",
    b"Upgrade: b\n", b"Transfer-Encoding: chunked\n", b"X-RateLimit-Limit: 5\n", b"%: %b\n", b"%s",
    b"%b", b",", b" ", b"\n", b":", b"(", b")", b"\\", b"goproxyai", b"connection", b"\t",
    b"Keep-Alive: 5\n",
)  # fmt: skip


# Targets.


def check_targets(data: bytes) -> None:
    """What is served can only lead to where it is joined to, and holds no way up."""
    target, host = parts(data, 2)
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
    assert target.endswith(served.removeprefix(b"/")), "these very bytes"
    assert origin_form(served, host) == served, "serving twice changes no more"
    url = urlsplit(b"https://api.openai.com" + served)
    assert url.netloc == b"api.openai.com", "it leads elsewhere"
    assert not url.fragment
    path = served.partition(b"?")[0]
    for text in (path, unquote_to_bytes(path)):
        for segment in re.split(rb"[/\\]", text):
            assert segment.partition(b";")[0] not in (b".", b".."), "it leads up"


TARGETS = (
    b"/v1/models", b"/v1/files?limit=1", b"http://a/v1/models\0a", b"http://a?b\0a",
    b"HTTPS://A\0a", b"http://b/v1/\0a", b"http://a:80/\0a:80", b"/..", b"/.", b"/%2e%2e/",
    b"/.%2E", b"%2f..%2f", b"%5c..", b"\\..\\", b"/...", b"/.a", b";", b"/..;a/", b"@", b"#", b"?",
    b"//", b"*", b"\0", b"%25", b"[::1]:443", b"\x7f", b"\xff", b" ", b"%", b"%2", b"/v1/..?",
    b"://",
)  # fmt: skip
