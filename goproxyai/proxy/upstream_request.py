"""Asking upstream, and asking again where that can do no harm.

:mod:`goproxyai.upstream.retries` says when it cannot, :mod:`.upstreams` whom to ask. What upstream
does is told to its breaker here: an answer, or a failure to get one, and nothing that clients do.
"""

from __future__ import annotations

from math import inf
from random import random
from typing import TYPE_CHECKING

from service_identity import VerificationError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from goproxyai.egress.agent import Cancellable
from goproxyai.http11.errors import UpstreamTimeout
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_body import RequestBody
from goproxyai.http11.response import Response
from goproxyai.messages.connect import ConnectRefused
from goproxyai.messages.headers import Headers
from goproxyai.proxy import replay as respond
from goproxyai.proxy.request_plan import RequestPlan
from goproxyai.proxy.upstreams import Upstream
from goproxyai.upstream.retries import MOST_TRIES, Cause, may_repeat, retry_after, wait_before

if TYPE_CHECKING:
    from goproxyai.proxy.handler import ProxyHandler

_HOPELESS = (UpstreamTimeout, ConnectTimeout, DeferredTimeout, VerificationError)
"""Failures to connect that the same upstream would repeat, or that have lasted long enough."""


class _RetryTimer:
    """A request that is to be sent in a moment."""

    def __init__(self, call: IDelayedCall) -> None:
        self._call = call

    def cancel(self) -> None:
        """Nobody wants its answer any more."""
        self._call.cancel()


class _Sending:
    """A request that is just being sent."""

    def cancel(self) -> None:
        """Whoever sends it has not come back: there is nothing to take back yet."""


_SENDING = _Sending()


class RetryState:
    """What is known of earlier tries; a request that goes well has none.

    :ivar not_before: of each upstream that failed it, when it may be asked again.
    :ivar deadline: ends the client's patience.
    """

    __slots__ = ("deadline", "not_before")

    def __init__(self) -> None:
        self.not_before: dict[Upstream, float] = {}
        self.deadline: IDelayedCall | None = None


