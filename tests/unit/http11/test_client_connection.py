"""The connection to an upstream: its deadlines, its states, and what ends it."""

from __future__ import annotations

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost

from goproxyai.errors import ProxyError
from goproxyai.http11.connection_deadlines import CLOSE_SECONDS, POOLED_SECONDS
from goproxyai.http11.connection_states import ClientState
from goproxyai.http11.errors import ConnectionBroken, ProtocolViolation, UpstreamTimeout
from goproxyai.http11.sliced_body import TURN_BYTES, SlicedBody
from goproxyai.limits.request_memory import Holding
from goproxyai.reactor.deadlines import TICK_SECONDS
from goproxyai.upstream.retries import RetryCause
from tests.support.memory_upstream import MemoryUpstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class SlowReader(Holding):
    """A slow reader that releases what it holds when it is broken off."""

    def break_off(self) -> None:
        self.hold(0)


def test_response_timeout_counts_from_the_request_not_from_the_last_tick() -> None:
    upstream = MemoryUpstream(head=0.75)
    upstream.clock.advance(0.2)  # less than a tick
    upstream.send()
    upstream.transport.take(1_000)
    upstream.clock.advance(0.6)
    assert upstream.failures == []
    upstream.advance(0.5)
    assert [type(failure) for failure in upstream.failures] == [UpstreamTimeout]


def test_response_timeout_starts_when_the_upstream_has_read_the_request() -> None:
    upstream = MemoryUpstream().send(b"x" * 100_000)
    for _ in range(20):
        upstream.transport.take(5_000)
        upstream.advance(1)
    assert upstream.failures == []
    upstream.transport.take(100_000)
    upstream.advance(1.75)
    assert upstream.failures == []
    upstream.advance(1)
    assert [str(failure) for failure in upstream.failures] == ["the response head"]


def test_upstream_that_does_not_read_the_request_times_out() -> None:
    upstream = MemoryUpstream().send(b"x" * 100_000)
    upstream.advance(3)
    assert [type(failure) for failure in upstream.failures] == [UpstreamTimeout]


def test_stalled_response_body_times_out() -> None:
    upstream = MemoryUpstream().send().receive(OK[:-1])
    upstream.responses[0].deliver(upstream)
    upstream.advance(1.75)
    assert upstream.events == [(b"o", False)]
    upstream.advance(0.5)
    assert upstream.events[1:] == [UpstreamTimeout]
    assert upstream.transport.aborted


def test_response_that_was_received_during_a_standstill_is_not_thrown_away() -> None:
    upstream = MemoryUpstream().send()
    upstream.transport.take(1_000)
    upstream.clock.advance(600)  # the reactor reads after the first timers
    assert upstream.failures == []
    upstream.receive(OK)
    assert [response.code for response in upstream.responses] == [200]


def test_upstream_that_is_silent_after_a_standstill_times_out() -> None:
    upstream = MemoryUpstream().send()
    upstream.transport.take(1_000)
    upstream.clock.advance(600)
    upstream.advance(2.5)
    assert [str(failure) for failure in upstream.failures] == ["the response head"]


def test_idle_connection_ends_in_a_standstill() -> None:
    upstream = MemoryUpstream().send().receive(OK)
    upstream.clock.advance(POOLED_SECONDS + 2)
    assert not upstream.connection.is_usable()
    upstream.advance(TICK_SECONDS)
    assert upstream.transport.aborted


def test_paused_response_has_no_timeout() -> None:
    upstream = MemoryUpstream().send().receive(OK[:-1])
    upstream.responses[0].deliver(upstream)
    upstream.responses[0].pauseProducing()
    assert not upstream.transport.reading
    upstream.advance(600)
    assert upstream.events == [(b"o", False)]
    upstream.responses[0].resumeProducing()
    assert upstream.transport.reading
    upstream.receive(b"k")
    assert upstream.events == [(b"o", False), (b"k", True)]


def test_response_without_sink_pauses_reading() -> None:
    upstream = MemoryUpstream().send().receive(OK[:-1])
    assert upstream.connection.reading_paused
    upstream.responses[0].deliver(upstream)
    assert not upstream.connection.reading_paused


