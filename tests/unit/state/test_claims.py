"""The claim table."""

from __future__ import annotations

from goproxyai.state.claims import NOT_EXCLUSIVE, Claims, Passed, Question, Waiter

KEY, OTHER = b"k" * 32, b"o" * 32
ONE, TWO, THREE = Waiter("one", 1), Waiter("two", 1), Waiter("three", 1)


def current(_: int) -> bool:
    return False


def claimed(claims: Claims[str], waiter: Waiter[str] = ONE, key: bytes = KEY) -> int:
    number = claims.claim(key, waiter, 0, current)
    assert isinstance(number, int)
    return number


def test_first_look_up_gets_the_claim_and_others_wait() -> None:
    claims: Claims[str] = Claims()
    first = claimed(claims)
    assert first != NOT_EXCLUSIVE
    assert claims.claim(KEY, TWO, 0, current) is None
    assert claimed(claims, TWO, OTHER) not in (first, NOT_EXCLUSIVE)
    assert (len(claims), claims.waiting) == (2, 1)


def test_end_releases_all_that_wait() -> None:
    claims: Claims[str] = Claims()
    first = claimed(claims)
    for waiter in (TWO, THREE):
        claims.claim(KEY, waiter, 0, current)
    assert claims.end(first) == [TWO, THREE]
    assert claims.end(first) == []
    assert (len(claims), claims.waiting) == (0, 0)


def test_claim_is_passed_on_in_the_order_of_arrival() -> None:
    claims: Claims[str] = Claims()
    first = claimed(claims)
    for waiter in (TWO, THREE):
        claims.claim(KEY, waiter, 0, current)
    passed = claims.pass_on(first, 5)
    assert passed is not None
    assert passed.to == TWO
    assert claims.pass_on(first, 5) is None  # no longer the number of the claim
    assert claims.end(first) == []
    assert claims.held_by("two") == [passed.number]
    last = claims.pass_on(passed.number, 5)
    assert last == Passed(THREE, passed.number + 1)
    assert claims.pass_on(passed.number + 1, 5) is None
    assert (len(claims), claims.waiting) == (0, 0)


def test_overtaken_claim_is_replaced_with_what_waits_for_it() -> None:
    claims: Claims[str] = Claims()
    first = claimed(claims)
    claims.claim(KEY, TWO, 0, current)
    second = claims.claim(KEY, THREE, 3, lambda noted: noted < 3)
    assert second not in (first, None, NOT_EXCLUSIVE)
    assert claims.claim(KEY, Waiter("four", 1), 3, lambda noted: noted < 3) is None
    assert claims.end(first) == []
    assert second is not None
    assert claims.end(second) == [TWO, Waiter("four", 1)]


def test_forgotten_look_up_does_not_wait() -> None:
    claims: Claims[str] = Claims()
    first = claimed(claims)
    claims.claim(KEY, TWO, 0, current)
    for _ in range(2):
        claims.forget(TWO)
    assert claims.waiting == 0
    assert claims.pass_on(first, 0) is None


def test_all_look_ups_of_a_process_are_forgotten() -> None:
    claims: Claims[str] = Claims()
    claimed(claims)
    for number in (1, 2):
        claims.claim(KEY, Waiter("two", number), 0, current)
    claims.claim(KEY, THREE, 0, current)
    assert claims.waiting_holders() == {"two", "three"}
    claims.forget_all("two")
    assert claims.waiting_holders() == {"three"}


def test_bounds_are_kept() -> None:
    claims: Claims[str] = Claims(max_claims=1, max_waiting=1)
    claimed(claims)
    assert claimed(claims, ONE, OTHER) == NOT_EXCLUSIVE
    assert claims.claim(KEY, TWO, 0, current) is None
    assert claims.claim(KEY, THREE, 0, current) == NOT_EXCLUSIVE
    assert (len(claims), claims.waiting) == (1, 1)


class Marks:
    """Notes the claims."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []

    def begin(self, key: bytes) -> None:
        self.keys.append(key)

    def end(self, key: bytes) -> None:
        self.keys.remove(key)


def test_candidates_are_asked_before_a_look_up_gets_the_claim() -> None:
    marks = Marks()
    claims: Claims[str] = Claims(marks=marks)
    noted: list[list[bytes]] = []

    def candidates() -> list[str]:
        noted.append(list(marks.keys))
        return ["two", "three"]

    first = claims.claim(KEY, ONE, 0, current, candidates)
    assert first == Question("two", 1, KEY)
    assert noted == [[KEY]]  # the claim is counted before the candidates are looked for
    assert (claims.waiting, claims.unmarked) == (1, 0)
    assert claims.pass_on(1, 0) == Question("three", 2, KEY)
    claims.confirm(1, 0)
    assert claims.pass_on(2, 0) == Passed(ONE, 3)
    assert (claims.waiting, claims.unmarked) == (0, 1)
    assert claims.end(3) == []
    assert marks.keys == []


def test_confirmed_claim_is_passed_on_without_further_questions() -> None:
    claims: Claims[str] = Claims()
    claims.claim(KEY, ONE, 0, current, lambda: ["two", "three"])
    claims.confirm(1, 4)
    assert claims.claim(KEY, THREE, 9, lambda generation: generation > 4) is None
    assert claims.pass_on(1, 9) == Passed(ONE, 2)


def test_candidate_is_not_asked_where_no_look_up_may_wait() -> None:
    claims: Claims[str] = Claims(max_waiting=0)
    assert claims.claim(KEY, ONE, 0, current, lambda: ["two"]) == 1