class UpstreamRequest:
    """One request to upstream, sent once or a few times.

    Whoever derives from it is the Receiver of the answer, and says what becomes of it; and what
    becomes of everything where there will be none, in :meth:`_lost`.
    """

    __slots__ = (
        "_again", "_asked", "_notes", "_probe", "_relay", "_sending", "_sent_at", "_tries",
        "_unsent", "_upstream",
    )  # fmt: skip

    def __init__(self, relay: ProxyHandler, asked: Exchange, notes: RequestPlan) -> None:
        self._relay = relay
        self._asked = asked
        self._notes = notes
        self._sending: Cancellable | None = None
        self._sent_at: float
        self._tries = 0
        self._probe = False
        self._unsent = False  # nothing of it has gone out, as the last failure says
        self._again: RetryState | None = None
        self._upstream: Upstream

    if TYPE_CHECKING:  # what is asked of whoever derives from it

        def answered(self, response: Response) -> None:
            """As a Receiver has it."""

        def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
            """As a Receiver has it."""

        def _lost(self, reason: Failure) -> None:
            """There will be no answer, however often it is asked for."""

        def _rescue(self, why: str) -> bool:
            """Answer with a stored answer that has expired, if there is one."""

    def _ask(self, upstream: Upstream | None = None) -> None:
        """Send the request.

        :param upstream: where it is not the first time.
        :raises Problem: ``circuit_open``.
        """
        relay, asked = self._relay, self._asked
        self._sent_at = now = relay.seconds()
        if upstream is None:
            upstream = relay.upstreams.first
            if not upstream.breaker.closed:
                upstream = relay.upstreams.choose(now)
                self._probe = not upstream.breaker.closed
        else:
            self._probe = not upstream.breaker.closed
        relay.counters.forwarded += 1
        self._upstream = upstream
        self._tries += 1
        self._sending = _SENDING
        data = self._data()
        head = self._notes.forwarded(asked.values, upstream)
        if asked.trace is not None:
            head += asked.trace.forwarded(now, upstream.url, data)
        sending = relay.client.relay(
            upstream.route,
            asked.head.method,
            head,
            data,
            asked.head.length_index >= 0,
            self,
        )
        if self._sending is _SENDING:  # else it failed at once, and what is over holds nothing
            self._sending = sending

    def _data(self) -> bytes | RequestBody | None:
        """The body as it goes upstream: whole where it is here, and none where there is none."""
        body = self._asked.body
        if body.complete:
            return body.whole() or (b"" if self._asked.head.chunked else None)
        assert isinstance(body, RequestBody), "a WholeBody is complete"
        return body

    def _take_back(self) -> None:
        """Nobody wants the answer any more."""
        self._stop_clock()
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.cancel()
            if self._probe:
                self._upstream.breaker.cancelled()

    # What upstream does.

    def _heard(self, response: Response) -> None:
        """An answer came: whoever gets it says so first."""
        self._sending = None
        if self._again is not None:
            self._stop_clock()
        breaker = self._upstream.breaker
        if response.code == 407:  # a proxy's: the way is closed
            breaker.failed(self._relay.seconds(), self._probe)
        elif breaker.closed:
            breaker.successes += 1
        else:
            breaker.succeeded()

    def failed(self, reason: Failure, cause: Cause | None = None) -> None:
        """As a Receiver has it: no answer came; perhaps one comes if it is asked for again."""
        self._sending = None
        self._unsent = cause is Cause.CONNECT and (self._tries == 1 or self._unsent)
        now = self._relay.seconds()
        breaker = self._upstream.breaker
        if reason.check(UpstreamTimeout) and cause is None and breaker.answered_at >= self._sent_at:
            if self._probe:
                breaker.cancelled()  # it is there: others were answered meanwhile
        else:
            breaker.failed(now, self._probe)
        if cause is None or not self._repeat(cause, reason, now, None):
            self._stop_clock()
            self._lost(reason)

    def _is_refused(self, response: Response) -> bool:
        """Whether an answer that tells of an error is nobody's to get.

        :raises TunnelRefused: where it is a proxy's.
        """
        if response.code == 407:  # who asks for a proxy's credentials asks us, not our clients
            raise ConnectRefused(response.code, response.phrase)
        if self._turned_away(response):
            return True
        if response.code in respond.FAILURES:
            if self._rescue(f"upstream answered {response.code}"):
                response.abort()
                return True
        return False

    def _turned_away(self, response: Response) -> bool:
        """An answer came that may be worth another try; says whether it is asked for again."""
        if response.code not in self._relay.terms.retry_status:
            return False
        after = retry_after(response.fields.get(b"retry-after"))
        if not self._repeat(Cause.STATUS, None, self._relay.seconds(), after):
            return False
        response.abort()
        return True

    def _repeat(
        self, cause: Cause, reason: Failure | None, now: float, after: float | None
    ) -> bool:
        """Ask again in a moment, or somebody else at once; says whether that may be done.

        :param after: seconds that upstream wants to be left alone.
        """
        relay, asked = self._relay, self._asked
        body = asked.body
        replayable = not (isinstance(body, RequestBody) and body.streamed)
        if self._tries >= MOST_TRIES or not may_repeat(cause, asked.method, replayable):
            return False
        again = self._again = self._again or RetryState()
        hopeless = reason is not None and cause is Cause.CONNECT and _is_hopeless(reason)
        again.not_before[self._upstream] = inf if hopeless else now + (after or 0.0)
        upstream = relay.upstreams.instead(again.not_before)
        if upstream is None:
            return False
        wait = 0.0
        if upstream in again.not_before:
            rest = max(0.0, again.not_before[upstream] - now)
            wait = wait_before(self._tries, random(), rest)  # noqa: S311  # nobody gains by guessing
        left = asked.began + relay.terms.patience - now
        if wait > left or not relay.budget.spend(relay.counters.forwarded):
            return False
        relay.counters.retries[cause.value] += 1
        if again.deadline is None:
            again.deadline = relay.clock.callLater(left, self._lose_patience)
        self._sending = _RetryTimer(relay.clock.callLater(wait, self._resend, upstream))
        return True

    def _resend(self, upstream: Upstream) -> None:
        self._sending = None
        now = self._relay.seconds()
        try:
            if not upstream.breaker.admits(now):  # it opened meanwhile
                upstream = self._relay.upstreams.choose(now)
            self._ask(upstream)
        except Exception:  # circuit_open, or a defect of ours: never leave anybody waiting
            self._stop_clock()
            self._lost(Failure())

    def _lose_patience(self) -> None:
        """The client has waited for as long as it would for one try."""
        self._take_back()
        self._lost(Failure(UpstreamTimeout("the response head")))

    def _stop_clock(self) -> None:
        """There is an answer, or there will be none."""
        again = self._again
        if again is not None and again.deadline is not None:
            if again.deadline.active():
                again.deadline.cancel()
            again.deadline = None


def _is_hopeless(reason: Failure) -> bool:
    error = reason.value
    if isinstance(error, ConnectRefused):
        return error.status < 500
    return reason.check(*_HOPELESS) is not None