def test_complete_response_makes_the_connection_idle() -> None:
    upstream = MemoryUpstream().send()
    assert upstream.connection.state is ClientState.ACTIVE
    upstream.receive(OK)
    assert upstream.connection.state is ClientState.IDLE
    assert upstream.idle_calls == [upstream.connection]
    assert upstream.responses[0].take_whole() == b"ok"
    upstream.send().receive(OK)
    assert len(upstream.responses) == 2


def test_idle_connection_is_reset_after_its_time() -> None:
    upstream = MemoryUpstream().send().receive(OK)
    upstream.advance(POOLED_SECONDS - 1)
    assert not upstream.transport.aborted
    upstream.advance(1.5)
    assert upstream.transport.aborted


def test_bytes_on_an_idle_connection_reset_it() -> None:
    upstream = MemoryUpstream().send().receive(OK)
    upstream.receive(OK)
    assert upstream.connection.state is ClientState.ABORTED
    assert len(upstream.responses) == 1


def test_bytes_after_a_complete_response_close_the_connection() -> None:
    upstream = MemoryUpstream().send().receive(OK + b"HTTP/1.1 200 OK\r\n")
    assert upstream.responses[0].take_whole() == b"ok"
    assert upstream.connection.state is ClientState.CLOSING
    assert upstream.idle_calls == []


def test_closing_connection_is_reset_if_the_upstream_stays() -> None:
    upstream = MemoryUpstream().send()
    upstream.receive(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert upstream.transport.disconnecting
    assert not upstream.transport.aborted
    upstream.advance(CLOSE_SECONDS + TICK_SECONDS)
    assert upstream.transport.aborted


def test_body_without_length_is_closed_by_the_connection() -> None:
    upstream = MemoryUpstream().send().receive(b"HTTP/1.1 200 OK\r\n\r\nok")
    upstream.responses[0].deliver(upstream)
    upstream.lose(ConnectionDone())
    assert upstream.events == [(b"ok", False), "closed"]


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", ConnectionDone),
    ],
    ids=["reset", "shorter than its length"],
)
def test_lost_connection_breaks_the_body(head: bytes, reason: type[Exception]) -> None:
    upstream = MemoryUpstream().send().receive(head + b"ok")
    upstream.responses[0].deliver(upstream)
    upstream.lose(reason())
    assert upstream.events == [(b"ok", False), reason]


def test_lost_connection_fails_the_request() -> None:
    upstream = MemoryUpstream().send()
    upstream.lose(ConnectionDone())
    assert [type(failure) for failure in upstream.failures] == [ConnectionBroken]
    assert upstream.causes == [None]


def test_connection_lost_between_requests_may_be_retried() -> None:
    upstream = MemoryUpstream().send().receive(OK).send()
    upstream.lose(ConnectionLost())
    assert upstream.causes == [RetryCause.RESET]


def test_connection_lost_inside_a_second_response_may_not_be_retried() -> None:
    upstream = MemoryUpstream().send().receive(OK).send().receive(OK[:5])
    upstream.lose(ConnectionLost())
    assert upstream.causes == [None]


def test_cancelled_request_resets_the_connection_and_tells_nothing() -> None:
    upstream = MemoryUpstream().send()
    upstream.connection.cancel()
    assert upstream.transport.aborted
    upstream.lose(ConnectionLost())
    assert (upstream.responses, upstream.failures) == ([], [])


def test_aborted_response_resets_the_connection_and_tells_nothing() -> None:
    upstream = MemoryUpstream().send().receive(OK[:-1])
    upstream.responses[0].deliver(upstream)
    upstream.responses[0].abort()
    assert upstream.transport.aborted
    upstream.lose(ConnectionLost())
    assert upstream.events == [(b"o", False)]


def test_violation_after_the_head_breaks_the_body() -> None:
    upstream = MemoryUpstream().send()
    upstream.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz")
    upstream.responses[0].deliver(upstream)
    assert upstream.events == [(b"ok", False), ProtocolViolation]
    assert upstream.failures == []


def test_tls_connection_is_ready_after_the_handshake() -> None:
    upstream = MemoryUpstream(tls=True)
    assert upstream.connection.state is ClientState.CONNECTING
    upstream.connection.handshakeCompleted()
    assert upstream.connection.state is ClientState.IDLE
    assert upstream.connection.ready.called


