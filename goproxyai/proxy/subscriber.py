"""The clients that share one upstream response, and what each of them has received."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.response import Response
from goproxyai.proxy.cache_lookup import CacheMiss
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.progress import Progress
from goproxyai.proxy.replay import SLICE_BYTES
from goproxyai.proxy.response_head import coalesced_head, forwarded_head
from goproxyai.telemetry.outcome import CacheOutcome, Ending, RequestOutcome
from goproxyai.usage.usage import Usage


class SubscriptionOwner(Protocol):
    """What a subscriber needs of the flight that it belongs to."""

    @property
    def pieces(self) -> list[bytes]:
        """The body so far."""

    @property
    def model(self) -> str:
        """The model of the request, empty if it is not known."""

    def subscriber_resumed(self, subscriber: Subscriber) -> None:
        """The client accepts data again."""

    def subscriber_paused(self) -> None:
        """The client accepts no data for now."""

    def subscriber_left(self, subscriber: Subscriber) -> None:
        """The client has gone, or its exchange has failed."""

    def fail_subscriber(self, subscriber: Subscriber, error: ProxyError) -> None:
        """Answer one subscriber with an error."""

    def record(self, subscriber: Subscriber, ending: Ending = Ending.COMPLETE) -> None:
        """Record the outcome of one subscriber, once."""


@implementer(IPushProducer)
class Subscriber:
    """One client of a shared response; the producer of its body, and the exchange's listener.

    :ivar position: how many pieces of the body the client has received.
    :ivar is_leader: its request is the one that went upstream.
    :ivar reading: the client accepts data.
    :ivar recorded: its outcome is recorded.
    :ivar streams: it is counted among the open streams.
    :ivar first_byte_seconds: from its request to the first byte of its response; negative before.
    """

    __slots__ = (
        "_context", "_owner", "_writing", "client", "exchange", "first_byte_seconds", "is_leader",
        "miss", "position", "reading", "recorded", "streams",
    )  # fmt: skip

    def __init__(
        self,
        context: ProxyContext,
        owner: SubscriptionOwner,
        exchange: Exchange,
        client: str,
        miss: CacheMiss,
        is_leader: bool,
    ) -> None:
        self._context = context
        self._owner = owner
        self.exchange = exchange
        self.client = client
        self.miss = miss
        self.is_leader = is_leader
        self.position = 0
        self.reading = True
        self.recorded = False
        self.streams = False
        self.first_byte_seconds = -1.0
        self._writing = False
        exchange.listener = self

    def progress(self) -> Progress:
        return Progress(self.first_byte_seconds, self.streams, self._owner.model)

    @property
    def cache(self) -> CacheOutcome:
        return CacheOutcome.MISS if self.is_leader else CacheOutcome.COALESCED

    def head(self, response: Response, sent_at: float, upstream_seconds: float) -> bytes:
        """Return status line and header lines; only the leader gets those of its credential."""
        exchange, miss = self.exchange, self.miss
        if self.is_leader:
            return forwarded_head(
                response,
                exchange.request_id,
                miss.reason,
                sent_at - exchange.started_at,
                upstream_seconds,
            )
        waited = self._context.seconds() - exchange.started_at
        return coalesced_head(response, exchange.request_id, miss.plan.across_credentials, waited)

    def begin(self, response: Response, head: bytes, streams: bool) -> None:
        """Begin the response.

        :param head: status line and header lines.
        :param streams: the response is an event stream.
        """
        exchange = self.exchange
        has_length = b"content-length" in response.fields
        # Only the leader's head keeps the Content-Length line of the response.
        head_has_length = has_length and self.is_leader
        exchange.start_response(
            response.code, head, response.length if has_length else None, head_has_length
        )
        exchange.register_producer(self)
        self.first_byte_seconds = self._context.seconds() - exchange.started_at
        self.streams = streams
        self._context.counters.open_streams += streams

    def leave_streams(self) -> None:
        """Count the response among the open streams no longer."""
        self._context.counters.open_streams -= self.streams
        self.streams = False

    def outcome(
        self,
        response: Response | None,
        upstream_seconds: float,
        ending: Ending,
        error: ProxyError | None,
        usage: Usage | None,
    ) -> RequestOutcome:
        return RequestOutcome(
            self.cache,
            code="" if error is None else error.code,
            detail="" if error is None else error.detail,
            ending=ending,
            upstream_seconds=upstream_seconds if self.is_leader else -1.0,
            upstream_request_id=b"" if response is None else response.request_id,
            first_byte_seconds=self.first_byte_seconds,
            usage_source=usage,
        )

    def record(self, outcome: RequestOutcome) -> None:
        """Record *outcome*, unless an outcome is recorded already."""
        if not self.recorded:
            self.recorded = True
            self.leave_streams()
            self._context.access_log.record(self.exchange, self.client, outcome)

    def write_pieces(self, ended: bool) -> None:
        """Write the pieces that the client has not received, as long as it accepts them.

        :param ended: the body is complete.
        """
        if self._writing:
            return
        self._writing = True
        exchange, pieces = self.exchange, self._owner.pieces
        while self.reading and not exchange.over:
            data = self._next_slice(pieces)
            last = ended and self.position == len(pieces)
            if data or last:
                exchange.write(data, last)
            if self.position == len(pieces):
                break
        self._writing = False

    def _next_slice(self, pieces: list[bytes]) -> bytes:
        """Return the next pieces, up to a slice, and advance the position."""
        first, size = self.position, 0
        while self.position < len(pieces) and (
            size == 0 or size + len(pieces[self.position]) <= SLICE_BYTES
        ):
            size += len(pieces[self.position])
            self.position += 1
        if self.position == first + 1:
            return pieces[first]
        return b"".join(pieces[first : self.position])

    # Backpressure of the client's connection.

    def pauseProducing(self) -> None:
        if self.reading:
            self.reading = False
            self._owner.subscriber_paused()

    def resumeProducing(self) -> None:
        if not self.reading:
            self.reading = True
            self._owner.subscriber_resumed(self)

    def stopProducing(self) -> None:
        """The connection is lost; :meth:`client_gone` follows."""

    # ExchangeListener.

    def client_gone(self) -> None:
        self._owner.record(self, Ending.CLIENT_GONE)
        self._owner.subscriber_left(self)

    def request_failed(self, error: ProxyError) -> None:
        """The rest of the client's request is invalid."""
        self._owner.fail_subscriber(self, error)
        self._owner.subscriber_left(self)


