"""Who may be connected, and who goes: the policy alone, beside a model that looks at everybody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.limits.connection_slots import (
    GRACE,
    LOOKS,
    RESERVE,
    ConnectionSlots,
    descriptors,
    places,
)


def slots(most: int = 2, each: int = 0, busy: tuple[str, ...] = ()) -> ConnectionSlots[str]:
    """One in which whoever is noted to rest does so, but for the *busy*."""
    return ConnectionSlots(most, each, lambda one: one not in busy)


def enter(
    slots: ConnectionSlots[str], *ones: str, now: float = 0.0
) -> list[tuple[bool, str | None]]:
    """Let them in; a connection's first letter is its client."""
    return [slots.enter(one, one[0], now) for one in ones]


IN = (True, None)
NO_PLACE = (False, None)


def test_so_many_come_in_and_no_more() -> None:
    one = slots(2)
    assert enter(one, "a1", "b1", "c1") == [IN, IN, NO_PLACE]
    assert one.reached("c") == "full"
    one.leave("a1")
    assert (one.inside, one.reached("c")) == (1, "")
    assert enter(one, "c1") == [IN]


def test_who_rests_longest_makes_room() -> None:
    one = slots(3)
    enter(one, "a1", "b1", "c1")
    for rested, now in (("b1", 1.0), ("a1", 2.0), ("c1", 3.0)):
        one.rests(rested, now)
    one.rests("b1", 4.0)  # it has asked again meanwhile
    assert enter(one, "d1", "d2", "d3", now=9.0) == [(True, "a1"), (True, "c1"), (True, "b1")]
    assert (one.inside, enter(one, "d4", now=99.0)) == (3, [NO_PLACE])


def test_nobody_makes_room_who_has_rested_but_a_moment() -> None:
    one = slots(1)
    enter(one, "a1")
    one.rests("a1", 5.0)
    assert enter(one, "b1", now=5.0 + GRACE - 0.01) == [NO_PLACE]
    assert enter(one, "b1", now=5.0 + GRACE) == [(True, "a1")]


def test_who_works_does_not_make_room() -> None:
    one = slots(1)
    enter(one, "a1")
    one.rests("a1", 0.0)
    one.works("a1")
    assert enter(one, "b1", now=9.0) == [NO_PLACE]


def test_who_was_noted_to_rest_is_asked_whether_it_still_does() -> None:
    one = slots(2, busy=("a1",))
    enter(one, "a1", "b1")
    one.rests("a1", 0.0)
    one.rests("b1", 1.0)
    assert enter(one, "c1", now=9.0) == [(True, "b1")]
    assert enter(one, "c2", now=9.0) == [NO_PLACE]


def test_a_newcomer_costs_so_many_looks_at_the_most() -> None:
    asked: list[int] = []
    one: ConnectionSlots[int] = ConnectionSlots(
        10_000, 0, lambda number: bool(asked.append(number))
    )
    for number in range(10_000):
        one.enter(number, None, 0.0)
        one.rests(number, 0.0)
    assert one.enter(-1, None, 9.0) == NO_PLACE
    assert asked == list(range(LOOKS))


def test_a_client_at_its_bound_makes_room_for_itself_alone() -> None:
    one = slots(9, each=2)
    enter(one, "b1", "a1", "a2")
    for each in ("b1", "a1"):
        one.rests(each, 0.0)
    assert one.reached("a") == "per_client"
    assert enter(one, "a3", now=9.0) == [(True, "a1")]
    assert enter(one, "a4", now=9.0) == [NO_PLACE]
    assert enter(one, "b2", "c1", now=9.0) == [IN, IN]


def test_where_all_is_full_it_does_not_matter_whose_it_is() -> None:
    one = slots(2, each=2)
    enter(one, "a1", "b1")
    one.rests("b1", 0.0)
    assert enter(one, "a2", now=9.0) == [(True, "b1")]
    assert one.reached("a") == "per_client"


def test_who_is_nobody_in_particular_has_no_bound_of_its_own() -> None:
    one = slots(3, each=1)
    assert [one.enter(f"x{number}", None, 0.0) for number in range(4)] == [IN, IN, IN, NO_PLACE]


def test_outside_who_came_first_goes_first() -> None:
    one: ConnectionSlots[int] = ConnectionSlots(1, 0, bool)
    one.enter(-1, None, 0.0)
    assert [one.wait(number) for number in range(RESERVE + 2)] == [None] * RESERVE + [0, 1]
    assert one.outside == RESERVE


