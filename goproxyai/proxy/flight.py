"""One upstream request that answers many identical requests.

1. A request that arrives while an identical one is under way subscribes: it receives the body so
   far, then the rest.
2. The body is kept once, in pieces, while further subscribers may join; a subscriber is a position
   in it. Upstream is paused only while no subscriber accepts data, so a slow one delays no other.
3. The pieces are bounded: by :data:`~.shared_body.MAX_SHARED_BYTES` while there are several
   subscribers, and by the store's reservations. At the bound the subscriber that has received the
   most stays; the others restart with their own upstream requests (:mod:`.resume`).
4. The upstream request ends when the last subscriber leaves. The leader may leave before others.
5. A response whose head forbids sharing goes to the leader; the others are forwarded.
6. A failure before the head is answered to all; a failure in the body breaks all connections.
7. A write to a subscriber may re-enter this module, since the client's next request may be parsed
   at once. So subscribers are detached, and the flight is closed, before the last write.

The module exceeds the usual length: every one of these rules concerns all phases of a flight.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.python.failure import Failure

from goproxyai.cache.rules import may_share
from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.response import Response
from goproxyai.limits.request_memory import HeldBytes
from goproxyai.messages.headers import Headers
from goproxyai.proxy.cache_lookup import CacheMiss
from goproxyai.proxy.catch_up import replay_rest, restart
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.error_response import fail_exchange, proxy_error_for
from goproxyai.proxy.flight_claim import flight_claim
from goproxyai.proxy.forward import Forward
from goproxyai.proxy.progress import model_of
from goproxyai.proxy.replay import answer_stale
from goproxyai.proxy.response_head import interim_head
from goproxyai.proxy.shared_body import SharedBody, shared_body_for, too_large_to_share
from goproxyai.proxy.subscriber import Subscriber, SubscriberSet
from goproxyai.proxy.upstream_request import STALE_IF_ERROR_STATUSES, UpstreamRequest
from goproxyai.proxy.usage_meter import UsageMeter, meter_of, record_usage, reports_usage
from goproxyai.telemetry.outcome import Ending, RequestOutcome
from goproxyai.usage.usage import Usage


class Flight:
    """One upstream request and its subscribers; the sink of the response's body.

    :param exchange: the leader's.
    :param client: the leader's address.
    :param miss: the leader's cache miss.
    :param close: called when no more requests may join; may be called more than once.
    :ivar ended: the subscribers are detached, and a response is no longer wanted.
    :ivar upstream_paused: no subscriber accepts data, so upstream's response is not read.
    :ivar _body: the pieces for all subscribers; ``None`` before the response, and when there is
        but one subscriber, to which the body is passed on.
    """

    __slots__ = (
        "_body", "_claim", "_close", "_context", "_exchange", "_meter", "_miss", "_request",
        "_subscribers", "_usage", "ended", "upstream_paused",
    )  # fmt: skip

    def __init__(
        self,
        context: ProxyContext,
        exchange: Exchange,
        client: str,
        miss: CacheMiss,
        close: Callable[[Flight], None],
    ) -> None:
        self._context = context
        self._exchange = exchange
        self._miss = miss
        self._close = close
        # The leader's exchange may end before the flight.
        body = HeldBytes(context.memory, exchange.body.whole())
        self._request = UpstreamRequest(context, self, exchange, client, miss.plan, body)
        exchange.release_body()
        self._subscribers = SubscriberSet()
        self.ended = False
        self.upstream_paused = False
        self._body: SharedBody | None = None
        self._meter: UsageMeter | None = None
        self._usage: Usage | None = None
        self._claim = flight_claim(context, miss)
        self._subscribers.add(Subscriber(context, self, exchange, client, miss, True))

    def __len__(self) -> int:
        """The number of subscribers."""
        return len(self._subscribers)

    @property
    def key(self) -> bytes:
        """The cache key of the requests."""
        return self._miss.key

    def start(self) -> None:
        """Send the request."""
        try:
            self._request.send()
        except ProxyError as error:
            self.upstream_failed(error)
        except Exception:
            self._end()
            raise

    def accepts(self, miss: CacheMiss) -> bool:
        """Return whether a request may still join: not after a write or a clearing."""
        return not self._context.store.is_outdated(miss.plan.owner, self._miss.generation)

    def subscribe(self, exchange: Exchange, client: str, miss: CacheMiss) -> None:
        """Add a subscriber, and write the body so far to it."""
        subscriber = Subscriber(self._context, self, exchange, client, miss, False)
        self._subscribers.add(subscriber)
        if self._request.body is None:
            self._request.hold_body(HeldBytes(self._context.memory, exchange.body.whole()))
        exchange.release_body()  # the flight has the same
        if exchange.trace is not None:
            exchange.trace.coalesced(self._exchange.trace)
        response = self._request.response
        if response is not None:
            self._begin(subscriber, response)
            subscriber.write_pieces(False)
            exchange.flush()
            self._adjust_flow()

    # The upstream's side: RequestOwner.

    def interim_response(self, status: int, phrase: bytes, headers: Headers) -> None:
        # It may have the cookies and the organization of the leader's credential.
        leader = self._subscribers.leader
        if leader is not None:
            leader.exchange.send_interim(interim_head(status, phrase, headers))

    def response_began(self, response: Response) -> None:
        context = self._context
        if not self._decide_sharing(response):
            return
        body = response.take_whole()
        if body is not None:
            self._answer_whole(response, body)
            return
        self._meter = meter_of(context.counters, self._miss.plan, response, context.seconds)
        subscribers = tuple(self._subscribers)
        if len(subscribers) == 1:
            self._request.release_body()  # only a detached subscriber would need it
        for subscriber in subscribers:
            self._begin(subscriber, response)
        response.deliver(self)
        for subscriber in subscribers:
            subscriber.exchange.flush()

    def answer_stale(self, cause: str) -> bool:
        """Answer all subscribers with a stale entry, if there is one."""
        context = self._context
        if any(subscriber.exchange.response_started for subscriber in self._subscribers):
            return False
        entry = context.lookup.find_stale(self._miss, context.seconds())
        if entry is None:
            return False
        for subscriber in self._detach_all():
            answer_stale(context, subscriber.exchange, subscriber.client, entry, cause)
        return True

    def upstream_failed(self, error: ProxyError) -> None:
        """Answer all subscribers with the same error."""
        if self.ended:
            return
        if error.status in STALE_IF_ERROR_STATUSES and self.answer_stale(error.code):
            return
        for subscriber in self._detach_all():
            self.fail_subscriber(subscriber, error)

    # The response's head.

    def _decide_sharing(self, response: Response) -> bool:
        """Decide by the response's head whether it is stored and shared.

        :returns: whether a subscriber is left.
        """
        miss = self._miss
        shareable = may_share(response.code, response.fields, miss.plan.across_credentials)
        self._body = shared_body_for(self._context, miss, response, shareable)
        length = response.length
        too_large = isinstance(length, int) and too_large_to_share(length)
        self._claim.response_began(self._body is not None and self._body.storable, length)
        if self._body is None or too_large or not shareable:
            self._close(self)
            return self._keep_leader(response)
        return True

    def _keep_leader(self, response: Response) -> bool:
        """Keep the leader, and forward the other requests.

        The response belongs to the leader's request: it is discarded if the leader has left.
        """
        context, body = self._context, self._request.body
        leader = self._subscribers.leader
        others = self._subscribers.keep_only(leader)
        if leader is None:
            response.abort()
            if reports_usage(self._miss.plan, response):
                context.counters.tokens.add_unknown("left")
            self._end()
        for other in others:
            miss = other.miss
            Forward(
                context, other.exchange, other.client, miss.plan, miss, miss.reason, body
            ).start()
        return leader is not None and not self.ended

    def _begin(self, subscriber: Subscriber, response: Response) -> None:
        """Begin the response of one subscriber."""
        streams = self._meter is not None and self._meter.streamed
        head = subscriber.head(response, self._request.sent_at, self._request.upstream_seconds)
        subscriber.begin(response, head, streams)

    def _answer_whole(self, response: Response, body: bytes) -> None:
        """Answer all subscribers with a response whose body arrived together with its head."""
        self._close(self)
        if reports_usage(self._miss.plan, response):
            self._usage = record_usage(self._context.counters, response, body)
        shared, self._body = self._body, None
        if shared is not None and shared.storable and shared.add(body):
            shared.complete(self._miss, self._usage, True)
        for subscriber in self._detach_all():
            exchange = subscriber.exchange
            if (
                subscriber.is_leader
                and b"content-length" in response.fields
                and exchange.keeps_connection()
            ):
                head = subscriber.head(
                    response, self._request.sent_at, self._request.upstream_seconds
                )
                exchange.send_response(response.code, head + b"\r\n" + body, len(body))
            else:
                self._begin(subscriber, response)
                exchange.write(body, True)
            self.record(subscriber)

    # The response's body: BodySink.

    @property
    def pieces(self) -> list[bytes]:
        return [] if self._body is None else self._body.pieces

    def received(self, data: bytes, ended: bool) -> None:
        try:
            self._measure(data, ended)
            if self._body is None:
                self._pass_on(data, ended)
            else:
                self._share(self._body, data, ended)
        except Exception:  # a defect: the subscribers must not wait indefinitely
            self._give_up()

    def closed(self) -> None:
        try:
            self._measure(b"", True)
            if self._body is None:
                self._pass_on(b"", True)
            else:
                self._complete(self._body, framed=False)
        except Exception:  # a defect: the subscribers must not wait indefinitely
            self._give_up()

    def broken(self, reason: Failure) -> None:
        error = proxy_error_for(reason)
        for subscriber in self._detach_all():
            subscriber.exchange.abort()
            self.record(subscriber, Ending.CUT, error)

    def _give_up(self) -> None:
        error = proxy_error_for(Failure())
        self._request.cancel()
        self.upstream_failed(error)

    def _measure(self, data: bytes, ended: bool) -> None:
        if self._meter is not None:
            if data:
                self._meter.add(data)
            if ended:
                self._usage = self._meter.finish()

    def _share(self, body: SharedBody, data: bytes, ended: bool) -> None:
        """Keep a piece of the body for all subscribers."""
        if not body.add(data):
            self._stop_sharing(body)
            self._pass_on(data, ended)
            return
        if body.exceeds_sharing:
            self._close(self)
            self._split_slow(body)
            if not body.storable:
                self._stop_sharing(body)
                if ended:
                    self._pass_on(b"", True)
                return
        if ended:
            self._complete(body, framed=True)
        else:
            for subscriber in self._subscribers:
                subscriber.write_pieces(False)

    def _stop_sharing(self, body: SharedBody) -> None:
        """Keep no more pieces: one subscriber stays, the others restart."""
        self._close(self)
        self._claim.end()
        self._split_slow(body)
        if self.ended:
            return
        self._body = None
        for subscriber in self._subscribers:
            subscriber.exchange.write(body.rest(subscriber.position))
        body.drop()

    def _split_slow(self, body: SharedBody) -> None:
        """Keep the subscriber that has received the most; the others restart."""
        response = self._request.response
        if len(self._subscribers) > 1 and response is not None:
            detached = self._subscribers.keep_only(self._subscribers.furthest)
            self._adjust_flow()
            restart(self._context, detached, response, body, self._request.body)

    def _pass_on(self, data: bytes, ended: bool) -> None:
        """Write to the only subscriber, which may have left during an earlier write."""
        for subscriber in self._subscribers:
            if ended:
                self._end()
            subscriber.exchange.write(data, ended)
            if ended:
                self.record(subscriber)

    def _complete(self, shared: SharedBody, framed: bool) -> None:
        """The body is complete: store it, and write the rest of it to each subscriber."""
        body, entry = shared.complete(self._miss, self._usage, framed)
        behind = []
        for subscriber in self._detach_all():
            subscriber.write_pieces(True)
            if subscriber.exchange.over:
                self.record(subscriber)
            else:
                behind.append((subscriber, self._outcome(subscriber, Ending.COMPLETE, None)))
        replay_rest(self._context, behind, shared, body, entry)

    # The subscribers' side: SubscriptionOwner.

    @property
    def model(self) -> str:
        return model_of(self._exchange, self._meter, self._request.body)

    def fail_subscriber(self, subscriber: Subscriber, error: ProxyError) -> None:
        reason = self._miss.reason if self._request.attempts else ""
        self.record(subscriber, fail_exchange(subscriber.exchange, error, reason), error)

    def subscriber_paused(self) -> None:
        self._subscribers.reading -= 1
        self._adjust_flow()

    def subscriber_resumed(self, subscriber: Subscriber) -> None:
        self._subscribers.reading += 1
        if self._body is not None:
            subscriber.write_pieces(False)
        self._adjust_flow()

    def subscriber_left(self, subscriber: Subscriber) -> None:
        if self._subscribers.discard(subscriber):
            if len(self._subscribers):
                self._adjust_flow()
            else:
                self._abandon()

    def _adjust_flow(self) -> None:
        """Read from upstream only while a subscriber accepts data."""
        response, reading = self._request.response, self._subscribers.reading > 0
        if response is None or self.ended or self.upstream_paused is not reading:
            return
        self.upstream_paused = not reading
        if reading:
            self._claim.upstream_resumed()
            response.resumeProducing()
        else:
            self._claim.upstream_paused()
            response.pauseProducing()

    # The end.

    def _abandon(self) -> None:
        """The last subscriber has left: stop the upstream request."""
        self._request.abandon()
        self._claim.abandon()
        self._end("left")

    def _detach_all(self) -> list[Subscriber]:
        """End the flight; returns its subscribers, whose responses the caller completes."""
        subscribers = self._subscribers.keep_only(None)
        self._end()
        return subscribers

    def _end(self, why: str = "cut") -> None:
        self._close(self)
        self._claim.end()
        self.ended = True
        self._request.release()
        self._subscribers.keep_only(None)
        if self._body is not None:
            self._body.drop()
        if self._meter is not None:
            self._meter.abandon(why)

    def record(
        self,
        subscriber: Subscriber,
        ending: Ending = Ending.COMPLETE,
        error: ProxyError | None = None,
    ) -> None:
        subscriber.record(self._outcome(subscriber, ending, error))

    def _outcome(
        self, subscriber: Subscriber, ending: Ending, error: ProxyError | None
    ) -> RequestOutcome:
        complete = ending is Ending.COMPLETE and error is None
        usage = self._usage if complete else None
        response = self._request.response
        return subscriber.outcome(response, self._request.upstream_seconds, ending, error, usage)
