"""Validation of targets and Host."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from goproxyai.errors import ProxyError
from goproxyai.messages.targets import MAX_TARGET_BYTES, check_host, origin_form

HOST = b"proxy.test"
ORIGINS = ("https://api.openai.com", "http://127.0.0.1:8080", "https://api.example/base/path")


def refusal(target: bytes, host: bytes = HOST) -> tuple[int, str]:
    """Return the status and code of the refusal of *target*."""
    with pytest.raises(ProxyError) as caught:
        origin_form(target, host)
    assert caught.value.message
    return caught.value.status, caught.value.code


# Host.


@pytest.mark.parametrize(
    "host",
    [
        b"proxy.test",
        b"PROXY.test",
        b"proxy.test:8080",
        b"proxy.test:",
        b"localhost",
        b"127.0.0.1",
        b"127.0.0.1:80",
        b"[::1]",
        b"[::1]:8080",
        b"[::ffff:127.0.0.1]:80",
        b"xn--bcher-kva.test",
        b"a_b.test",
        b" proxy.test\t",
    ],
)
def test_valid_host_is_accepted(host: bytes) -> None:
    check_host(host, False)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b" ",
        b"a b",
        b"proxy.test, proxy.test",
        b"user@proxy.test",
        b"proxy.test/v1",
        b"proxy.test\\",
        b"proxy.test?",
        b"proxy.test#",
        b"proxy.test:80a",
        b"proxy.test:80:80",
        b"proxy.test:123456",
        b"http://proxy.test",
        b"::1",
        b"[::1",
        b"::1]",
        b"[]",
        b"[::1]x",
        b"[proxy.test]",
        b"<proxy>",
        b'"proxy.test"',
        b"proxy%zz.test",
        b"pr\xc3\xb6xy.test",
        b"proxy\x00.test",
        b"a" * 300,
    ],
)
def test_invalid_host_is_refused(host: bytes) -> None:
    with pytest.raises(ProxyError) as caught:
        check_host(host, False)
    assert (caught.value.status, caught.value.code) == (400, "bad_request")


@pytest.mark.parametrize(("host", "repeated"), [(None, False), (b"a.test, a.test", True)])
def test_missing_or_repeated_host_is_refused(host: bytes | None, repeated: bool) -> None:
    with pytest.raises(ProxyError) as caught:
        check_host(host, repeated)
    assert (caught.value.status, caught.value.code) == (400, "bad_request")
    assert "Host" in caught.value.message


def test_host_may_be_missing_where_it_is_not_required() -> None:
    check_host(None, False, required=False)
    for host, repeated in ((b"a.test, a.test", True), (b"a b", False)):
        with pytest.raises(ProxyError):
            check_host(host, repeated, required=False)


# Valid targets.


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/v1",
        b"/v1/models",
        b"/v1/files?x=%2e%2e",
        b"/v1/files?x=/../y",
        b"/v1/files?x=../..",
        b"/v1//models",
        b"//v1/models",
        b"/v1/a;b=c",
        b"/v1/models?",
        b"/v1/models??",
        b"/?",
        b"/v1/a...b",
        b"/v1/...",
        b"/v1/..a",
        b"/v1/a..",
        b"/v1/a.",
        b"/v1/.well-known",
        b"/v1/%2ewell-known",
        b"/v1/a%2e%2eb",
        b"/v1/ft:gpt-4o:org::id",
        b"/v1/a%2Fb",
        b"/v1/%zz%",
        b"/v1/%252e%252e/",
        b"/@v1/models",
        b"/v1/http://other.test/",
        b"/v1/a?b=%41%2f&&c=;",
        b"/v1/[x]{y}|^`\"<>'",
    ],
)
def test_unusual_valid_target_is_unchanged(target: bytes) -> None:
    assert origin_form(target, HOST) == target


# Dot segments.

DOTS = [b".", b"..", b"%2e", b"%2E", b".%2e", b"%2E.", b"%2e%2E", b"%2E%2e"]


@pytest.mark.parametrize("dots", DOTS)
@pytest.mark.parametrize(
    "shape",
    [
        b"/%b",
        b"/%b/",
        b"/v1/%b",
        b"/v1/%b/stats",
        b"/v1/%b?x=1",
        b"//%b//stats",
        b"/v1%%2f%b",
        b"/v1%%2F%b%%2fstats",
        b"/v1/%b%%2Fstats",
        b"/v1%%2f%b/stats",
        b"/v1\\%b\\stats",
        b"/v1%%5c%b%%5Cstats",
        b"/v1/%b;x=1/stats",
        b"/v1/a/%b/b/%b/c",
    ],
)
def test_dot_segments_are_refused_raw_and_encoded(shape: bytes, dots: bytes) -> None:
    target = shape.replace(b"%b", dots).replace(b"%%", b"%")
    assert refusal(target) == (400, "bad_request")
    assert refusal(b"http://proxy.test" + target) == (400, "bad_request")


# Bytes, forms and length.


@pytest.mark.parametrize("byte", [*range(0x21), *range(0x7F, 0x100)])
def test_bytes_outside_visible_ascii_are_refused(byte: int) -> None:
    for target in (b"/v1/a%cb", b"/v1/?a%cb", b"/v1/models%c", b"%c/v1/models"):
        assert refusal(target % byte) == (400, "bad_request")


@pytest.mark.parametrize(
    "target",
    [
        b"@v1/models",
        b"Xv1/models",
        b"v1/models",
        b"*",
        b"?",
        b"",
        b"proxy.test:443",
        b"../v1/models",
    ],
)
def test_target_in_another_form_is_refused(target: bytes) -> None:
    assert refusal(target) == (400, "bad_request")


@pytest.mark.parametrize("target", [b"/v1/models#", b"/v1/models#x", b"/v1/?a#/../b", b"/#"])
def test_fragment_is_refused(target: bytes) -> None:
    assert refusal(target) == (400, "bad_request")
    assert refusal(b"http://proxy.test" + target) == (400, "bad_request")


@pytest.mark.parametrize(
    ("target", "host", "served"),
    [
        (b"http://proxy.test/v1/models", b"proxy.test", b"/v1/models"),
        (b"https://proxy.test/v1/models", b"proxy.test", b"/v1/models"),
        (b"HTTP://PROXY.test/v1/Models", b"proxy.TEST", b"/v1/Models"),
        (b"http://proxy.test:8080/v1/a?b=//c", b"proxy.test:8080", b"/v1/a?b=//c"),
        (b"http://[::1]:80/v1/a", b"[::1]:80", b"/v1/a"),
        (b"http://proxy.test", b"proxy.test", b"/"),
        (b"http://proxy.test?a=b", b"proxy.test", b"/?a=b"),
        (b"http://proxy.test//v1/models", b"proxy.test", b"//v1/models"),
        (b"http://proxy.test/v1/models?", b" proxy.test\t", b"/v1/models?"),
        (b"http://proxy.test:80/v1/models", b"proxy.test", b"/v1/models"),
        (b"http://proxy.test:/v1/models", b"proxy.test:0080", b"/v1/models"),
        (b"HTTPS://proxy.test/v1/models", b"PROXY.test:443", b"/v1/models"),
        (b"https://[::1]/v1/models", b"[::1]:443", b"/v1/models"),
        (b"http://proxy.test/v1/models", None, b"/v1/models"),
    ],
)
def test_absolute_form_with_same_authority_becomes_origin_form(
    target: bytes, host: bytes | None, served: bytes
) -> None:
    assert origin_form(target, host) == served


@pytest.mark.parametrize(
    "target",
    [
        b"http://other.test/v1/models",
        b"http://proxy.test.evil.test/v1/models",
        b"http://proxy.test:443/v1/models",
        b"http://proxy.test:0/v1/models",
        b"https://proxy.test:80/v1/models",
        b"http://user@proxy.test/v1/models",
        b"http://proxy.test@evil.test/v1/models",
        b"http://proxy.test\\@evil.test/v1/models",
        b"http://proxy.test%2f@evil.test/v1/models",
        b"http:///v1/models",
        b"http://:80/v1/models",
        b"http:/v1/models",
        b"http:proxy.test/v1/models",
        b"ftp://proxy.test/v1/models",
        b"javascript://proxy.test/v1/models",
        b"http//proxy.test/v1/models",
    ],
)
def test_absolute_form_with_another_authority_is_refused(target: bytes) -> None:
    assert refusal(target) == (400, "bad_request")


@pytest.mark.parametrize("authority", [b"", b"user@proxy.test", b"a b", b"a:b:c"])
def test_absolute_form_without_host_field_needs_a_valid_authority(authority: bytes) -> None:
    with pytest.raises(ProxyError) as caught:
        origin_form(b"http://%b/v1/models" % authority, None)
    assert caught.value.code == "bad_request"


def test_target_is_limited_to_16_kib() -> None:
    longest = b"/v1/" + b"a" * (MAX_TARGET_BYTES - 4)
    assert MAX_TARGET_BYTES == 16 * 1024
    assert origin_form(longest, HOST) == longest
    assert refusal(longest + b"a") == (414, "target_too_long")


# Properties of accepted targets.

PIECES = st.sampled_from(
    b"/ // \\ . .. %2e %2E %2f %5c %00 %25 @ : ; ? # & = [ ] v1 v1/ models a evil.test proxy.test"
    b" http:// https:// //evil.test @evil.test :80 user:pw@ \xe9 \x00 \t \x7f".split(b" ")
)
TARGETS = st.one_of(
    st.lists(PIECES, max_size=10).map(b"".join),
    st.lists(PIECES, max_size=10).map(lambda pieces: b"/" + b"".join(pieces)),
    st.lists(PIECES, max_size=8).map(lambda pieces: b"http://proxy.test" + b"".join(pieces)),
    st.binary(max_size=40),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60).map(
        lambda text: b"/" + text.encode("ascii")
    ),
)


def decoded_segments(target: bytes) -> set[bytes]:
    """Return the segments of the path as a lenient server decodes them."""
    path = unquote_to_bytes(target.partition(b"?")[0])
    return set(re.split(rb"[/\\]", path))


@given(TARGETS, st.sampled_from(ORIGINS))
@example(b"@evil.test/v1/models", ORIGINS[0])
@example(b"//evil.test/v1/models", ORIGINS[0])
@example(b"http://proxy.test@evil.test/v1/", ORIGINS[0])
def test_accepted_target_stays_below_the_origin(target: bytes, origin: str) -> None:
    try:
        served = origin_form(target, HOST)
    except ProxyError:
        return
    assert served.startswith(b"/")
    assert re.fullmatch(rb"[\x21-\x7e]+", served)
    assert target.endswith(served) or served == b"/" or served.startswith(b"/?")
    joined = urlsplit(origin + served.decode("ascii"))
    assert joined.netloc == urlsplit(origin).netloc
    assert joined.scheme == urlsplit(origin).scheme
    assert not decoded_segments(served) & {b".", b".."}
    assert origin_form(served, HOST) == served


@given(TARGETS.filter(lambda target: re.fullmatch(rb"/[\x21-\x7e]*", target) is not None))
def test_path_is_refused_only_for_dot_segments_or_fragment(target: bytes) -> None:
    try:
        assert origin_form(target, HOST) == target
    except ProxyError:
        bare = {segment.partition(b";")[0] for segment in decoded_segments(target)}
        assert b"#" in target or bare & {b".", b".."}
