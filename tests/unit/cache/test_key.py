"""Cache keys are equal for equal requests only."""

from __future__ import annotations

import hashlib
import marshal
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache.key import CREDENTIAL_FIELDS, KEY_FIELDS, cache_key, credential_id
from goproxyai.messages.headers import Headers, index_fields

VALUES = st.sampled_from([b"", b"a", b"b", b"a, b", b"a,b", b"b, a"])
KEY_LINES = st.lists(st.tuples(st.sampled_from(KEY_FIELDS[:4]), VALUES), max_size=5)
OTHER_LINES = st.lists(st.tuples(st.sampled_from([b"User-Agent", b"X-A", b"Via"]), VALUES))
SHORT = st.binary(max_size=3)
REQUESTS = st.tuples(st.sampled_from([b"GET", b"POST"]), SHORT, KEY_LINES, SHORT)


def key(method: bytes, target: bytes, lines: Headers, body: bytes = b"") -> bytes:
    fields, repeated = index_fields(lines)
    return cache_key(method, target, fields, lines, repeated, body)


def meaning(lines: Headers) -> dict[bytes, list[bytes]]:
    by_name: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        by_name.setdefault(name, []).append(value)
    return by_name


@given(REQUESTS, REQUESTS)
def test_keys_are_equal_if_and_only_if_all_parts_are(
    one: tuple[bytes, bytes, Headers, bytes], other: tuple[bytes, bytes, Headers, bytes]
) -> None:
    same = one[:2] == other[:2] and one[3] == other[3] and meaning(one[2]) == meaning(other[2])
    assert (key(*one) == key(*other)) is same


@given(st.binary(), st.binary(), st.dictionaries(st.sampled_from(KEY_FIELDS), st.binary()))
def test_change_of_one_part_changes_key(
    target: bytes, body: bytes, values: dict[bytes, bytes]
) -> None:
    lines = list(values.items())
    variants = [
        (b"POST", target, lines, body),
        (b"GET", target, lines, body),
        (b"POST", target + b"x", lines, body),
        (b"POST", target, lines, body + b"\0"),
        (b"POST", target, lines, b"x" + body),
    ]
    for name in KEY_FIELDS:
        others = [line for line in lines if line[0] != name]
        if name in values:
            variants.append((b"POST", target, others, body))
            variants.append((b"POST", target, [*others, (name, values[name] + b"x")], body))
        else:
            variants.append((b"POST", target, [*others, (name, b"")], body))
    assert len({key(*variant) for variant in variants}) == len(variants)


@given(KEY_LINES, OTHER_LINES, st.randoms(use_true_random=False))
def test_case_order_and_other_fields_do_not_change_key(
    lines: Headers, others: Headers, chance: random.Random
) -> None:
    mixed = [(name.title(), value) for name, value in lines]
    for other in others:
        mixed.insert(chance.randint(0, len(mixed)), other)
    mixed.sort(key=lambda line: line[0].lower(), reverse=True)  # stable: repeats keep their order
    assert key(b"GET", b"/v1/models", mixed) == key(b"GET", b"/v1/models", lines)


def test_moving_bytes_between_parts_changes_key() -> None:
    requests = [
        key(b"GET", b"/v1/ab", [], b"c"),
        key(b"GET", b"/v1/a", [], b"bc"),
        key(b"GET/", b"v1/a", [], b"bc"),
        key(b"GET", b"/v1/a", [(b"authorization", b"b")], b"c"),
        key(b"GET", b"/v1/a", [(b"content-type", b"b")], b"c"),
        key(b"GET", b"/v1/a", [(b"accept", b"b")], b"c"),
        key(b"GET", b"/v1/a", [(b"accept", b""), (b"accept-encoding", b"b")], b"c"),
        key(b"GET", b"/v1/a", [(b"accept", b"b"), (b"accept-encoding", b"")], b"c"),
    ]
    assert len(set(requests)) == len(requests)


def test_repeated_lines_differ_from_joined_line() -> None:
    shapes = [
        [b"a", b"b"],
        [b"a, b"],
        [b"b", b"a"],
        [b"a", b"b", b""],
        [b"", b"a, b"],
        [b"a, b", b""],
        [b"a", b"", b"b"],
        [],
        [b""],
        [b"", b""],
    ]
    keys = {key(b"GET", b"/v1/x", [(b"Accept", value) for value in shape]) for shape in shapes}
    assert len(keys) == len(shapes)


def test_repetition_of_another_field_does_not_change_key() -> None:
    line = (b"Accept", b"a")
    repeated = [(b"X-Forwarded-For", b"1.1.1.1"), line, (b"X-Forwarded-For", b"2.2.2.2")]
    assert key(b"GET", b"/v1/x", repeated) == key(b"GET", b"/v1/x", [line])


def test_nominated_field_does_not_change_key() -> None:
    named = [(b"Authorization", b"Bearer a"), (b"Connection", b"close, authorization")]
    assert key(b"GET", b"/v1/x", named) == key(b"GET", b"/v1/x", [])
    plain = [named[0], (b"Connection", b"keep-alive")]
    assert key(b"GET", b"/v1/x", plain) == key(b"GET", b"/v1/x", named[:1])
    upgrade = [named[0], (b"Connection", b"Upgrade, close")]
    assert key(b"GET", b"/v1/x", upgrade) == key(b"GET", b"/v1/x", named[:1])


def test_key_is_the_sha_256_of_delimited_parts() -> None:
    lines = [(b"Authorization", b"Bearer a"), (b"Accept", b"b"), (b"Accept", b"c")]
    values: list[Any] = [None] * len(KEY_FIELDS)
    values[KEY_FIELDS.index(b"authorization")] = b"Bearer a"
    values[KEY_FIELDS.index(b"accept")] = (b"b", b"c")
    encoded = marshal.dumps((b"POST", b"/v1/x?y", tuple(values)), 2)
    expected = hashlib.sha256(encoded + b"body").digest()
    assert key(b"POST", b"/v1/x?y", lines, b"body") == expected


def test_lengths_of_key_and_credential_id() -> None:
    assert len(key(b"GET", b"/v1/x", [])) == 32
    assert len(credential_id({})) == 16


def test_credential_id_depends_on_the_credentials_only() -> None:
    named = [{}, {b"authorization": b""}]
    named += [{name: value} for name in CREDENTIAL_FIELDS for value in (b"a", b"b")]
    named += [{b"authorization": b"a", b"api-key": b"a"}]
    assert len({credential_id(fields) for fields in named}) == len(named)
    for fields in named:
        for other in set(KEY_FIELDS) - set(CREDENTIAL_FIELDS):
            assert credential_id({other: b"x", **fields}) == credential_id(fields)
    for name in CREDENTIAL_FIELDS:
        hidden = {b"connection": name, name: b"a"}
        assert credential_id(hidden) == credential_id({})


def test_equal_values_of_different_credential_fields_have_different_keys() -> None:
    keys = {key(b"GET", b"/v1/x", [(name, b"a")]) for name in CREDENTIAL_FIELDS}
    assert len(keys) == len(CREDENTIAL_FIELDS) == 4
