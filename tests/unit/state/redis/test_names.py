"""Names and values: nothing is readable, and nothing can be exchanged."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.state.redis.names import OVERHEAD_BYTES, Names, ValueInvalid

NAMES = Names("a passphrase of some length", "goproxyai:", os.urandom)
OTHERS = Names("another passphrase of length", "goproxyai:", os.urandom)


def test_names_begin_with_the_prefix_and_do_not_show_their_material() -> None:
    name = NAMES.hashed(b"limit", b"192.0.2.1")
    assert name.startswith(b"goproxyai:limit:")
    assert b"192" not in name
    assert name == NAMES.hashed(b"limit", b"192.0.2.1")
    assert NAMES.plain(b"probe") == b"goproxyai:probe"


def test_names_differ_by_kind_material_and_secret() -> None:
    names = {
        NAMES.hashed(b"a", b"bc"),
        NAMES.hashed(b"ab", b"c"),
        NAMES.hashed(b"a", b"bd"),
        OTHERS.hashed(b"a", b"bc"),
    }
    assert len(names) == 4


@given(content=st.binary(max_size=200), associated=st.binary(max_size=20))
def test_sealed_value_is_opened_with_the_same_secret_and_associated_data(
    content: bytes, associated: bytes
) -> None:
    value = NAMES.seal(content, associated)
    assert len(value) == len(content) + OVERHEAD_BYTES
    assert NAMES.opened(value, associated) == content
    for names, other in ((NAMES, associated + b"x"), (OTHERS, associated)):
        with pytest.raises(ValueInvalid):
            names.opened(value, other)


@given(position=st.integers(0, OVERHEAD_BYTES + 3), bit=st.integers(0, 7))
def test_each_changed_bit_is_detected(position: int, bit: int) -> None:
    value = bytearray(NAMES.seal(b"text", b"name"))
    value[position] ^= 1 << bit
    with pytest.raises(ValueInvalid):
        NAMES.opened(bytes(value), b"name")


@pytest.mark.parametrize("value", [b"", b"\x01", b"\x02" + b"x" * 60])
def test_value_of_another_version_or_too_short_is_invalid(value: bytes) -> None:
    with pytest.raises(ValueInvalid):
        NAMES.opened(value, b"name")


def test_values_of_equal_content_differ() -> None:
    assert NAMES.seal(b"text", b"") != NAMES.seal(b"text", b"")
