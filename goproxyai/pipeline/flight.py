"""Step four, for many: one upstream request, and everybody who wants its answer.

1. Identical requests share one flight (:mod:`goproxyai.policy.coalescing` says which may): whoever
   comes while it is under way gets what has come so far, then what comes, at a pace of its own.
2. All that came is kept in pieces, once, while riders may come; a rider is a place in them.
   Upstream is paused only while nobody takes anything: a slow rider holds nobody up.
3. The pieces are bounded, by :data:`MOST_SHARED` while several ride, and by what the store lets a
   recorder collect. Where they end, who is furthest stays aboard, and the others go on by requests
   of their own (:mod:`.resume`).
4. Upstream's request ends when the last rider leaves. A leader that goes hurts nobody.
5. An answer that may not be shared, as its head says, is the leader's; the others ask themselves.
6. A failure before the head is the same error for all; one in the body cuts all off.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.egress.agent import Withdrawable
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.response import Response
from goproxyai.pipeline import respond
from goproxyai.pipeline.answers import problem_for
from goproxyai.pipeline.resume import Resumed
from goproxyai.pipeline.store import Recorder, Wanted, recorder
from goproxyai.policy.freshness import may_share
from goproxyai.policy.headers import Headers
from goproxyai.policy.tunnel import TunnelRefused
from goproxyai.problems import Problem

if TYPE_CHECKING:
    from goproxyai.pipeline.relay import Relay

MOST_SHARED: Final = 4 * 1024 * 1024
"""Bytes of an answer that are kept for riders to come, and for slow ones."""

_log = Logger(namespace="goproxyai.flight")


@implementer(IPushProducer)
class Rider:
    """One of those who wait for the answer.

    :ivar at: how many of the pieces it has.
    :ivar leads: whether the request that went upstream was its own.
    :ivar awake: whether it takes more.
    """

    __slots__ = ("_flight", "_pumping", "at", "awake", "client", "exchange", "leads", "wanted")

    def __init__(
        self, flight: Flight, exchange: Exchange, client: str, wanted: Wanted, leads: bool
    ) -> None:
        self._flight = flight
        self.exchange = exchange
        self.client = client
        self.wanted = wanted
        self.leads = leads
        self.at = 0
        self.awake = True
        self._pumping = False
        exchange.listener = self

    @property
    def cache(self) -> str:
        """For the log."""
        return "MISS" if self.leads else "COALESCED"

    def pump(self, ended: bool) -> None:
        """Write what came and was not written yet, as long as the client takes it.

        :param ended: nothing more will come.
        """
        if self._pumping:
            return
        self._pumping = True
        exchange, pieces = self.exchange, self._flight.pieces
        while self.awake and not exchange.over:
            data = self._next(pieces)
            last = ended and self.at == len(pieces)
            if data or last:
                exchange.write(data, last)
            if self.at == len(pieces):
                break
        self._pumping = False

    def _next(self, pieces: list[bytes]) -> bytes:
        """A slice of what was not written yet."""
        first, size = self.at, 0
        while self.at < len(pieces) and (size == 0 or size + len(pieces[self.at]) <= respond.SLICE):
            size += len(pieces[self.at])
            self.at += 1
        return pieces[first] if self.at == first + 1 else b"".join(pieces[first : self.at])

    # Backpressure: the client's connection.

    def pauseProducing(self) -> None:
        """The client does not keep up."""
        if self.awake:
            self.awake = False
            self._flight.fell_asleep()

    def resumeProducing(self) -> None:
        """It does."""
        if not self.awake:
            self.awake = True
            self._flight.awoke(self)

    def stopProducing(self) -> None:
        """It is gone, as :meth:`client_gone` is told."""

    # The exchange's Listener.

    def client_gone(self) -> None:
        """The client left."""
        self._flight.note(self, ended="client_gone")
        self._flight.leave(self)

    def request_failed(self, problem: Problem) -> None:
        """The rest of the request broke the rules."""
        self._flight.refuse(self, problem)
        self._flight.leave(self)


class Flight:
    """One request on its way to upstream; a Receiver, and the Sink of the answer.

    :param wanted: what the leader asks for.
    :ivar pieces: of the answer's body, all that came, while :attr:`_recorder` is on.
    """

    __slots__ = (
        "_alone", "_awake", "_over", "_recorder", "_relay", "_response", "_riders", "_sending",
        "_sent_at", "_storing", "_upstream_seconds", "_wanted", "pieces",
    )  # fmt: skip

    def __init__(self, relay: Relay, wanted: Wanted) -> None:
        self._relay = relay
        self._wanted = wanted
        self._riders: list[Rider] = []
        self._awake = 0
        self._sending: Withdrawable | None = None
        self._response: Response | None = None
        self._recorder: Recorder | None = None
        self._storing = False
        self._alone = False  # one rider, and no pieces
        self._over = False
        self._sent_at = 0.0
        self._upstream_seconds = -1.0
        self.pieces: list[bytes] = []

    def start(self, exchange: Exchange, client: str) -> None:
        """Send the request, which is *exchange*'s, whose client leads."""
        relay, notes = self._relay, self._wanted.notes
        relay.flights[self._wanted.key] = self
        self._enlist(Rider(self, exchange, client, self._wanted, True))
        self._sent_at = relay.seconds()
        self._sending = relay.client.relay(
            relay.terms.route,
            exchange.method,
            notes.forwarded(exchange.values),
            exchange.body.whole() or (b"" if exchange.head.chunked else None),
            exchange.head.length_hole >= 0,
            self,
        )

    def takes(self, wanted: Wanted) -> bool:
        """Whether somebody who wants the same may still come aboard.

        Not where a write, or a clearing, came in between: what is under way may be outdated.
        """
        store = self._relay.store
        return store is not None and not store.overtaken(wanted.notes.owner, self._wanted.ticket)

    def board(self, exchange: Exchange, client: str, wanted: Wanted) -> None:
        """Take one more rider."""
        rider = Rider(self, exchange, client, wanted, False)
        self._enlist(rider)
        if self._response is not None:
            self._begin_for(rider, self._response)
            rider.pump(False)
            exchange.flush()

    def _enlist(self, rider: Rider) -> None:
        self._riders.append(rider)
        self._awake += 1

    def _close(self) -> None:
        """Nobody may come aboard any more."""
        flights, key = self._relay.flights, self._wanted.key
        if flights.get(key) is self:
            del flights[key]

    # Upstream's answer: Receiver.

    def informed(self, status: int, reason: bytes, headers: Headers) -> None:
        """An interim answer is passed on."""
        interim = respond.interim(status, reason, headers)
        for rider in self._riders:
            rider.exchange.inform(interim)

    def answered(self, response: Response) -> None:
        """The head is relayed to everybody, and the body asked for."""
        self._sending = None
        if self._over:
            response.abort()
            return
        try:
            self._begin(response)
        except Exception:  # a 407, or a defect of ours: never leave anybody waiting
            response.abort()
            self._fail(problem_for(Failure()), Failure())

    def _begin(self, response: Response) -> None:
        relay = self._relay
        self._upstream_seconds = relay.seconds() - self._sent_at
        status = response.code
        if status == 407:  # whoever asks for a proxy's credentials asks us, not our clients
            raise TunnelRefused(status, response.phrase)
        if status in respond.FAILURES and self._rescue(f"upstream answered {status}"):
            response.abort()
            self._stop()
            return
        self._response = response
        self._choose_recorder(response)
        whole = response.take_whole()
        if whole is not None:
            self._answer_whole(response, whole)
            return
        for rider in self._riders:
            self._begin_for(rider, response)
        response.deliver(self)
        for rider in self._riders:
            rider.exchange.flush()

    def _choose_recorder(self, response: Response) -> None:
        """Judge by its head whether the answer is stored, and whether it is shared."""
        store = self._relay.store
        assert store is not None, "who rides wants what may be stored"
        kept = recorder(store, self._wanted, response, self._relay.seconds)
        self._storing = kept is not None
        length = response.length
        shared = may_share(response.code, response.fields, self._wanted.notes.shared) and not (
            isinstance(length, int) and length > MOST_SHARED
        )
        if shared and kept is None:
            kept = Recorder(store, response, self._relay.seconds)
        if not shared or kept is None or not kept.on:  # too large for the cache is it, too
            self._close()
            self._dismiss()
        if kept is None or not kept.on:
            self._alone = True
            self._storing = False
            kept = None
        else:
            self.pieces = kept.pieces
        self._recorder = kept

    def _dismiss(self) -> None:
        """Let all but one ask upstream themselves: they have got nothing yet."""
        stays = next((rider for rider in self._riders if rider.leads), self._riders[0])
        leaving = [rider for rider in self._riders if rider is not stays]
        self._riders = [stays]
        self._awake = 1
        for rider in leaving:
            self._relay.forward(rider.exchange, rider.client, rider.wanted)

    def _begin_for(self, rider: Rider, response: Response) -> None:
        """Start the answer of one rider."""
        exchange = rider.exchange
        framed = b"content-length" in response.fields
        head = self._head(rider, response)
        exchange.begin(
            response.code, head, response.length if framed else None, framed and rider.leads
        )
        exchange.source(rider)

    def _head(self, rider: Rider, response: Response) -> bytes:
        """Status line and header lines; a follower gets no cookies, and says its own length."""
        line = respond.status_line(response.code, response.phrase)
        began = rider.exchange.began
        if rider.leads:
            seconds = self._upstream_seconds
            ours = respond.forwarded_lines(self._wanted.reason, self._sent_at - began, seconds)
            return line + response.lines + ours
        waited = self._relay.seconds() - began
        ours = respond.forwarded_lines(respond.COALESCED, 0.0, waited)
        return line + respond.kept_lines(response, self._wanted.notes.shared) + ours

    def _answer_whole(self, response: Response, body: bytes) -> None:
        """All of the answer came in one read: one write for each."""
        self._close()
        kept, self._recorder = self._recorder, None
        if kept is not None and self._storing and kept.add(body):
            kept.keep(kept.whole(), self._wanted)
        for rider in self._riders:
            exchange = rider.exchange
            if rider.leads and b"content-length" in response.fields and exchange.simple:
                head = self._head(rider, response)
                exchange.answer(response.code, head + b"\r\n" + body, len(body))
            else:
                self._begin_for(rider, response)
                exchange.write(body, True)
            self.note(rider)
        self._end()

    # Its body: Sink.

    def received(self, data: bytes, ended: bool) -> None:
        """Body bytes of one read: keep them, and let everybody have them who can."""
        kept = self._recorder
        if kept is not None and (not data or kept.add(data)):
            if kept.size > MOST_SHARED:
                self._close()
                self._part()
            if ended:
                self._complete(True)
            else:
                for rider in tuple(self._riders):
                    rider.pump(False)
            return
        if not self._alone:
            self._go_alone()
        (rider,) = self._riders
        rider.exchange.write(data, ended)
        if ended:
            self.note(rider)
            self._end()

    def _go_alone(self) -> None:
        """No more is kept: who has most goes on with what comes, the others by themselves."""
        self._close()
        self._part()
        self._recorder = None
        self._storing = False
        self._alone = True
        (rider,) = self._riders
        rider.exchange.write(b"".join(self.pieces[rider.at :]))
        self.pieces = []

    def _part(self) -> None:
        """Let all go on by requests of their own but who has most."""
        if len(self._riders) == 1:
            return
        stays = max(self._riders, key=lambda rider: (rider.at, rider.awake))
        leaving = [rider for rider in self._riders if rider is not stays]
        self._riders = [stays]
        self._awake = int(stays.awake)
        digest, size, at = blake2b(), 0, 0
        assert self._response is not None, "it is its body that is too large"
        for rider in sorted(leaving, key=lambda rider: rider.at):
            for piece in self.pieces[at : rider.at]:
                digest.update(piece)
                size += len(piece)
            at = rider.at
            going_on = Resumed(self._relay, rider.exchange, rider.client, rider.wanted)
            going_on.resume(self._response, size, digest.copy())

    def closed(self) -> None:
        """Upstream ended the body with its connection: whole or not, its last event may tell."""
        if not self._alone:
            self._complete(False)
            return
        (rider,) = self._riders
        rider.exchange.write(b"", True)
        self.note(rider)
        self._end()

    def _complete(self, framed: bool) -> None:
        """The body is here: store it, and write what is left of it to each."""
        self._close()
        kept, self._recorder = self._recorder, None
        assert kept is not None, "else it is alone"
        body = kept.whole()
        if self._storing:
            kept.keep(body, self._wanted, framed)
        for rider in tuple(self._riders):
            rider.pump(True)
            if rider.exchange.over:
                if rider in self._riders:  # else it left meanwhile
                    self.note(rider)
            else:
                at = sum(map(len, self.pieces[: rider.at]))
                self._relay.finish(rider.exchange, rider.client, rider.cache, body, at)
        self._end()

    def broken(self, reason: Failure) -> None:
        """Upstream broke off: so do we, that nobody takes the rest for the whole."""
        problem = problem_for(reason)
        for rider in self._riders:
            rider.exchange.abort()
            self.note(rider, "cut", problem)
        self._end()

    def failed(self, failure: Failure) -> None:
        """There will be no answer of upstream's."""
        self._sending = None
        self._fail(problem_for(failure), failure)

    def _fail(self, problem: Problem, failure: Failure) -> None:
        """The same error for all."""
        if self._over:
            return
        self._close()  # before anybody is answered, and asks the same again behind it
        if problem.code == "internal_error":
            _log.failure("a defect while forwarding", failure)
        if not (problem.status in respond.FAILURES and self._rescue(problem.code)):
            for rider in self._riders:
                self.refuse(rider, problem)
        self._end()

    def _rescue(self, why: str) -> bool:
        """Answer all with a stored answer that has expired, if there is one."""
        relay = self._relay
        riders = [rider for rider in self._riders if not rider.exchange.answering]
        if len(riders) != len(self._riders) or not relay.may_rescue(self._wanted):
            return False
        self._close()
        for rider in riders:
            relay.rescue(rider.exchange, rider.client, rider.wanted, why)
        self._riders = []
        return True

    # The riders' side.

    def refuse(self, rider: Rider, problem: Problem) -> None:
        """Answer with an error of the proxy's own, or break off."""
        if rider.exchange.answering:
            rider.exchange.abort()
            self.note(rider, "cut", problem)
        else:
            respond.problem(rider.exchange, problem, self._wanted.reason)
            self.note(rider, "ok", problem)

    def fell_asleep(self) -> None:
        """One rider takes nothing for now: pause upstream if nobody does."""
        self._awake -= 1
        if not self._awake and self._response is not None:
            self._response.pauseProducing()

    def awoke(self, rider: Rider) -> None:
        """It takes more: first what it missed."""
        self._awake += 1
        if not self._alone:
            rider.pump(False)
        if self._awake == 1 and rider.awake and self._response is not None:
            self._response.resumeProducing()

    def leave(self, rider: Rider) -> None:
        """A rider is gone."""
        if rider not in self._riders:
            return
        self._riders.remove(rider)
        if rider.awake:
            self._awake -= 1
        if not self._riders:
            self._stop()
        elif not self._awake and self._response is not None:
            self._response.pauseProducing()

    def _stop(self) -> None:
        """Nobody wants the answer any more."""
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.withdraw()
        if self._response is not None:
            self._response.abort()
        self._end()

    # The end.

    def _end(self) -> None:
        self._close()
        self._over = True
        self._riders = []
        kept, self._recorder = self._recorder, None
        if kept is not None:
            kept.forget()

    def note(self, rider: Rider, ended: str = "ok", problem: Problem | None = None) -> None:
        """The event of one rider."""
        response = self._response
        self._relay.log.over(
            rider.exchange,
            rider.client,
            rider.cache,
            code="" if problem is None else problem.code,
            detail="" if problem is None else problem.detail,
            ended=ended,
            upstream_seconds=self._upstream_seconds if rider.leads else -1.0,
            upstream_request_id=(
                b"" if response is None else response.fields.get(b"x-request-id", b"")
            ),
        )
