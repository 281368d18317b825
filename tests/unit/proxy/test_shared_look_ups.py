"""Requests that wait for the second level, apart from their exchanges."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from goproxyai.cache.store import Store
from goproxyai.errors import ProxyError
from goproxyai.proxy.shared_look_ups import SharedLookUps, WaitingRequest
from goproxyai.telemetry.counters import Counters
from tests.support.second_level import FakeSecondLevel
from tests.unit.cache.stored import ALICE, FILES

KEY = b"k" * 32


class Owner:
    """Notes how its requests go on; takes every claim unless *error* is to be raised."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls: list[Any] = []

    def looked_up(self, request: WaitingRequest, claim: Any) -> bool:
        self.calls.append(("looked up", claim))
        if self.error is not None:
            raise self.error
        return claim is not None

    def client_gone(self, exchange: Any, client: str) -> None:
        self.calls.append("gone")

    def fail(self, exchange: Any, client: str, error: ProxyError) -> None:
        self.calls.append(error.code)


class Fixture:
    def __init__(self, error: Exception | None = None) -> None:
        self.owner = Owner(error)
        self.fake = FakeSecondLevel()
        self.store = Store(100_000)
        self.counters = Counters()
        context: Any = SimpleNamespace(
            store=self.store, seconds=lambda: 0.0, counters=self.counters
        )
        self.look_ups = SharedLookUps(context, self.fake)

    def wait(self) -> WaitingRequest:
        plan = SimpleNamespace(owner=ALICE, entry_path=FILES)
        miss: Any = SimpleNamespace(
            reason="miss", key=KEY, plan=plan, generation=self.store.generation()
        )
        exchange: Any = SimpleNamespace(over=False, state_seconds=0.0, listener=None)
        request = WaitingRequest(self.owner, exchange, "client", miss, b"", True)
        self.look_ups.start(request)
        return request


def test_claim_goes_to_one_request() -> None:
    fixture = Fixture()
    for _ in range(3):
        fixture.wait()
    (look_up,) = fixture.fake.look_ups
    claim = look_up.deny()
    assert fixture.owner.calls == [("looked up", claim), *[("looked up", None)] * 2]
    assert claim.ends == []
    assert fixture.counters.shared_look_ups == {"hit": 0, "miss": 1, "unavailable": 0}


def test_claim_is_given_up_after_a_defect(failures: list[Any]) -> None:
    fixture = Fixture(ValueError("a defect"))
    fixture.wait()
    claim = fixture.fake.look_ups[0].deny()
    assert fixture.owner.calls == [("looked up", claim), "internal_error"]
    assert claim.ends == ["given up"]
    failures.clear()


def test_exchange_that_is_over_does_not_go_on() -> None:
    fixture = Fixture()
    fixture.wait().exchange.over = True
    claim = fixture.fake.look_ups[0].deny()
    assert fixture.owner.calls == []
    assert claim.ends == ["given up"]


def test_failed_request_leaves_its_look_up_once() -> None:
    fixture = Fixture()
    request = fixture.wait()
    request.request_failed(ProxyError("bad_request", "Invalid."))
    assert fixture.owner.calls == ["bad_request"]
    assert fixture.fake.look_ups[0].cancelled
    request.client_gone()
    assert fixture.owner.calls == ["bad_request", "gone"]


def test_request_after_a_write_does_not_share_the_older_look_up() -> None:
    fixture = Fixture()
    old = fixture.wait()
    fixture.store.invalidate(ALICE)
    fixture.wait()
    first, second = fixture.fake.look_ups
    old.client_gone()  # closes its own look-up only
    assert (first.cancelled, second.cancelled) == (True, False)
    fixture.wait()
    assert len(fixture.fake.look_ups) == 2
