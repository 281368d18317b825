"""Connection slots: admission, eviction of idle connections, and connections over the limit.

The last test compares them with a model that keeps one list and searches all of it at each step.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.limits.connection_slots import (
    MAX_IDLE_CHECKS,
    MAX_OVER_LIMIT,
    MIN_IDLE_SECONDS,
    ConnectionSlots,
    connections_for,
    descriptors_for,
)

ADMITTED = (True, None)
REFUSED = (False, None)


def make_slots(
    max_connections: int = 2, max_per_client: int = 0, busy: tuple[str, ...] = ()
) -> ConnectionSlots[str]:
    """Slots for connections that are idle if they were marked so, except *busy*."""
    return ConnectionSlots(max_connections, max_per_client, lambda name: name not in busy)


def admit(
    slots: ConnectionSlots[str], *names: str, now: float = 0.0
) -> list[tuple[bool, str | None]]:
    """Admit connections; the first letter of a name is the client."""
    return [slots.admit(name, name[0], now) for name in names]


def test_connections_are_admitted_up_to_the_limit() -> None:
    slots = make_slots(2)
    assert admit(slots, "a1", "b1", "c1") == [ADMITTED, ADMITTED, REFUSED]
    assert slots.reached_limit("c") == "full"
    slots.remove("a1")
    assert (slots.admitted, slots.reached_limit("c")) == (1, "")
    assert admit(slots, "c1") == [ADMITTED]


def test_longest_idle_connection_is_evicted() -> None:
    slots = make_slots(3)
    admit(slots, "a1", "b1", "c1")
    for name, now in (("b1", 1.0), ("a1", 2.0), ("c1", 3.0)):
        slots.mark_idle(name, now)
    slots.mark_idle("b1", 4.0)  # after another request
    assert admit(slots, "d1", "d2", "d3", now=9.0) == [(True, "a1"), (True, "c1"), (True, "b1")]
    assert (slots.admitted, admit(slots, "d4", now=99.0)) == (3, [REFUSED])


def test_connection_is_not_evicted_before_the_minimum_idle_time() -> None:
    slots = make_slots(1)
    admit(slots, "a1")
    slots.mark_idle("a1", 5.0)
    assert admit(slots, "b1", now=5.0 + MIN_IDLE_SECONDS - 0.01) == [REFUSED]
    assert admit(slots, "b1", now=5.0 + MIN_IDLE_SECONDS) == [(True, "a1")]


def test_busy_connection_is_not_evicted() -> None:
    slots = make_slots(1)
    admit(slots, "a1")
    slots.mark_idle("a1", 0.0)
    slots.mark_busy("a1")
    assert admit(slots, "b1", now=9.0) == [REFUSED]


def test_connection_that_is_no_longer_idle_is_not_evicted() -> None:
    slots = make_slots(2, busy=("a1",))
    admit(slots, "a1", "b1")
    slots.mark_idle("a1", 0.0)
    slots.mark_idle("b1", 1.0)
    assert admit(slots, "c1", now=9.0) == [(True, "b1")]
    assert admit(slots, "c2", now=9.0) == [REFUSED]


def test_idle_checks_are_bounded() -> None:
    checked: list[int] = []
    slots: ConnectionSlots[int] = ConnectionSlots(
        10_000, 0, lambda number: bool(checked.append(number))
    )
    for number in range(10_000):
        slots.admit(number, None, 0.0)
        slots.mark_idle(number, 0.0)
    assert slots.admit(-1, None, 9.0) == REFUSED
    assert checked == list(range(MAX_IDLE_CHECKS))


def test_client_at_its_limit_evicts_only_its_own_connections() -> None:
    slots = make_slots(9, max_per_client=2)
    admit(slots, "b1", "a1", "a2")
    for name in ("b1", "a1"):
        slots.mark_idle(name, 0.0)
    assert slots.reached_limit("a") == "per_client"
    assert admit(slots, "a3", now=9.0) == [(True, "a1")]
    assert admit(slots, "a4", now=9.0) == [REFUSED]
    assert admit(slots, "b2", "c1", now=9.0) == [ADMITTED, ADMITTED]


def test_full_slots_evict_connections_of_any_client() -> None:
    slots = make_slots(2, max_per_client=2)
    admit(slots, "a1", "b1")
    slots.mark_idle("b1", 0.0)
    assert admit(slots, "a2", now=9.0) == [(True, "b1")]
    assert slots.reached_limit("a") == "per_client"


def test_unknown_client_has_no_limit_of_its_own() -> None:
    slots = make_slots(3, max_per_client=1)
    results = [slots.admit(f"x{number}", None, 0.0) for number in range(4)]
    assert results == [ADMITTED, ADMITTED, ADMITTED, REFUSED]


def test_oldest_connection_over_the_limit_is_dropped_first() -> None:
    slots: ConnectionSlots[int] = ConnectionSlots(1, 0, bool)
    slots.admit(-1, None, 0.0)
    dropped = [slots.add_over_limit(number) for number in range(MAX_OVER_LIMIT + 2)]
    assert dropped == [None] * MAX_OVER_LIMIT + [0, 1]
    assert slots.over_limit == MAX_OVER_LIMIT


def test_connection_over_the_limit_is_admitted_when_a_slot_is_free() -> None:
    slots = make_slots(1)
    admit(slots, "a1")
    slots.add_over_limit("b1")
    assert admit(slots, "b1") == [REFUSED]
    assert slots.over_limit == 1
    slots.remove("a1")
    assert admit(slots, "b1") == [ADMITTED]
    assert (slots.admitted, slots.over_limit) == (1, 0)


def test_connection_over_the_limit_is_not_marked_idle() -> None:
    slots = make_slots(1)
    admit(slots, "a1")
    slots.add_over_limit("b1")
    slots.mark_idle("b1", 0.0)
    assert slots.idle == []
    assert admit(slots, "c1", now=9.0) == [REFUSED]


@pytest.mark.parametrize(
    ("descriptors", "wanted", "connections"),
    [
        (15_164, 10_000, 10_000),
        (15_163, 10_000, 9_999),
        (1024, 10_000, 573),
        (256, 1, 1),
        (9, 7, 1),
    ],
)
def test_connections_for_descriptors(descriptors: int, wanted: int, connections: int) -> None:
    assert connections_for(descriptors, wanted) == connections
    assert connections == 1 or descriptors_for(connections) <= descriptors


class Model:
    """The same rules, without regard to cost."""

    def __init__(self, max_connections: int, max_per_client: int) -> None:
        self.max_connections, self.max_per_client = max_connections, max_per_client
        self.admitted: dict[int, int | None] = {}  # the client of each, in order of admission
        self.idle_since: dict[int, float] = {}
        self.over_limit: list[int] = []
        self.busy: set[int] = set()

    def admit(self, number: int, client: int | None, now: float) -> tuple[bool, int | None]:
        own = [each for each, owner in self.admitted.items() if owner == client]
        evicted = None
        if self.max_per_client and client is not None and len(own) >= self.max_per_client:
            evicted = self.find_idle(own, now)
        elif len(self.admitted) >= self.max_connections:
            evicted = self.find_idle(list(self.admitted), now)
        else:
            evicted = -1
        if evicted is None:
            return False, None
        self.remove(evicted)
        self.remove(number)
        self.admitted[number] = client
        return True, None if evicted < 0 else evicted

    def find_idle(self, among: list[int], now: float) -> int | None:
        order = sorted((since, each) for each, since in self.idle_since.items() if each in among)
        for since, each in order[:MAX_IDLE_CHECKS]:
            if now - since < MIN_IDLE_SECONDS:
                return None
            if each not in self.busy:
                return each
            del self.idle_since[each]
        return None

    def add_over_limit(self, number: int) -> int | None:
        dropped = self.over_limit.pop(0) if len(self.over_limit) >= MAX_OVER_LIMIT else None
        self.over_limit.append(number)
        return dropped

    def remove(self, number: int) -> None:
        self.admitted.pop(number, None)
        self.idle_since.pop(number, None)
        if number in self.over_limit:
            self.over_limit.remove(number)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("connect"), st.one_of(st.none(), st.integers(0, 2))),
        st.tuples(
            st.sampled_from(["disconnect", "idle", "busy", "toggle", "request"]), st.integers(0, 7)
        ),
    ),
    max_size=80,
)


@given(st.integers(1, 6), st.integers(0, 3), STEPS)
def test_slots_agree_with_the_model(
    max_connections: int, max_per_client: int, steps: list[tuple[str, int | None]]
) -> None:
    model = Model(max_connections, max_per_client)
    slots: ConnectionSlots[int] = ConnectionSlots(
        max_connections, max_per_client, lambda number: number not in model.busy
    )
    now, number = 0.0, 0
    clients: dict[int, int | None] = {}

    def admit(one: int) -> bool:
        client = clients[one]
        expected = model.admit(one, client, now)
        assert slots.admit(one, None if client is None else str(client), now) == expected
        return expected[0]

    for step, which in steps:
        now += 0.4
        if step == "connect":
            number += 1
            clients[number] = which
            if not admit(number):
                assert slots.add_over_limit(number) == model.add_over_limit(number)
        elif model.admitted or model.over_limit:
            existing = sorted({*model.admitted, *model.over_limit})
            one = existing[(which or 0) % len(existing)]
            if step == "disconnect":
                model.remove(one)
                slots.remove(one)
            elif step == "idle":
                if one in model.admitted:
                    model.idle_since[one] = now
                slots.mark_idle(one, now)
            elif step == "busy":
                model.idle_since.pop(one, None)
                slots.mark_busy(one)
            elif step == "toggle":
                model.busy ^= {one}
            elif model.over_limit:
                admit(model.over_limit[(which or 0) % len(model.over_limit)])
        assert (slots.admitted, slots.over_limit) == (len(model.admitted), len(model.over_limit))
        assert slots.admitted <= max_connections
    for one in [*model.admitted, *model.over_limit]:
        slots.remove(one)
    assert (slots.admitted, slots.over_limit, slots.idle, slots.clients) == (0, 0, [], 0)
