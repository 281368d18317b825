"""Shared, cached and bounded name resolution."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.logger import LogEvent

from goproxyai.egress.resolver import (
    FRESH_SECONDS,
    LOST_LOOKUP_SECONDS,
    MAX_LOOKUPS,
    MAX_LOOKUPS_PER_NAME,
    MAX_NAMES,
    MAX_STALE_SECONDS,
    RETRY_SECONDS,
    STALE_AFTER_SECONDS,
    SharedResolver,
    start_daemon_thread,
)
from tests.unit.egress.resolving import ManualResolver, Receiver, ThreadedReactor

OLD, NEW = ["192.0.2.1"], ["192.0.2.2"]
UNAVAILABLE = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
MISSING = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def manual(monkeypatch: pytest.MonkeyPatch) -> ManualResolver:
    return ManualResolver(monkeypatch)


def test_concurrent_requests_share_a_lookup(manual: ManualResolver) -> None:
    receivers = [manual.resolve() for _ in range(100)]
    assert len(manual.threads) == 1
    manual.finish(["2001:db8::1", *OLD])
    assert [each.addresses for each in receivers] == [["2001:db8::1", *OLD]] * 100
    assert receivers[0].found == [
        IPv6Address("TCP", "2001:db8::1", 443), IPv4Address("TCP", "192.0.2.1", 443),
    ]  # fmt: skip


def test_addresses_are_kept_for_seconds(manual: ManualResolver) -> None:
    manual.resolve()
    manual.finish(OLD)
    manual.reactor.advance(FRESH_SECONDS - 0.1)
    assert manual.resolve().addresses == OLD
    assert manual.threads == []
    manual.reactor.advance(0.1)
    later = manual.resolve()
    assert later.addresses is None
    manual.finish(NEW)
    assert later.addresses == NEW
    assert manual.reactor.getDelayedCalls() == []


def test_families_and_transports_are_looked_up_separately(manual: ManualResolver) -> None:
    receivers = [Receiver() for _ in range(3)]
    manual.resolver.resolveHostName(receivers[0], "a.test", 1, [IPv4Address])
    manual.resolver.resolveHostName(receivers[1], "a.test", 1, [IPv4Address, IPv6Address])
    manual.resolver.resolveHostName(receivers[2], "a.test", 1, None, "UDP")
    assert len(manual.threads) == 3
    for _ in range(3):
        manual.finish(OLD)
    assert [each.found[0].type for each in receivers] == ["TCP", "TCP", "UDP"]


@pytest.mark.parametrize(
    "error", [UNAVAILABLE, MISSING, OSError("broken"), UnicodeError("label too long")]
)
def test_failed_lookup_without_previous_addresses_has_no_addresses(
    manual: ManualResolver, error: Exception
) -> None:
    receiver = manual.resolve()
    manual.finish(error)
    assert receiver.addresses == []
    again = manual.resolve()
    manual.finish(OLD)
    assert again.addresses == OLD


def resolved(manual: ManualResolver) -> None:
    """Resolve the name, and let the addresses become older than fresh."""
    manual.resolve()
    manual.finish(OLD)
    manual.reactor.advance(FRESH_SECONDS)


def test_previous_addresses_replace_a_failed_lookup(manual: ManualResolver) -> None:
    resolved(manual)
    receiver = manual.resolve()
    manual.finish(UNAVAILABLE)
    assert receiver.addresses == OLD
    assert manual.resolve().addresses == OLD
    assert manual.threads == []  # the next look-up has to wait
    manual.reactor.advance(RETRY_SECONDS)
    assert manual.resolve().addresses == OLD
    manual.finish(NEW)
    assert manual.resolve().addresses == NEW
    assert manual.reactor.getDelayedCalls() == []


def test_previous_addresses_replace_a_slow_lookup(manual: ManualResolver) -> None:
    resolved(manual)
    receiver = manual.resolve()
    manual.reactor.advance(STALE_AFTER_SECONDS - 0.1)
    assert receiver.addresses is None
    manual.reactor.advance(0.1)
    assert receiver.addresses == OLD
    assert manual.resolve().addresses == OLD
    manual.reactor.advance(10)
    assert manual.resolve().addresses == OLD
    assert len(manual.threads) == 1
    manual.finish(NEW)
    assert manual.resolve().addresses == NEW


def test_previous_addresses_are_used_for_a_bounded_time(manual: ManualResolver) -> None:
    resolved(manual)
    manual.reactor.advance(MAX_STALE_SECONDS - FRESH_SECONDS - 0.1)
    receiver = manual.resolve()
    manual.finish(UNAVAILABLE)
    assert receiver.addresses == OLD
    manual.reactor.advance(RETRY_SECONDS)
    receiver = manual.resolve()
    manual.finish(UNAVAILABLE)
    assert receiver.addresses == []


def test_previous_addresses_do_not_replace_a_name_that_is_gone(manual: ManualResolver) -> None:
    resolved(manual)
    receiver = manual.resolve()
    manual.finish(MISSING)
    assert receiver.addresses == []
    receiver = manual.resolve()
    manual.finish(UNAVAILABLE)
    assert receiver.addresses == []


def test_outage_of_the_resolver_is_logged_once(
    manual: ManualResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from goproxyai.egress import resolver as module

    warnings: list[dict[str, Any]] = []
    monkeypatch.setattr(module._log, "warn", lambda text, **fields: warnings.append(fields))
    resolved(manual)
    for _ in range(3):
        manual.resolve()
        manual.finish(UNAVAILABLE)
        manual.reactor.advance(RETRY_SECONDS)
    assert [each["name"] for each in warnings] == ["upstream.test"]


def test_running_lookups_are_bounded_and_the_others_wait(manual: ManualResolver) -> None:
    receivers = [manual.resolve(f"{i}.test") for i in range(MAX_LOOKUPS + 2)]
    assert len(manual.threads) == MAX_LOOKUPS
    receivers[MAX_LOOKUPS].resolution.cancel()
    manual.finish(OLD)
    assert len(manual.threads) == MAX_LOOKUPS
    while manual.threads:
        manual.finish(NEW)
    assert f"{MAX_LOOKUPS}.test" not in manual.names
    assert receivers[-1].addresses == NEW
    assert receivers[MAX_LOOKUPS].addresses is None


def test_lost_lookup_is_replaced_once(manual: ManualResolver) -> None:
    lost = manual.resolve()
    manual.reactor.advance(LOST_LOOKUP_SECONDS)
    receiver = manual.resolve()
    assert len(manual.threads) == MAX_LOOKUPS_PER_NAME
    manual.reactor.advance(LOST_LOOKUP_SECONDS)
    manual.resolve()
    assert len(manual.threads) == MAX_LOOKUPS_PER_NAME
    manual.finish(NEW, index=1)
    assert (lost.addresses, receiver.addresses) == (NEW, NEW)
    manual.finish(OLD)


def test_cancelled_resolution_is_not_completed(manual: ManualResolver) -> None:
    cancelled, other = manual.resolve(), manual.resolve()
    cancelled.resolution.cancel()
    cancelled.resolution.cancel()
    manual.finish(OLD)
    assert (cancelled.addresses, other.addresses) == (None, OLD)


def test_kept_names_are_bounded(manual: ManualResolver) -> None:
    for i in range(2 * MAX_NAMES):
        manual.resolve(f"{i}.test")
        manual.finish(OLD)
        manual.reactor.advance(0.001)
    assert len(manual.resolver._records) == MAX_NAMES
    assert manual.resolve(f"{2 * MAX_NAMES - 1}.test").addresses == OLD


def test_name_beyond_the_bound_has_no_addresses(manual: ManualResolver) -> None:
    for i in range(MAX_NAMES):
        manual.resolve(f"{i}.test")
    assert manual.resolve("beyond.test").addresses == []
    assert len(manual.threads) == MAX_LOOKUPS


def test_error_of_a_receiver_does_not_affect_the_others(
    manual: ManualResolver, failures: list[LogEvent]
) -> None:
    broken, other = manual.resolve(), manual.resolve()
    broken.found = None  # type: ignore[assignment]
    manual.finish(OLD)
    assert other.addresses == OLD
    assert [event["log_failure"].type for event in failures] == [AttributeError]
    failures.clear()


def test_lookup_without_a_free_thread_fails() -> None:
    def run_in_thread(call: object) -> None:
        raise RuntimeError("can't start new thread")

    reactor = ThreadedReactor()
    receiver = Receiver()
    SharedResolver(reactor, run_in_thread).resolveHostName(receiver, "upstream.test", 443)
    reactor.advance(0)
    assert receiver.addresses == []


def test_lookups_run_in_daemon_threads() -> None:
    seen: list[bool] = []
    ran = threading.Event()

    def call() -> None:
        seen.append(threading.current_thread().daemon)
        ran.set()

    start_daemon_thread(call)
    assert ran.wait(10)
    assert seen == [True]
