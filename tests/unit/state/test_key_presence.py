"""The table of keys that the second level may have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from goproxyai.state.key_presence import COUNTERS, PRESENCE_BYTES, AnnouncedStore, KeyPresence
from tests.unit.cache.stored import ALICE, BOB, FILES, entry

KEYS = [bytes((number, 0, number % 2)) + b"k" * 29 for number in range(12)]
SIZE = 20_000
"""Of the store: some of the entries have room."""


def table() -> KeyPresence:
    return KeyPresence(memoryview(bytearray(PRESENCE_BYTES)))


def test_key_is_present_until_all_its_entries_are_removed() -> None:
    presence = table()
    for _ in range(2):
        presence.add(KEYS[1])
    presence.remove(KEYS[1])
    assert presence.may_have(KEYS[1])
    for _ in range(2):  # one too many does no harm
        presence.remove(KEYS[1])
        assert not presence.may_have(KEYS[1])


def test_keys_of_the_same_hash_share_a_counter() -> None:
    presence = table()
    presence.add(KEYS[1])
    assert presence.may_have(KEYS[1][:3] + b"other")


def test_full_counter_stays_until_the_table_is_cleared() -> None:
    presence = table()
    for _ in range(300):
        presence.add(KEYS[1])
    for _ in range(300):
        presence.remove(KEYS[1])
    assert presence.may_have(KEYS[1])
    presence.cache_cleared()
    assert not presence.may_have(KEYS[1])


def test_first_and_last_counter_are_used() -> None:
    presence = table()
    for key in (b"\xff" * 32, bytes(32)):
        presence.add(key)
    assert (presence._counters[COUNTERS - 1], presence._counters[0]) == (1, 1)


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, object]]:
    values = {
        "put": st.tuples(st.sampled_from(KEYS), st.sampled_from([10, 500, 1_900, 3_000])),
        "write": st.sampled_from([ALICE, BOB]),
        "clear": st.sampled_from([None, FILES, b"/v1/other"]),
        "expire": st.integers(0, 400),
        "outdated": st.sampled_from(KEYS),
    }
    names = draw(st.lists(st.sampled_from([*values, "put", "put"]), max_size=40))
    return [(name, draw(values[name])) for name in names]


def do(store: AnnouncedStore, now: float, name: str, value: object) -> float:
    """Do one step; return the time after it."""
    match name, value:
        case "put", (bytes(key), int(size)):
            store.put(entry(key, bytes(size), now=now), FILES, ALICE, store.generation())
        case "write", bytes(owner):
            store.invalidate(owner)
        case "clear", None | bytes() as path:
            store.clear(path)
        case "expire", int(seconds):
            now += seconds
            store.remove_expired(now)
        case _, bytes(key):
            store.clear(b"/v1/none")
            assert not store.put(entry(key, now=now), FILES, ALICE, 0)
    return now


@given(steps())
def test_table_has_exactly_the_entries_of_the_store(steps: list[tuple[str, object]]) -> None:
    presence = table()
    store = AnnouncedStore(SIZE, presence)
    now = 0.0
    for name, value in steps:
        now = do(store, now, name, value)
        assert presence.generation == store.generation()
        assert all(presence.may_have(each.key) for each in store)
    while store.remove_expired(now):
        pass
    stored = {each.key for each in store}
    assert {key for key in KEYS if presence.may_have(key)} == stored
