from __future__ import annotations

from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from goproxyai.proxy.recorder import Recorder
from goproxyai.proxy.shared_body import MAX_SHARED_BYTES, SharedBody, shared_body_for
from tests.unit.proxy.parts import KEY, get_head, miss_of, proxy_parts, response_of

PLAIN = [(b"Content-Type", b"text/plain")]


def body_of(pieces: list[bytes], storable: bool = True) -> SharedBody:
    parts = proxy_parts()
    body = SharedBody(
        Recorder(parts.context.store, response_of(PLAIN), 60.0, parts.clock.seconds), storable
    )
    for piece in pieces:
        assert body.add(piece)
    return body


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=10), st.data())
def test_offsets_and_digests_describe_the_body_up_to_each_position(
    pieces: list[bytes], data: st.DataObject
) -> None:
    positions = sorted(data.draw(st.lists(st.integers(0, len(pieces)), max_size=5)))
    body = body_of(pieces)
    expected = [b"".join(pieces[:position]) for position in positions]
    assert list(body.offsets(positions)) == [len(start) for start in expected]
    assert [(size, digest.digest()) for size, digest in body.digests(positions)] == [
        (len(start), blake2b(start).digest()) for start in expected
    ]


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=10), st.integers(0, 12))
def test_rest_is_the_body_after_a_position(pieces: list[bytes], position: int) -> None:
    assert body_of(pieces).rest(position) == b"".join(pieces[position:])


def test_body_larger_than_the_bound_exceeds_sharing() -> None:
    body = body_of([b"x" * MAX_SHARED_BYTES])
    assert not body.exceeds_sharing
    assert body.add(b"x")
    assert body.exceeds_sharing


def test_complete_body_is_stored_and_its_reservation_released() -> None:
    parts = proxy_parts()
    miss = miss_of(parts, get_head())
    body = shared_body_for(parts.context, miss, response_of(PLAIN), shareable=True)
    assert body is not None
    assert body.add(b"data")
    assert parts.context.store.reserved > 0
    content, entry = body.complete(miss, None, framed=True)
    assert content == b"data"
    assert parts.context.store.reserved == 0
    assert entry is not None
    assert parts.context.store.get(KEY, 0.0) is entry


def test_unstorable_response_is_collected_only_where_it_is_shared() -> None:
    parts = proxy_parts()
    miss = miss_of(parts, get_head())
    failed = response_of(PLAIN, status=500)
    assert shared_body_for(parts.context, miss, failed, shareable=False) is None
    body = shared_body_for(parts.context, miss, failed, shareable=True)
    assert body is not None
    assert not body.storable


def test_pieces_outlive_the_release_of_the_recorder() -> None:
    body = body_of([b"a", b"b"])
    body.drop()
    assert body.pieces == [b"a", b"b"]
