"""Write stored responses, and the rest of responses whose body is already complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

from goproxyai.cache.entry import Entry
from goproxyai.cache.stream_timing import timed_pieces
from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.error_response import fail_exchange
from goproxyai.proxy.progress import Progress
from goproxyai.proxy.response_head import hit_lines, hit_message
from goproxyai.telemetry.outcome import CacheOutcome, Ending, RequestOutcome, hit_outcome

SLICE_BYTES = 64 * 1024
"""Largest piece of a stored body that one write takes."""

CLOCK_TOLERANCE_SECONDS = 0.0005
"""A piece is due this long before its time, since timers round."""


def answer_hit(
    context: ProxyContext, exchange: Exchange, client: str, entry: Entry, with_timing: bool
) -> None:
    """Answer with *entry*.

    :param with_timing: replay a stored stream with its original timing.
    """
    now = context.seconds()
    lookup_seconds = now - exchange.started_at
    extra = entry.extra
    small = extra is None or (extra.timing is None and entry.body_size <= SLICE_BYTES)
    if small and exchange.keeps_connection():
        message = hit_message(entry, exchange.request_id, now, lookup_seconds)
        size = len(entry.text) - entry.head_end if extra is None else entry.body_size
        exchange.send_response(entry.status, message, size)
        context.access_log.record(exchange, client, hit_outcome(entry))
    elif entry.timing and with_timing:
        head = entry.head + hit_lines(entry, exchange.request_id, now, lookup_seconds, "paced")
        exchange.start_response(entry.status, head, None)
        exchange.flush()
        timed = TimedReplay(exchange, entry.body, timed_pieces(entry.timing), context.clock)
        _watch(context, exchange, client, hit_outcome(entry), entry, timed)
    else:
        _replay_entry(context, exchange, client, entry, hit_outcome(entry), "")


def answer_stale(
    context: ProxyContext, exchange: Exchange, client: str, entry: Entry, cause: str
) -> None:
    """Answer with an expired *entry* in place of a failed response (RFC 5861 §4).

    :param cause: how upstream failed, for the log.
    """
    context.counters.stale_served += 1
    exchange.release_body()  # the client may take long to read the response
    outcome = RequestOutcome(CacheOutcome.STALE, detail=cause, usage_source=entry)
    _replay_entry(context, exchange, client, entry, outcome, "stale-if-error")


def _replay_entry(
    context: ProxyContext,
    exchange: Exchange,
    client: str,
    entry: Entry,
    outcome: RequestOutcome,
    detail: str,
) -> None:
    now = context.seconds()
    body = entry.body
    head = entry.head + hit_lines(
        entry, exchange.request_id, now, now - exchange.started_at, detail
    )
    exchange.start_response(entry.status, head, len(body) if entry.timing is None else None)
    if len(body) <= SLICE_BYTES:
        exchange.write(body, True)
        context.access_log.record(exchange, client, outcome)
    else:
        _watch(context, exchange, client, outcome, entry, Replay(exchange, body))


def _watch(
    context: ProxyContext,
    exchange: Exchange,
    client: str,
    outcome: RequestOutcome,
    entry: Entry,
    replay: Replay,
) -> None:
    """Start a replay of *entry* that may take long."""
    done = context.replayed.begin(entry, replay)
    watch = ReplayWatch(context, exchange, client, outcome, entry.is_event_stream, done)
    watch.start(replay)


class ReplayWatch:
    """Listens to an exchange during a replay, and records its outcome.

    :param outcome: the outcome of a complete replay.
    :param streams: the body is an event stream.
    :param done: called when the replay has ended, complete or not.
    """

    __slots__ = ("_client", "_context", "_done", "_exchange", "_outcome", "_replay", "_streams")

    def __init__(
        self,
        context: ProxyContext,
        exchange: Exchange,
        client: str,
        outcome: RequestOutcome,
        streams: bool,
        done: Callable[[], None] | None = None,
    ) -> None:
        if outcome.first_byte_seconds < 0:
            outcome = outcome._replace(first_byte_seconds=context.seconds() - exchange.started_at)
        self._context = context
        self._exchange = exchange
        self._client = client
        self._outcome = outcome
        self._streams = streams
        self._done = done
        self._replay: Replay | None = None
        exchange.listener = self

    def start(self, replay: Replay) -> None:
        self._replay = replay
        self._context.counters.open_streams += self._streams
        replay.start(self._completed)

    def client_gone(self) -> None:
        self._stop()
        self._record(self._outcome._replace(ending=Ending.CLIENT_GONE, usage_source=None))

    def progress(self) -> Progress:
        return Progress(self._outcome.first_byte_seconds, self._streams)

    def request_failed(self, error: ProxyError) -> None:
        """The rest of the client's request is invalid, or its connection is broken off."""
        self._stop()
        ending = fail_exchange(self._exchange, error)
        self._record(
            self._outcome._replace(
                ending=ending, code=error.code, detail=error.detail, usage_source=None
            )
        )

    def _stop(self) -> None:
        replay, self._replay = self._replay, None  # breaks the reference cycle
        if replay is not None:
            replay.stopProducing()

    def _completed(self) -> None:
        self._replay = None
        self._record(self._outcome)

    def _record(self, outcome: RequestOutcome) -> None:
        self._context.access_log.record(self._exchange, self._client, outcome)
        self._context.counters.open_streams -= self._streams
        done, self._done = self._done, None
        if done is not None:
            done()


