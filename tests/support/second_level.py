"""A second level of the cache that a test answers by hand."""

from __future__ import annotations

import time
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, succeed

from goproxyai.cache.entry import Entry
from goproxyai.cache.record import record_of
from goproxyai.daemon import build
from goproxyai.state.second_level import Answer


@attrs.define(eq=False)
class FakeClaim:
    """A claim that notes how it ended.

    :ivar ends: the first is the one that counts.
    """

    ends: list[Any] = attrs.field(factory=list)

    def store(self, entry: Entry, replaces: bool = False) -> None:
        from twisted.internet import reactor

        shift = time.time() - reactor.seconds()
        self.ends.append(record_of(entry, shift))

    def give_up(self) -> None:
        self.ends.append("given up")

    def fail(self) -> None:
        self.ends.append("failed")


@attrs.define(eq=False)
class FakeLookUp:
    """A look-up that waits for the test."""

    key: bytes
    owner: bytes
    path: bytes
    claims: bool
    then: Answer
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    def deny(self) -> FakeClaim:
        """Answer that there is no response; return the claim."""
        claim = FakeClaim()
        self.then(None, claim)
        return claim


@attrs.define(eq=False)
class FakeSecondLevel:
    """The shared state of a daemon that has a second level.

    :ivar look_ups: that the daemon has made.
    :ivar known: whether it is known at once that there is no response; :attr:`claims` has the
        claims that are made then.
    :ivar replacing: claims of requests that refuse the stored response.
    :ivar answers_at_once: whether look-ups are answered with ``None, None`` at once.
    """

    max_record_bytes: int = 1_000_000
    answers_at_once: bool = False
    known: bool = False
    look_ups: list[FakeLookUp] = attrs.field(factory=list)
    claims: list[FakeClaim] = attrs.field(factory=list)
    replacing: list[FakeClaim] = attrs.field(factory=list)

    @property
    def second_level(self) -> FakeSecondLevel:
        return self

    def claim_at_once(
        self, key: bytes, owner: bytes, path: bytes, claims: bool
    ) -> FakeClaim | None:
        if not self.known:
            return None
        self.claims.append(FakeClaim())
        return self.claims[-1]

    def look_up(
        self,
        key: bytes,
        owner: bytes,
        path: bytes,
        claims: bool,
        then: Answer,
        waited: float = 0.0,
        replaces: bool = False,
    ) -> FakeLookUp:
        look_up = FakeLookUp(key, owner, path, claims, then)
        if replaces:
            self.replacing.append(FakeClaim())
            then(None, self.replacing[-1])
            return look_up
        self.look_ups.append(look_up)
        if self.answers_at_once:
            then(None, None)
        return look_up

    def announce_write(self, owner: bytes) -> None: ...

    def announce_clearing(self, path: bytes | None) -> Deferred[None]:
        return succeed(None)


def install(monkeypatch: pytest.MonkeyPatch, **options: Any) -> FakeSecondLevel:
    """Give the next daemon that is built a second level."""
    fake = FakeSecondLevel(**options)
    monkeypatch.setattr(build, "NO_SHARED_STATE", fake)
    return fake
