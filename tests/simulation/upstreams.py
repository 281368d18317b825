"""The upstreams: attempts of the proxy, each answered one step at a time."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH

from goproxyai.http11.response import Response, ResponseReceiver
from goproxyai.http11.tunnel_end import TunnelEnd
from goproxyai.messages.header_templates import template_of
from goproxyai.messages.headers import Headers
from goproxyai.upstream.retries import RetryCause
from tests.simulation.endings import BROKEN, CAUSES, WEIGHTS, WHOLE, failure
from tests.simulation.environment import Environment
from tests.simulation.plans import COMPLETIONS, is_unshareable, question

_KEY = re.compile(rb"\r\nAuthorization: (.+)\r\n")


class Attempt:
    """One request that reached an upstream.

    The proxy uses it as the ``Cancellable`` of its request and the ``Source`` of the response.

    :param number: among all attempts of the simulation, from 0.
    :ivar owner: the part of the proxy that wants the answer.
    :ivar ending: ``whole``, ``broken`` or one of :data:`CAUSES`.
    :ivar unshareable: whether only the request itself may get the answer.
    :ivar shared_by_all: whether all credentials may get the answer.
    :ivar epoch: of the environment, when the attempt began.
    :ivar done: whether the attempt has ended or was cancelled.
    """

    def __init__(
        self,
        environment: Environment,
        number: int,
        receiver: ResponseReceiver,
        head: bytes,
        body: bytes,
    ) -> None:
        self._rng = rng = environment.rng
        self._environment = environment
        self._receiver: ResponseReceiver | None = receiver
        self.owner = getattr(receiver, "owner", None)
        self.method, self.target = head.split()[:2]
        key = _KEY.search(head)
        assert key is not None, "a request without its Authorization field"
        self.key = key[1]
        self.question = question(self.method, self.target, body)
        self.plan = environment.plans[self.target]
        self.response: Response | None = None
        self.done = self.held = False
        self._at = 0
        self.status = self.plan.status
        if rng.random() < 0.3 or environment.failing:
            self.status = rng.choice([200, 404, 500, 503, 401, 204])
        self.framing = self.plan.framing
        if rng.random() < 0.1:
            self.framing = rng.choice(["length", "chunked", "close"])
        success = 0.1 if environment.failing else environment.success_probability
        self.ending = rng.choices([WHOLE, BROKEN, *CAUSES], [success, *WEIGHTS])[0]
        if self.ending == BROKEN and self.status == 204:
            self.ending = WHOLE  # a 204 has no body to break
        self._draw_body(number)
        end = len(self.body)
        self._end = rng.randrange(end + 1) if self.ending == BROKEN else end
        self._in_one_read = rng.random() < 0.3

    def begin(self) -> None:
        """Start; the attempt may fail before the proxy knows of it."""
        if self.ending in CAUSES and self._rng.random() < 0.2:
            self._fail()

    def _draw_body(self, number: int) -> None:
        environment, rng = self._environment, self._rng
        shared = environment.shared and self.target != COMPLETIONS
        self.unshareable = is_unshareable(self.method, self.target, self.plan, self.status, shared)
        self.shared_by_all = shared and not self.unshareable
        key = b"" if self.shared_by_all else self.key
        repeats = rng.random() < environment.repeat_probability
        version = 0 if repeats else rng.randrange(1, 4)
        self.epoch = environment.epoch
        unique = number if self.unshareable else -1
        numbers = b"%d %d %d %d" % (self.status, version, self.epoch, unique)
        self.body = self.plan.body((self.question, key, numbers))
        if self.status == 204:
            self.body, self.framing = b"", "chunked"

    @property
    def cause(self) -> RetryCause | None:
        """Why there was no answer, as the upstream client reports it."""
        return CAUSES.get(self.ending)

    # What the proxy calls.

    def cancel(self) -> None:
        self.done, self._receiver = True, None

    def pause_reading(self) -> None:
        self.held = True

    def resume_reading(self) -> None:
        self.held = False

    def abort(self) -> None:
        self.done = True

    # Steps.

    @property
    def ready(self) -> bool:
        return not self.done and not self.held

    def step(self) -> None:
        """Fail, answer, send more of the body, or end it."""
        response = self.response
        if response is None:
            if self._rng.random() < 0.1:
                self._waiting().interim_received(103, b"Early Hints", [(b"Link", b"x")])
            elif self.ending in CAUSES:
                self._fail()
            else:
                self._answer()
        elif self._at < self._end:
            response.receive(*self._read([1, 10, 300, 1000, 3000]))
        else:
            self._finish(response)

    def start_tunnel(self, early: bytes) -> TunnelEnd:
        raise NotImplementedError("no simulated upstream switches protocols")

    def _waiting(self) -> ResponseReceiver:
        assert self._receiver is not None, "the receiver has its result or has cancelled"
        return self._receiver

    def _fail(self) -> None:
        receiver, self._receiver, self.done = self._waiting(), None, True
        receiver.failed(failure(self.ending), self.cause)

    def _answer(self) -> None:
        pairs, length = self._head()
        names, values = zip(*pairs, strict=True)
        template = template_of(tuple(names))
        fields = template.fields(values)
        response = Response(self, self.status, b"Phrase", template, values, fields, length)
        self.response = response
        data, complete = self._read([0, 0, 1, 100])
        receiver, self._receiver = self._waiting(), None
        if data or complete:
            response.receive(data, complete)
        receiver.answered(response)
        if not complete and response.unclaimed:
            self.pause_reading()

    def _head(self) -> tuple[Headers, Any]:
        kind = b"text/event-stream" if self.plan.stream else b"application/json; charset=utf-8"
        pairs: Headers = [
            (b"Content-Type", kind),
            (b"Set-Cookie", b"by=" + self.key),
            (b"OpenAI-Organization", self.key),
            (b"Connection", b"X-Hop"),
            (b"X-Hop", b"1"),
            *self.plan.extra,
        ]
        if self.status == 503:
            pairs.append((b"Retry-After", self._rng.choice([b"0", b"1", b"100"])))
        if self.status == 204:
            return pairs, 0
        if self.framing == "length":
            pairs.append((b"Content-Length", b"%d" % len(self.body)))
            return pairs, len(self.body)
        if self.framing == "chunked":
            pairs.append((b"Transfer-Encoding", b"chunked"))
        return pairs, UNKNOWN_LENGTH

    def _read(self, sizes: list[int]) -> tuple[bytes, bool]:
        """The data of one read, and whether the client knows that it is the last."""
        end = self._end if self._in_one_read else self._at + self._rng.choice(sizes)
        data = self.body[self._at : min(self._end, end)]
        self._at += len(data)
        last = self.ending == WHOLE and self.framing != "close" and self._at == self._end
        complete = self.status == 204 or (last and self._rng.random() < 0.7)
        if complete:
            self.done = True
        return data, complete

    def _finish(self, response: Response) -> None:
        self.done = True
        if self.ending == BROKEN:
            reason = Failure(ConnectionLost())
            response.end(lambda sink: sink.broken(reason))
        elif self.framing == "close":
            response.end(lambda sink: sink.closed())
        else:
            response.receive(b"", True)