def _not_started() -> None:
    """The completion callback of a replay that was not started."""


@implementer(IPushProducer)
class Replay:
    """Writes a complete body at the client's pace.

    The body is not copied: at most two slices of :data:`SLICE_BYTES` exist for the client.

    :param offset: the first byte to write.
    """

    def __init__(self, exchange: Exchange, body: bytes, offset: int = 0) -> None:
        self._exchange = exchange
        self._body = memoryview(body)
        self._offset = offset
        self._paused = False
        self._writing = False
        self._completed: Callable[[], None] = _not_started

    def start(self, completed: Callable[[], None]) -> None:
        """Write the body; *completed* is called after the last byte."""
        self._completed = completed
        self._exchange.register_producer(self)
        self._write()

    def _write(self) -> None:
        if self._writing:
            return
        self._writing = True
        exchange = self._exchange
        while not self._paused and not exchange.over:
            end = self._offset + SLICE_BYTES
            piece = bytes(self._body[self._offset : end])
            self._offset = end
            exchange.write(piece, end >= len(self._body))
            if end >= len(self._body):
                self._completed()
        self._writing = False

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._write()

    def stopProducing(self) -> None:
        self._paused = True

    def hurry(self) -> None:
        """Do nothing: the replay is as fast as its client."""


class TimedReplay(Replay):
    """Writes the pieces of a stored stream no earlier than they arrived the first time.

    A client that falls behind gets all overdue pieces at once, so the replay never takes longer
    than the client needs or than the original took.

    :param pieces: for each piece, seconds since the first one, and its end in *body*.
    """

    def __init__(
        self,
        exchange: Exchange,
        body: bytes,
        pieces: Iterator[tuple[float, int]],
        clock: IReactorTime,
    ) -> None:
        super().__init__(exchange, body)
        self._pieces = pieces
        self._piece = next(pieces, None)
        self._clock = clock
        self._started_at = clock.seconds()
        self._timer: IDelayedCall | None = None

    def _write(self) -> None:
        self._timer = None
        elapsed = self._clock.seconds() - self._started_at
        while not self._paused and not self._exchange.over:
            piece = self._piece
            if piece is not None and piece[0] - elapsed > CLOCK_TOLERANCE_SECONDS:
                self._timer = self._clock.callLater(piece[0] - elapsed, self._write)
                return
            self._write_piece(piece)

    def _write_piece(self, piece: tuple[float, int] | None) -> None:
        """Write the next slice of *piece*; ``None`` is the end of the body."""
        end = len(self._body) if piece is None else piece[1]
        data = bytes(self._body[self._offset : min(end, self._offset + SLICE_BYTES)])
        self._offset += len(data)
        last = piece is None and self._offset == len(self._body)
        if self._offset >= end:
            self._piece = next(self._pieces, None)
        self._exchange.write(data, last)
        if last:
            self._completed()

    def resumeProducing(self) -> None:
        self._paused = False
        if self._timer is None:
            self._write()

    def hurry(self) -> None:
        """Write the rest without waiting for the times of the pieces."""
        self._piece, self._pieces = None, iter(())
        if self._timer is not None:
            self._timer.cancel()
            self._write()

    def stopProducing(self) -> None:
        super().stopProducing()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
