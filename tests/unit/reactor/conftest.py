"""Fixtures of the reactor package's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.reactor.socket_pair import SocketPair, socket_pair


@pytest.fixture
def pair() -> Iterator[SocketPair]:
    with socket_pair() as one:
        yield one
