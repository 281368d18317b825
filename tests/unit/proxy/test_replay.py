"""A replay is what was recorded, to the byte, whatever its pieces and however the client reads."""

from __future__ import annotations

from typing import Any

import h11
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.web.iweb import UNKNOWN_LENGTH

from goproxyai.cache.store import Entry, Store
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_body import WholeBody
from goproxyai.http11.request_head import RequestHead
from goproxyai.http11.response import Response
from goproxyai.messages.header_templates import template_of
from goproxyai.messages.headers import Headers, fields_of
from goproxyai.proxy import replay as respond
from goproxyai.proxy.recorder import CacheMiss, Recorder, recorder
from goproxyai.proxy.request_plan import ProxyOptions, RequestPlan
from goproxyai.proxy.upstreams import Upstream
from goproxyai.upstream.breaker import Breaker

PIECES = st.lists(st.binary(min_size=1, max_size=300), max_size=12)
SIZES = st.sampled_from([1, 1, 700])  # a piece this often, so that some bodies are of many slices
EVENTS = st.lists(st.binary(max_size=40).map(lambda raw: b"data: " + raw.hex().encode() + b"\n\n"))
HEAD = RequestHead(b"GET", b"/v1/x", "1.1", [(b"Host", b"a")], True)
HEADERS: Headers = [
    (b"Content-Type", b"text/plain"),
    (b"X-Twice", b"1"),
    (b"x-twice", b""),
    (b"Set-Cookie", b"a=b"),
    (b"Age", b"7"),
]


class Wires:
    """A client's connection that fills up, and empties, as the test says.

    :param readiness: whether it takes more, write by write.
    """

    def __init__(self, readiness: list[bool]) -> None:
        self.out = b""
        self.done = 0
        self.exchange: Exchange
        self._producer: Any = None
        self._readiness = readiness
        self.full = False

    @property
    def output(self) -> Wires:
        return self

    def send(self, data: bytes) -> None:
        self.out += data
        if self._readiness and not self._readiness.pop():
            self.full = True
            if self._producer is not None:
                self._producer.pauseProducing()

    def exchange_done(self, exchange: Exchange, keep: bool) -> None:
        self.done += 1

    def abort(self) -> None:
        raise AssertionError("nothing is wrong")

    def set_producer(self, producer: Any) -> None:
        self._producer = producer
        if producer is not None and self.full:
            producer.pauseProducing()

    def drain(self) -> None:
        while self.full and not self.done:
            self.full = False
            self._producer.resumeProducing()


class Upstreams:
    """The connection of a response that nobody reads from."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None: ...


def exchange_on(wire: Wires) -> Exchange:
    wire.exchange = Exchange(wire, 0.0, HEAD, (), WholeBody(b""))
    return wire.exchange


def stored(pieces: list[bytes], headers: Headers, clock: Clock, gaps: list[float]) -> Entry:
    """What becomes of an answer of these *pieces*, that came with these *gaps* between them."""
    store = Store(10**8)
    wanted = CacheMiss("miss", b"k" * 32, notes_on(HEAD), store.ticket())
    shape = template_of(tuple(name for name, _ in headers))
    values = tuple(value for _, value in headers)
    fields = fields_of(headers)[0]
    response = Response(Upstreams(), 200, b"OK", shape, values, fields, UNKNOWN_LENGTH)
    keeping = recorder(store, wanted, response, clock.seconds)
    assert isinstance(keeping, Recorder)
    for number, piece in enumerate(pieces):
        assert keeping.add(piece)
        clock.advance(gaps[number % len(gaps)])
    assert keeping.keep(keeping.whole(), wanted, None)
    entry = store.get(b"k" * 32, clock.seconds())
    assert entry is not None
    assert store.reserved == 0
    return entry


def notes_on(head: RequestHead) -> RequestPlan:
    class Route:
        def head(self, method: bytes, target: bytes) -> bytes:
            return b""

    route: Any = Route()
    return RequestPlan(head, ProxyOptions(Upstream(0, route, b"", "", Breaker(0)), ttl=300.0))


def read(out: bytes) -> tuple[list[tuple[bytes, bytes]], bytes, bytes]:
    """The header, the body, and what follows the answer in *out*."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(out)
    headers, body = [], b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            headers = list(event.headers.raw_items())
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return headers, body, connection.trailing_data[0]
        else:
            raise AssertionError(f"it is not complete: {event}")


