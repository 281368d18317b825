"""Step four, for many: one upstream request, and everybody who wants its answer.

1. Identical requests share one flight (:mod:`goproxyai.cache.coalescing` says which may): whoever
   comes while it is under way gets what has come so far, then what comes, at a pace of its own.
2. All that came is kept in pieces, once, while riders may come; a rider is a place in them.
   Upstream is paused only while nobody takes anything: a slow rider holds nobody up.
3. The pieces are bounded, by :data:`MOST_SHARED` while several ride, and by what the store lets a
   recorder collect. Where they end, who is furthest stays aboard, and the others go on by requests
   of their own (:mod:`.resume`).
4. Upstream's request ends when the last rider leaves. A leader that goes hurts nobody.
5. An answer that may not be shared, as its head says, is the leader's; the others ask themselves.
6. A failure before the head is the same error for all; one in the body cuts all off.
7. Whatever is written to a rider may bring its next request here at once, or take it away: who is
   answered for good is taken off the list first, and the flight out of the table.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from goproxyai.cache.rules import may_share
from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.response import Response
from goproxyai.messages.headers import Headers, names_itself
from goproxyai.proxy import replay as respond
from goproxyai.proxy.error_response import proxy_error_for
from goproxyai.proxy.recorder import CacheMiss, Recorder, recorder
from goproxyai.proxy.resume import ResumedForward
from goproxyai.proxy.subscriber import Subscriber
from goproxyai.proxy.upstream_request import UpstreamRequest
from goproxyai.proxy.usage_meter import UsageMeter, charged, is_billed, meter_of
from goproxyai.usage.usage import Usage

if TYPE_CHECKING:
    from goproxyai.proxy.handler import ProxyHandler

MOST_SHARED: Final = 4 * 1024 * 1024
"""Bytes of an answer that are kept for riders to come, and for slow ones."""

_log = Logger(namespace="goproxyai.flight")


class SingleFlight(UpstreamRequest):
    """One request on its way to upstream; a Receiver, and the Sink of the answer.

    :param wanted: what the leader asks for.
    :ivar pieces: of the answer's body, all that came, while :attr:`_recorder` is on.
    """

    __slots__ = (
        "_alone", "_awake", "_body", "_held", "_meter", "_over", "_recorder", "_response",
        "_riders", "_storing", "_upstream_seconds", "_usage", "_wanted", "pieces",
    )  # fmt: skip

    def __init__(self, relay: ProxyHandler, exchange: Exchange, wanted: CacheMiss) -> None:
        super().__init__(relay, exchange, wanted.notes)
        self._body = exchange.body.whole() or (b"" if exchange.head.chunked else None)
        self._wanted = wanted
        self._riders: dict[Subscriber, None] = {}  # an ordered set
        self._awake = 0
        self._held = False  # upstream is paused
        self._response: Response | None = None
        self._recorder: Recorder | None = None
        self._storing = False
        self._alone = False  # one rider, and no pieces
        self._over = False
        self._upstream_seconds = -1.0
        self._meter: UsageMeter | None = None
        self._usage: Usage | None = None
        self.pieces: list[bytes] = []

    def start(self, client: str) -> None:
        """Send the request, of which *client* is the leader."""
        self._relay.flights[self._wanted.key] = self
        self._enlist(Subscriber(self, self._asked, client, self._wanted, True))
        try:
            self._ask()
        except ProxyError as refused:
            self._fail(refused)
        except Exception:
            self._end()
            raise

    def _data(self) -> bytes | None:
        """The body, which outlives its leader."""
        return self._body

    def takes(self, wanted: CacheMiss) -> bool:
        """Whether somebody who wants the same may still come aboard.

        Not where a write, or a clearing, came in between: what is under way may be outdated.
        """
        return not self._relay.store.overtaken(wanted.notes.owner, self._wanted.ticket)

    def subscribe(self, exchange: Exchange, client: str, wanted: CacheMiss) -> None:
        """Take one more rider."""
        rider = Subscriber(self, exchange, client, wanted, False)
        self._enlist(rider)
        if exchange.trace is not None:
            exchange.trace.rides(self._asked.trace)
        if self._response is not None:
            self._begin_for(rider, self._response)
            rider.pump(False)
            exchange.flush()
            self._flow()

    def _enlist(self, rider: Subscriber) -> None:
        self._riders[rider] = None
        self._awake += 1

    def _close(self) -> None:
        """Nobody may come aboard any more."""
        flights, key = self._relay.flights, self._wanted.key
        if flights.get(key) is self:
            del flights[key]

    # Upstream's answer: Receiver.

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        """An interim answer is passed on."""
        interim = respond.interim(status, reason, headers)
        for rider in tuple(self._riders):
            rider.exchange.send_interim(interim)

    def answered(self, response: Response) -> None:
        """The head is relayed to everybody, and the body asked for."""
        self._heard(response)
        if self._over:
            response.abort()
            return
        try:
            self._begin(response)
        except Exception:  # a 407, or a defect of ours: never leave anybody waiting
            response.abort()
            self._fail(proxy_error_for(Failure()), Failure())

    def _begin(self, response: Response) -> None:
        relay = self._relay
        self._upstream_seconds = relay.seconds() - self._sent_at
        if response.code > 399 and self._is_refused(response):
            self._upstream_seconds = -1.0
            return
        self._response = response
        if not self._choose_recorder(response):
            return
        whole = response.take_whole()
        if whole is not None:
            self._answer_whole(response, whole)
            return
        self._meter = meter_of(relay.counters, self._notes, response, relay.seconds)
        riders = tuple(self._riders)
        for rider in riders:
            self._begin_for(rider, response)
        response.deliver(self)
        for rider in riders:
            rider.exchange.flush()

    def _choose_recorder(self, response: Response) -> bool:
        """Judge by its head whether the answer is stored, and whether it is shared.

        :returns: whether somebody is left to be given it.
        """
        relay, wanted = self._relay, self._wanted
        store, length = relay.store, response.length
        kept = recorder(store, wanted, response, relay.seconds)
        self._storing = kept is not None
        shared = may_share(response.code, response.fields, wanted.notes.shared)
        if shared and kept is None:
            kept = Recorder(store, response, relay.seconds)
        if kept is not None and not kept.on:
            kept = None
        self._recorder = kept
        if kept is not None:
            self.pieces = kept.pieces
        else:
            self._storing, self._alone = False, True
        too_large = isinstance(length, int) and length > MOST_SHARED
        if kept is None or too_large or not shared:
            self._close()
            return self._leave_it_to_the_leader(response)
        return True

    def _leave_it_to_the_leader(self, response: Response) -> bool:
        """Let the others, who have got nothing yet, ask upstream themselves.

        The answer is to the leader's request: where it has left, it is nobody's.
        """
        leading = [rider for rider in self._riders if rider.leads]
        leaving = [rider for rider in self._riders if not rider.leads]
        self._riders = dict.fromkeys(leading)
        self._awake = sum(rider.awake for rider in leading)
        if not leading:
            response.abort()
            if is_billed(self._notes, response):
                self._relay.counters.tokens.lose("left")
            self._end()
        for rider in leaving:
            self._relay.forward(rider.exchange, rider.client, rider.wanted)
        return bool(leading) and not self._over

    def _begin_for(self, rider: Subscriber, response: Response) -> None:
        """Start the answer of one rider."""
        exchange = rider.exchange
        framed = b"content-length" in response.fields
        head = self._head(rider, response)
        exchange.start_response(
            response.code, head, response.length if framed else None, framed and rider.leads
        )
        exchange.register_producer(rider)
        rider.first_seconds = self._relay.seconds() - exchange.began
        rider.streams = self._meter is not None and self._meter.streamed
        self._relay.counters.open_streams += rider.streams

    def _head(self, rider: Subscriber, response: Response) -> bytes:
        """Status line and header lines; a follower gets no cookies, and says its own length."""
        line = respond.status_line(response.code, response.phrase)
        began = rider.exchange.began
        if rider.leads:
            seconds = self._upstream_seconds
            ours = respond.forwarded_lines(
                rider.exchange.request_id, names_itself(response.fields), self._wanted.reason,
                self._sent_at - began, seconds,
            )  # fmt: skip
            return line + response.relayed_lines() + ours
        waited = self._relay.seconds() - began
        shared = self._wanted.notes.shared
        named = names_itself(response.fields) and not shared
        ours = respond.forwarded_lines(
            rider.exchange.request_id, named, respond.COALESCED, 0.0, waited
        )
        age = response.fields.get(b"age")
        if age is not None:
            ours += b"Age: %b\r\n" % age
        return line + respond.kept_lines(response, shared) + ours

    def _answer_whole(self, response: Response, body: bytes) -> None:
        """All of the answer came in one read: one write for each."""
        self._close()
        if is_billed(self._notes, response):
            self._usage = charged(self._relay.counters, response, body)
        kept, self._recorder = self._recorder, None
        if kept is not None and self._storing and kept.add(body):
            kept.keep(kept.whole(), self._wanted, self._usage)
        riders = self._detach_all()
        for rider in riders:
            exchange = rider.exchange
            if rider.leads and b"content-length" in response.fields and exchange.keeps_connection():
                head = self._head(rider, response)
                exchange.send_response(response.code, head + b"\r\n" + body, len(body))
            else:
                self._begin_for(rider, response)
                exchange.write(body, True)
            self.note(rider)

    def _detach_all(self) -> list[Subscriber]:
        """All who are aboard: they are answered for good, and the flight is over."""
        riders = list(self._riders)
        self._end()
        return riders

    # Its body: Sink.

    def received(self, data: bytes, ended: bool) -> None:
        """Body bytes of one read: keep them, and let everybody have them who can."""
        try:
            self._measure(data, ended)
            self._take(data, ended)
        except Exception:  # a defect of ours: never leave anybody waiting
            self._give_up()

    def _measure(self, data: bytes, ended: bool) -> None:
        meter = self._meter
        if meter is None:
            return
        if data:
            meter.add(data)
        if ended:
            self._usage = meter.whole()

    def _take(self, data: bytes, ended: bool) -> None:
        kept = self._recorder
        if kept is None or (data and not kept.add(data)):
            if not self._alone:
                self._go_alone()
            self._pass_on(data, ended)
            return
        if kept.size > MOST_SHARED:
            self._close()
            self._split_slow()
            if not self._storing:  # it need not be kept for anybody
                self._go_alone()
                kept.forget()
                if ended:
                    self._pass_on(b"", True)
                return
        if ended:
            self._complete(True)
        else:
            for rider in tuple(self._riders):
                rider.pump(False)

    def _pass_on(self, data: bytes, ended: bool) -> None:
        """What came goes to the one who is left."""
        rider = next(iter(self._riders), None)
        if rider is None:  # it left as it was given what came before
            return
        if ended:
            self._end()
        rider.exchange.write(data, ended)
        if ended:
            self.note(rider)

    def _give_up(self) -> None:
        failure = Failure()
        if self._response is not None:
            self._response.abort()
        self._fail(proxy_error_for(failure), failure)

    def _go_alone(self) -> None:
        """No more is kept: who has most goes on with what comes, the others by themselves."""
        self._close()
        self._split_slow()
        self._recorder = None
        self._storing = False
        self._alone = True
        (rider,) = self._riders
        rider.exchange.write(b"".join(self.pieces[rider.at :]))
        self.pieces = []

    def _split_slow(self) -> None:
        """Let all go on by requests of their own but who has most."""
        if len(self._riders) == 1:
            return
        stays = max(self._riders, key=lambda rider: (rider.at, rider.awake))
        leaving = [rider for rider in self._riders if rider is not stays]
        self._riders = {stays: None}
        self._awake = int(stays.awake)
        self._flow()
        digest, size, at = blake2b(), 0, 0
        assert self._response is not None, "it is its body that is too large"
        for rider in sorted(leaving, key=lambda rider: rider.at):
            for piece in self.pieces[at : rider.at]:
                digest.update(piece)
                size += len(piece)
            at = rider.at
            self._streams_no_more(rider)
            going_on = ResumedForward(self._relay, rider)
            going_on.resume(self._response, size, digest.copy())

    def closed(self) -> None:
        """Upstream ended the body with its connection: whole or not, its last event may tell."""
        try:
            self._measure(b"", True)
            if self._alone:
                self._pass_on(b"", True)
            else:
                self._complete(False)
        except Exception:  # a defect of ours: never leave anybody waiting
            self._give_up()

    def _complete(self, framed: bool) -> None:
        """The body is here: store it, and write what is left of it to each."""
        kept, self._recorder = self._recorder, None
        assert kept is not None, "else it is alone"
        body = kept.whole()
        stored = self._storing and kept.keep(body, self._wanted, self._usage, framed)
        behind = []
        for rider in self._detach_all():
            rider.pump(True)
            if rider.exchange.over:
                self.note(rider)
            else:
                behind.append(rider)
        self._follow_up(behind, body, stored)

    def _follow_up(self, behind: list[Subscriber], body: bytes, stored: bool) -> None:
        """Let those who are behind get the rest of *body*, as they take it.

        Where the store does not account for it, room is held for it until the last is done.
        """
        store, left = self._relay.store, len(behind)
        held = 0
        if left and not stored and store.reserve(len(body)):
            held = len(body)

        def done() -> None:
            nonlocal left
            left -= 1
            if not left:
                store.release(held)

        at, pieces = 0, 0
        for rider in sorted(behind, key=lambda rider: rider.at):
            at += sum(map(len, self.pieces[pieces : rider.at]))
            pieces = rider.at
            told = (self._upstream_seconds if rider.leads else -1.0), self._name()
            self._relay.finish(rider, body, at, self._usage, told, done)
            self._streams_no_more(rider)  # it has been counted anew

    def broken(self, reason: Failure) -> None:
        """Upstream broke off: so do we, that nobody takes the rest for the whole."""
        problem = proxy_error_for(reason)
        for rider in self._detach_all():
            rider.exchange.abort()
            self.note(rider, "cut", problem)

    def _lost(self, reason: Failure) -> None:
        """There will be no answer of upstream's."""
        self._fail(proxy_error_for(reason), reason)

    def _fail(self, problem: ProxyError, failure: Failure | None = None) -> None:
        """The same error for all."""
        if self._over:
            return
        if problem.code == "internal_error" and failure is not None:
            _log.failure("a defect while forwarding", failure)
        if not (problem.status in respond.FAILURES and self._rescue(problem.code)):
            for rider in self._detach_all():
                self.refuse(rider, problem)

    def _rescue(self, why: str) -> bool:
        """Answer all with a stored answer that has expired, if there is one."""
        relay = self._relay
        if any(rider.exchange.response_started for rider in self._riders):
            return False
        entry = relay.stale(self._wanted)
        if entry is None:
            return False
        for rider in self._detach_all():
            relay.rescue(rider.exchange, rider.client, entry, why)
        return True

    # The riders' side.

    def refuse(self, rider: Subscriber, problem: ProxyError) -> None:
        """Answer with an error of the proxy's own, or break off."""
        if rider.exchange.response_started:
            rider.exchange.abort()
            self.note(rider, "cut", problem)
        else:
            respond.problem(rider.exchange, problem, self._wanted.reason if self._tries else "")
            self.note(rider, "ok", problem)

    def paused(self) -> None:
        """One rider takes nothing for now."""
        self._awake -= 1
        self._flow()

    def resumed(self, rider: Subscriber) -> None:
        """It takes more: first what it missed."""
        self._awake += 1
        if not self._alone:
            rider.pump(False)
        self._flow()

    def leave(self, rider: Subscriber) -> None:
        """A rider is gone."""
        if rider not in self._riders:
            return
        del self._riders[rider]
        if rider.awake:
            self._awake -= 1
        if self._riders:
            self._flow()
        else:
            self._stop()

    def _flow(self) -> None:
        """Read from upstream if somebody takes what comes, and only then."""
        response = self._response
        if response is None or self._over or self._held is not bool(self._awake):
            return
        self._held = not self._awake
        if self._held:
            response.pauseProducing()
        else:
            response.resumeProducing()

    def _stop(self) -> None:
        """Nobody wants the answer any more."""
        self._take_back()
        if self._response is not None:
            self._response.abort()
        elif self._notes.generates and self._tries:
            self._relay.counters.tokens.lose("left")
        self._end("left")

    # The end.

    def _end(self, why: str = "cut") -> None:
        self._close()
        self._over = True
        self._riders = {}
        kept, self._recorder = self._recorder, None
        if kept is not None:
            kept.forget()
        if self._meter is not None:
            self._meter.lost(why)

    def _streams_no_more(self, rider: Subscriber) -> None:
        self._relay.counters.open_streams -= rider.streams
        rider.streams = False

    def _name(self) -> bytes:
        """Upstream's for the request."""
        return b"" if self._response is None else self._response.fields.get(b"x-request-id", b"")

    def note(self, rider: Subscriber, ended: str = "ok", problem: ProxyError | None = None) -> None:
        """The event of one rider, which has one."""
        if rider.noted:
            return
        rider.noted = True
        self._streams_no_more(rider)
        self._relay.log.over(
            rider.exchange,
            rider.client,
            rider.cache,
            code="" if problem is None else problem.code,
            detail="" if problem is None else problem.detail,
            ended=ended,
            upstream_seconds=self._upstream_seconds if rider.leads else -1.0,
            upstream_request_id=self._name(),
            first_seconds=rider.first_seconds,
            bill=self._usage if ended == "ok" and problem is None else None,
        )
