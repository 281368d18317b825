"""Hop-by-hop fields, header templates, lists and Via."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.messages import header_templates as shapes
from goproxyai.messages.header_templates import template_of
from goproxyai.messages.headers import (
    MAX_INSTANCES,
    Headers,
    index_fields,
    is_forwarding_loop,
    is_list_member,
    nominated_fields,
    request_headers_for_upstream,
    response_headers_for_client,
    via_value,
)

NAMES = st.sampled_from(
    b"Accept Authorization Connection Content-Length Content-Type Cookie Expect Host Keep-Alive"
    b" Proxy-Authorization Proxy-Connection Proxy-Whatever Set-Cookie TE Trailer"
    b" Transfer-Encoding Upgrade Vary X-A X-B X-Cache X-Cache-Timestamp X-Proxy".split()
)
ANY_CASE = st.builds(
    lambda name, how: how(name),
    NAMES,
    st.sampled_from([bytes, bytes.lower, bytes.upper, bytes.swapcase]),
)
CONNECTION_VALUES = st.sampled_from(
    [b"close", b"Keep-Alive", b"", b"x-a", b"X-A, close", b"content-length, host", b"a b,, X-B ,"]
)
LINES = st.lists(
    ANY_CASE.flatmap(
        lambda name: st.tuples(
            st.just(name),
            CONNECTION_VALUES if name.lower() == b"connection" else st.binary(max_size=5),
        )
    ),
    max_size=12,
)


def expected(lines: Headers, also: set[bytes]) -> Headers:
    """A literal implementation of the rules."""
    gone = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
    for name, value in lines:
        if name.lower() == b"connection":
            gone |= {option.strip().lower() for option in value.split(b",")}
    gone = gone - {b"content-length", b"host"} | also
    return [
        (name, value)
        for name, value in lines
        if name.lower() not in gone and not name.lower().startswith(b"proxy-")
    ]


@given(LINES)
def test_forwarded_fields_keep_order_case_and_repetition(
    lines: Headers,
) -> None:
    before = list(lines)
    fields, _ = index_fields(lines)
    ours = {b"x-cache", b"x-cache-timestamp", b"x-proxy"}
    assert request_headers_for_upstream(lines, fields) == expected(lines, {b"host", b"expect"})
    assert response_headers_for_client(lines, fields) == expected(lines, ours)
    assert lines == before


@given(LINES)
def test_index_joins_repeated_lines_in_order(lines: Headers) -> None:
    fields, repeated = index_fields(lines)
    names = [name.lower() for name, _ in lines]
    assert repeated == (len(set(names)) < len(names))
    assert fields == {
        wanted: b", ".join([value for name, value in lines if name.lower() == wanted])
        for wanted in names
    }


@given(LINES)
def test_template_agrees_with_functions(lines: Headers) -> None:
    names, values = tuple(name for name, _ in lines), tuple(value for _, value in lines)
    fields, _ = index_fields(lines)
    for _ in range(2):  # the second time from the cache
        shape = template_of(names)
        assert shape.headers(values) == lines
        assert shape.fields(values) == fields
        wanted = b"".join(
            [b"%b: %b\r\n" % pair for pair in response_headers_for_client(lines, fields)]
        )
        assert shape.relayed_lines(values, fields) == wanted


def test_percent_sign_in_name_is_kept() -> None:
    shape = template_of((b"X-%s", b"%b", b"Connection"))
    assert shape.relayed_lines((b"1", b"%d", b"close"), {}) == b"X-%s: 1\r\n%b: %d\r\n"


def test_template_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered: dict[bytes, shapes.HeaderTemplate] = {}
    monkeypatch.setattr(shapes, "_templates", remembered)
    for i in range(3 * shapes.MAX_TEMPLATES):
        names = (b"X-%d" % i, b"TE")
        assert template_of(names) is template_of(names)
    assert 0 < len(remembered) <= shapes.MAX_TEMPLATES
    remembered.clear()
    template_of((b"X" * shapes.MAX_TEMPLATE_NAME_BYTES, b"TE"))
    assert not remembered


def test_connection_options_nominate_no_field() -> None:
    assert nominated_fields({}) == frozenset()
    assert nominated_fields({b"connection": b"keep-alive"}) == frozenset()
    assert nominated_fields({b"connection": b"close, KEEP-ALIVE, Host"}) == frozenset()
    assert nominated_fields({b"connection": b" X-A ,close"}) == {b"x-a"}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"chunked", True),
        (b"gzip, Chunked", True),
        (b"gzip ,\tchunked , ", True),
        (b"", False),
        (b"x-chunked", False),
        (b"chunked;q=1", False),
        (b"chun, ked", False),
    ],
)
def test_list_member_in_any_case(value: bytes, found: bool) -> None:
    assert is_list_member(value, b"chunked") is found


@pytest.mark.parametrize(
    "via",
    [
        b"1.1 goproxyai (i0)",
        b"HTTP/1.1 GoProxyAI (I0)",
        b"1.1 goproxyai (other), 1.0 fred, 1.1 goproxyai (i0), 1.1 z",
        b"1.1 a (never ends, 1.1 goproxyai (i0)",
        via_value(b"i0"),
    ],
)
def test_own_instance_in_via_is_a_loop(via: bytes) -> None:
    assert is_forwarding_loop({b"via": via}, b"i0")


@pytest.mark.parametrize(
    "element",
    [
        b"1.1 goproxyai",
        b"HTTP/1.1 GoProxyAI",
        b"1.0 fred, 1.1\tgoproxyai (x)",
        b"1.1 a (comment, with comma), 1.1 goproxyai",
        b"1.1 a (nested (one) \\) still), 1.1 goproxyai",
        b"1.1 (why not) goproxyai, 1.1 z",
        b"1.1 a ) goproxyai, 1.1 goproxyai",
    ],
)
def test_too_many_instances_in_via_are_a_loop(element: bytes) -> None:
    for count in range(MAX_INSTANCES + 2):
        via = b", ".join([element] * count)
        assert is_forwarding_loop({b"via": via}, b"i0") is (count >= MAX_INSTANCES)


@pytest.mark.parametrize(
    "via",
    [
        b"",
        b"1.1 varnish",
        b"1.1 goproxyai2",
        b"1.1 my-goproxyai, 1.1 x.goproxyai",
        b"1.1 fred (like, 1.1 goproxyai, but not)",
        b"1.1 fred (a (b), 1.1 goproxyai)",
        b"goproxyai 1.1",
        b"1.1 fred goproxyai",
        b"goproxyai",
    ],
)
def test_other_names_in_via_are_no_loop(via: bytes) -> None:
    assert not is_forwarding_loop({b"via": b", ".join([via] * 2 * MAX_INSTANCES)}, b"i0")


def test_missing_via_is_no_loop() -> None:
    assert not is_forwarding_loop({}, b"i0")


@given(st.text("1.() \\,goproxyai", max_size=60))
def test_junk_in_via_hides_no_later_element(junk: str) -> None:
    assert is_forwarding_loop({b"via": junk.encode() + b", 1.1 goproxyai" * MAX_INSTANCES}, b"i0")
    assert is_forwarding_loop({b"via": junk.encode() + b", 1.1 goproxyai (i0)"}, b"i0")


@pytest.mark.parametrize(
    "name",
    [
        b"Forwarded", b"X-Forwarded-For", b"x-forwarded-proto", b"X-FORWARDED-HOST",
        b"X-Forwarded-Anything", b"X-Real-IP", b"True-Client-IP", b"CF-Connecting-IP",
        b"CF-Connecting-IPv6", b"X-Client-IP", b"X-Envoy-External-Address",
    ],
)  # fmt: skip
def test_field_about_the_network_of_the_client_is_not_sent_upstream(name: bytes) -> None:
    headers = [(b"X-Kept", b"1"), (name, b"192.0.2.7"), (b"X-Forward", b"2")]
    assert request_headers_for_upstream(headers, index_fields(headers)[0]) == [
        (b"X-Kept", b"1"),
        (b"X-Forward", b"2"),
    ]