@given(PIECES, SIZES, st.lists(st.booleans(), max_size=8))
def test_a_body_comes_back_as_it_was_recorded(
    pieces: list[bytes], times: int, readiness: list[bool]
) -> None:
    clock = Clock()
    pieces = [piece * times for piece in pieces]
    entry = stored(pieces, HEADERS, clock, [0.0])
    wire = Wires(readiness)
    done: list[int] = []
    replay = respond.hit(exchange_on(wire), entry, clock.seconds())
    if replay is not None:
        replay.start(lambda: done.append(1))
    wire.drain()
    headers, body, rest = read(wire.out)
    assert body == b"".join(pieces)
    assert (rest, wire.done, done) == (b"", 1, [1] if replay else [])
    kept = [pair for pair in headers if pair in HEADERS and pair[0] != b"Age"]
    assert kept == [pair for pair in HEADERS if pair[0] not in (b"Set-Cookie", b"Age")]
    assert dict(headers)[b"Age"] == b"7"


@given(
    EVENTS,
    st.lists(st.floats(0, 5.0), min_size=1, max_size=5),
    st.lists(st.booleans(), max_size=8),
    st.floats(0.01, 10.0),
)
def test_a_stream_comes_back_at_its_pace_or_later_but_never_longer(
    events: list[bytes], gaps: list[float], readiness: list[bool], step: float
) -> None:
    clock = Clock()
    events = [*events, b"data: [DONE]\n\n"]
    kind = (b"Content-Type", b"text/event-stream")
    entry = stored(events, [kind], clock, gaps)
    took = sum(gaps[number % len(gaps)] for number in range(len(events)))
    wire = Wires(readiness)
    done: list[int] = []
    replay = respond.paced_hit(exchange_on(wire), entry, clock.seconds(), clock)
    replay.start(lambda: done.append(1))
    elapsed = 0.0
    while not done and elapsed <= took:
        at, came = 0.0, 0
        for number, event in enumerate(events):
            if at <= elapsed + 0.002:
                came += len(event)
            at += gaps[number % len(gaps)]
        assert wire.out.count(b"data: ") <= b"".join(events)[:came].count(b"data: ")
        clock.advance(step)
        elapsed += step
        wire.drain()
    assert done == [1]
    assert clock.getDelayedCalls() == []
    assert read(wire.out)[1:] == (b"".join(events), b"")
    assert wire.done == 1


@given(EVENTS, st.lists(st.booleans(), max_size=8))
def test_a_stream_comes_back_at_once(events: list[bytes], readiness: list[bool]) -> None:
    clock = Clock()
    events = [*events, b"data: [DONE]\n\n"]
    kind = (b"Content-Type", b"text/event-stream")
    entry = stored(events, [kind], clock, [1.0])
    wire = Wires(readiness)
    replay = respond.hit(exchange_on(wire), entry, clock.seconds())
    assert replay is None
    headers, body, _ = read(wire.out)
    assert body == b"".join(events)
    assert dict(headers)[b"Transfer-Encoding"] == b"chunked"


def test_a_clock_that_rounds_does_not_make_a_replay_wait_for_ever() -> None:
    clock = Clock()
    clock.advance(1e6 + 1 / 3)
    events = [b"data: %d\n\n" % number for number in range(50)] + [b"data: [DONE]\n\n"]
    entry = stored(events, [(b"Content-Type", b"text/event-stream")], clock, [0.1])
    wire = Wires([])
    replay = respond.paced_hit(exchange_on(wire), entry, clock.seconds(), clock)
    replay.start(lambda: None)
    for _ in range(200):
        clock.advance(0.1 / 3)
    assert read(wire.out)[1] == b"".join(events)


def test_a_piece_that_is_due_to_the_last_digit_is_written_and_not_waited_for_again() -> None:
    clock = Clock()
    kind = (b"Content-Type", b"text/event-stream")
    entry = stored([b"data: 1\n\n", b"data: [DONE]\n\n"], [kind], clock, [0.001])
    clock.rightNow = 1000.1  # 1000.1 + 0.001 - 1000.1 is less than 0.001
    wire = Wires([])
    done: list[int] = []
    replay = respond.paced_hit(exchange_on(wire), entry, clock.seconds(), clock)
    replay.start(lambda: done.append(1))
    replay.pauseProducing()
    clock.advance(0.001)
    replay.resumeProducing()
    assert done == [1]
    assert clock.getDelayedCalls() == []