class SubscriberSet:
    """The subscribers of one flight, in the order of their arrival.

    :ivar reading: how many of them accept data.
    """

    __slots__ = ("_members", "reading")

    def __init__(self) -> None:
        self._members: dict[Subscriber, None] = {}  # an ordered set
        self.reading = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(tuple(self._members))  # a write may add or remove members

    def add(self, subscriber: Subscriber) -> None:
        self._members[subscriber] = None
        self.reading += subscriber.reading

    def discard(self, subscriber: Subscriber) -> bool:
        """Remove *subscriber*; returns whether it was a member."""
        if subscriber not in self._members:
            return False
        del self._members[subscriber]
        self.reading -= subscriber.reading
        return True

    def keep_only(self, kept: Subscriber | None) -> list[Subscriber]:
        """Remove all members but *kept*, and return the removed ones."""
        removed = [member for member in self._members if member is not kept]
        self._members = {} if kept is None else {kept: None}
        self.reading = int(kept is not None and kept.reading)
        return removed

    @property
    def leader(self) -> Subscriber | None:
        return next((member for member in self._members if member.is_leader), None)

    @property
    def furthest(self) -> Subscriber:
        """The subscriber that has received the most; among equals, one that accepts data."""
        return max(self._members, key=lambda member: (member.position, member.reading))