@pytest.mark.parametrize("ending", ["complete", "lost", "cancelled"])
def test_large_response_head_is_counted_until_the_response_ends(ending: str) -> None:
    fields = b"".join(b"X-%d: %b\r\n" % (number, b"x" * 500) for number in range(100))
    upstream = MemoryUpstream().send()
    upstream.transport.take(1_000)
    upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + fields)
    assert 70_000 < upstream.memory.used < 80_000  # a head that is being received
    upstream.receive(b"\r\n")
    assert 70_000 < upstream.memory.used < 80_000
    if ending == "complete":
        upstream.responses[0].deliver(upstream)
        upstream.receive(b"ok")
        assert upstream.events == [(b"ok", True)]
    else:
        if ending == "cancelled":
            upstream.responses[0].abort()
        upstream.lose(ConnectionLost())
    assert upstream.memory.used == 0


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"],
    ids=["head", "trailer"],
)
def test_incomplete_field_of_a_response_is_counted(start: bytes) -> None:
    upstream = MemoryUpstream().send()
    upstream.transport.take(1_000)
    for data in (start, b"X-A: " + b"x" * 30_000, b"x" * 20_000):
        upstream.receive(data)
    assert 50_000 < upstream.memory.used < 60_000
    upstream.lose(ConnectionLost())
    assert upstream.memory.used == 0


def test_interim_response_is_counted_until_it_is_complete() -> None:
    upstream = MemoryUpstream().send()
    upstream.transport.take(1_000)
    upstream.receive(b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 30_000)
    assert 30_000 < upstream.memory.used < 40_000
    upstream.receive(b"x\r\n\r\n")
    assert upstream.memory.used == 0


def test_response_head_with_many_short_fields_is_counted() -> None:
    upstream = MemoryUpstream().send()
    upstream.transport.take(1_000)
    fields = b"".join(b"X-%d: a\r\n" % number for number in range(190))
    upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + fields + b"\r\n")
    assert 40_000 < upstream.memory.used < 50_000


def test_response_head_over_the_budget_fails_the_request() -> None:
    upstream = MemoryUpstream().send()
    upstream.transport.take(1_000)
    upstream.memory.resize(40_000)
    upstream.receive(b"HTTP/1.1 200 OK\r\nX-A: " + b"x" * 30_000)
    assert upstream.failures == []
    upstream.receive(b"x" * 20_000)
    (failure,) = upstream.failures
    assert isinstance(failure, ConnectionBroken)
    assert isinstance(failure.reason.value, ProxyError)
    assert failure.reason.value.code == "overloaded"
    assert upstream.causes == [None]
    upstream.lose(ConnectionLost())
    assert upstream.memory.used == 0


def test_slow_reader_is_broken_off_before_a_response_head_over_the_budget() -> None:
    upstream = MemoryUpstream().send()
    upstream.transport.take(1_000)
    upstream.memory.resize(60_000)
    reader = SlowReader(upstream.memory)
    reader.hold(40_000)
    upstream.memory.mark_reader(reader, is_slow=True)
    upstream.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: %b\r\n\r\n" % (b"x" * 50_000))
    assert upstream.memory.broken_off == 1
    assert upstream.failures == []
    assert len(upstream.responses) == 1


def test_small_response_head_is_not_counted() -> None:
    upstream = MemoryUpstream().send()
    upstream.transport.take(1_000)
    upstream.receive(OK[:-1])
    assert upstream.memory.used == 0


def test_body_that_upstream_has_not_read_is_counted_after_an_early_response() -> None:
    upstream = MemoryUpstream()
    body = SlicedBody(b"x" * 2 * TURN_BYTES, upstream.clock)
    upstream.send(body, b"POST").receive(OK[:-1])
    assert upstream.memory.used >= TURN_BYTES + body.length  # the unsent half twice
    upstream.clock.advance(0)
    upstream.transport.take(3 * TURN_BYTES)
    upstream.responses[0].deliver(upstream)
    upstream.receive(b"k")
    assert upstream.memory.used == 0


def test_sent_body_is_not_counted_while_the_response_goes_on() -> None:
    upstream = MemoryUpstream()
    upstream.transport.stalled = False
    body = SlicedBody(b"x" * 2 * TURN_BYTES, upstream.clock)
    upstream.send(body, b"POST").receive(OK[:-1])
    assert upstream.memory.used == body.length
    upstream.clock.advance(0)
    assert upstream.memory.used == 0