def test_who_waits_outside_comes_in_once_there_is_a_place() -> None:
    one = slots(1)
    enter(one, "a1")
    one.wait("b1")
    assert enter(one, "b1") == [NO_PLACE]
    assert one.outside == 1
    one.leave("a1")
    assert enter(one, "b1") == [IN]
    assert (one.inside, one.outside) == (1, 0)


def test_who_is_outside_is_not_noted_to_rest() -> None:
    one = slots(1)
    enter(one, "a1")
    one.wait("b1")
    one.rests("b1", 0.0)
    assert enter(one, "c1", now=9.0) == [NO_PLACE]


@pytest.mark.parametrize(
    ("allowed", "wanted", "held"),
    [
        (15_164, 10_000, 10_000),
        (15_163, 10_000, 9_999),
        (1024, 10_000, 573),
        (256, 1, 1),
        (9, 7, 1),
    ],
)
def test_as_many_are_held_as_files_suffice_for(allowed: int, wanted: int, held: int) -> None:
    assert places(allowed, wanted) == held
    assert held == 1 or descriptors(held) <= allowed


# The model: one list, looked through from its beginning to its end each time.

NUMBERS = st.integers(0, 7)


class Model:
    """What the rules say, without a thought of what it costs."""

    def __init__(self, most: int, each: int) -> None:
        self.most, self.each = most, each
        self.inside: dict[int, int | None] = {}  # whose it is, in order of coming
        self.since: dict[int, float] = {}
        self.outside: list[int] = []
        self.busy: set[int] = set()

    def enter(self, one: int, client: int | None, now: float) -> tuple[bool, int | None]:
        own = [each for each, whose in self.inside.items() if whose == client]
        goes = None
        if self.each and client is not None and len(own) >= self.each:
            goes = self.first(own, now)
        elif len(self.inside) >= self.most:
            goes = self.first(list(self.inside), now)
        else:
            goes = -1
        if goes is None:
            return False, None
        self.leave(goes)
        self.leave(one)
        self.inside[one] = client
        return True, None if goes < 0 else goes

    def first(self, among: list[int], now: float) -> int | None:
        order = sorted((since, each) for each, since in self.since.items() if each in among)
        for since, each in order[:LOOKS]:
            if now - since < GRACE:
                return None
            if each not in self.busy:
                return each
            del self.since[each]
        return None

    def wait(self, one: int) -> int | None:
        goes = self.outside.pop(0) if len(self.outside) >= RESERVE else None
        self.outside.append(one)
        return goes

    def leave(self, one: int) -> None:
        self.inside.pop(one, None)
        self.since.pop(one, None)
        if one in self.outside:
            self.outside.remove(one)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.one_of(st.none(), st.integers(0, 2))),
        st.tuples(st.sampled_from(["leave", "rests", "works", "busy", "knock"]), NUMBERS),
    ),
    max_size=80,
)


@given(st.integers(1, 6), st.integers(0, 3), STEPS)
def test_the_crowd_does_what_the_model_does(
    most: int, each: int, steps: list[tuple[str, int | None]]
) -> None:
    model = Model(most, each)
    ours: ConnectionSlots[int] = ConnectionSlots(most, each, lambda one: one not in model.busy)
    now, number = 0.0, 0
    clients: dict[int, str | None] = {}
    for what, which in steps:
        now += 0.4
        here = sorted({*model.inside, *model.outside})
        if what == "come":
            number += 1
            clients[number] = None if which is None else str(which)
            entered = model.enter(number, which, now)
            assert ours.enter(number, clients[number], now) == entered
            if not entered[0]:
                assert ours.wait(number) == model.wait(number)
        elif not here:
            continue
        else:
            one = here[(which or 0) % len(here)]
            if what == "leave":
                model.leave(one)
                ours.leave(one)
            elif what == "rests":
                if one in model.inside:
                    model.since[one] = now
                ours.rests(one, now)
            elif what == "works":
                model.since.pop(one, None)
                ours.works(one)
            elif what == "busy":
                model.busy ^= {one}
            elif model.outside:
                one = model.outside[(which or 0) % len(model.outside)]
                client = clients[one]
                entered = model.enter(one, None if client is None else int(client), now)
                assert ours.enter(one, client, now) == entered
        assert (ours.inside, ours.outside) == (len(model.inside), len(model.outside))
        assert ours.inside <= most
    for one in [*model.inside, *model.outside]:
        ours.leave(one)
    assert (ours.inside, ours.outside, ours._resting, ours._clients) == (0, 0, {}, {})
