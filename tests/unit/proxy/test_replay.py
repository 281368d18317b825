"""Replays of stored responses: byte-exact, at the client's pace, with or without timing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache.entry import Entry
from goproxyai.http11.exchange import Exchange
from goproxyai.messages.headers import Headers
from goproxyai.proxy.recorder import Recorder, recorder_for
from goproxyai.proxy.replay import answer_hit, answer_stale
from tests.unit.proxy.parts import (
    KEY,
    ClientConnection,
    ProxyParts,
    get_head,
    miss_of,
    proxy_parts,
    response_of,
)

PIECES = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=12)
SIZE_FACTORS = st.sampled_from([1, 1, 700])  # some bodies span many slices
EVENTS = st.lists(st.binary(max_size=40).map(lambda raw: b"data: " + raw.hex().encode() + b"\n\n"))
READINESS = st.lists(st.booleans(), max_size=8)
HEAD = get_head()
EVENT_STREAM = [(b"Content-Type", b"text/event-stream")]
HEADERS: Headers = [
    (b"Content-Type", b"text/plain"),
    (b"X-Twice", b"1"),
    (b"x-twice", b""),
    (b"Set-Cookie", b"a=b"),
    (b"Age", b"7"),
]


def store_response(
    parts: ProxyParts, pieces: list[bytes], headers: Headers, gaps: list[float]
) -> Entry:
    """Record a response whose *pieces* arrive with these *gaps* between them."""
    store, clock = parts.context.store, parts.clock
    miss = miss_of(parts, HEAD)
    recorder = recorder_for(store, miss, response_of(headers), clock.seconds)
    assert isinstance(recorder, Recorder)
    for number, piece in enumerate(pieces):
        assert recorder.add(piece)
        clock.advance(gaps[number % len(gaps)])
    assert recorder.store(recorder.take(), miss, None)
    entry = store.get(KEY, clock.seconds())
    assert entry is not None
    assert store.reserved == 0
    return entry


def replay(
    parts: ProxyParts, client: ClientConnection, entry: Entry, with_timing: bool = False
) -> Exchange:
    exchange = client.open_exchange(HEAD, parts.clock)
    answer_hit(parts.context, exchange, "192.0.2.1", entry, with_timing)
    return exchange


@given(PIECES, SIZE_FACTORS, READINESS)
def test_replayed_body_equals_recorded_body(
    pieces: list[bytes], factor: int, readiness: list[bool]
) -> None:
    parts, client = proxy_parts(), ClientConnection(readiness)
    pieces = [piece * factor for piece in pieces]
    entry = store_response(parts, pieces, HEADERS, [0.0])
    replay(parts, client, entry)
    client.read_all()
    headers, body = client.response()
    assert body == b"".join(pieces)
    assert client.completed == 1
    assert [(event.cache, event.ending) for event in parts.recorded()] == [("HIT", "ok")]
    kept = [pair for pair in headers if pair in HEADERS and pair[0] != b"Age"]
    assert kept == [pair for pair in HEADERS if pair[0] not in (b"Set-Cookie", b"Age")]
    assert dict(headers)[b"Age"] == b"7"


@given(
    EVENTS,
    st.lists(st.floats(0, 5.0), min_size=1, max_size=5),
    READINESS,
    st.floats(0.01, 10.0),
)
def test_timed_replay_is_never_early_and_never_longer_than_the_original(
    events: list[bytes], gaps: list[float], readiness: list[bool], step: float
) -> None:
    parts, client = proxy_parts(), ClientConnection(readiness)
    events = [b"data: {}\n\n", *events, b"data: [DONE]\n\n"]
    entry = store_response(parts, events, EVENT_STREAM, gaps)
    duration = sum(gaps[number % len(gaps)] for number in range(len(events)))
    replay(parts, client, entry, with_timing=True)
    elapsed = 0.0
    while not client.completed and elapsed <= duration:
        at, due = 0.0, 0
        for number, event in enumerate(events):
            if at <= elapsed + 0.002:
                due += len(event)
            at += gaps[number % len(gaps)]
        assert client.written.count(b"data: ") <= b"".join(events)[:due].count(b"data: ")
        parts.clock.advance(step)
        elapsed += step
        client.read_all()
    assert client.completed == 1
    assert client.response()[1] == b"".join(events)
    parts.recorded()
    assert parts.clock.getDelayedCalls() == []


@given(EVENTS, READINESS)
def test_stream_without_timing_is_replayed_at_once(
    events: list[bytes], readiness: list[bool]
) -> None:
    parts, client = proxy_parts(), ClientConnection(readiness)
    events = [b"data: {}\n\n", *events, b"data: [DONE]\n\n"]
    entry = store_response(parts, events, EVENT_STREAM, [1.0])
    replay(parts, client, entry)
    headers, body = client.response()
    assert body == b"".join(events)
    assert dict(headers)[b"Transfer-Encoding"] == b"chunked"


def test_timed_replay_ends_when_the_clock_rounds() -> None:
    parts, client = proxy_parts(), ClientConnection()
    parts.clock.advance(1e6 + 1 / 3)
    events = [b"data: %d\n\n" % number for number in range(50)] + [b"data: [DONE]\n\n"]
    entry = store_response(parts, events, EVENT_STREAM, [0.1])
    replay(parts, client, entry, with_timing=True)
    for _ in range(200):
        parts.clock.advance(0.1 / 3)
    assert client.response()[1] == b"".join(events)


def test_piece_due_within_the_clock_tolerance_is_written() -> None:
    parts, client = proxy_parts(), ClientConnection()
    entry = store_response(parts, [b"data: 1\n\n", b"data: [DONE]\n\n"], EVENT_STREAM, [0.001])
    parts.clock.rightNow = 1000.1  # 1000.1 + 0.001 - 1000.1 is less than 0.001
    replay(parts, client, entry, with_timing=True)
    client.pause()
    parts.clock.advance(0.001)
    client.resume()
    assert client.completed == 1


def test_client_that_leaves_stops_a_timed_replay() -> None:
    parts, client = proxy_parts(), ClientConnection()
    entry = store_response(parts, [b"data: 1\n\n", b"data: [DONE]\n\n"], EVENT_STREAM, [60.0])
    exchange = replay(parts, client, entry, with_timing=True)
    assert parts.context.counters.open_streams == 1
    exchange.connection_lost()
    assert [(event.cache, event.ending) for event in parts.recorded()] == [("HIT", "client_gone")]
    assert parts.context.counters.open_streams == 0
    assert parts.clock.getDelayedCalls() == []


def test_stale_answer_names_the_upstream_failure_in_the_log() -> None:
    parts, client = proxy_parts(), ClientConnection()
    entry = store_response(parts, [b"x" * 200_000], HEADERS, [0.0])
    exchange = client.open_exchange(HEAD, parts.clock)
    answer_stale(parts.context, exchange, "192.0.2.1", entry, "upstream answered 503")
    headers, body = client.response()
    assert body == b"x" * 200_000
    assert b"detail=stale-if-error" in dict(headers)[b"Cache-Status"]
    (event,) = parts.recorded()
    assert (event.cache, event.detail) == ("STALE", "upstream answered 503")
    assert parts.context.counters.stale_served == 1
