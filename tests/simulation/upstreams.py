"""The upstreams' end: requests that came there, and what becomes of each, a step at a time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH

from goproxyai.http11.response import Response, ResponseReceiver
from goproxyai.messages.header_templates import template_of
from goproxyai.messages.headers import Headers
from goproxyai.upstream.retries import Cause
from tests.simulation.endings import BROKEN, CAUSES, WEIGHTS, WHOLE, failure
from tests.simulation.plans import COMPLETIONS, is_own, subject

if TYPE_CHECKING:
    from tests.simulation.world import World

_KEY = re.compile(rb"\r\nAuthorization: (.+)\r\n")


class Asked:
    """One request that came upstream: what can be withdrawn, and the source of its answer.

    :ivar ending: how it ends: ``whole``, ``broken`` or one of :data:`CAUSES`.
    :ivar own: whether no other request may have the answer; :ivar everybodys: whether all may.
    :ivar epoch: how often the cache had been emptied.
    :ivar done: nothing more will come of it, or is wanted.
    """

    def __init__(self, world: World, receiver: ResponseReceiver, head: bytes, body: bytes) -> None:
        self._chance = chance = world.chance
        self._world = world
        self._receiver: ResponseReceiver | None = receiver
        self.method, self.target = head.split()[:2]
        key = _KEY.search(head)
        assert key is not None, "who asks says who it is"
        self.key = key[1]
        self.subject = subject(self.method, self.target, body)
        self.plan = world.plans[self.target]
        self.response: Response | None = None
        self.done = self.held = False
        self._at = 0
        self.status = self.plan.status
        if chance.random() < 0.3 or world.failing:
            self.status = chance.choice([200, 404, 500, 503, 401, 204])
        self.framing = self.plan.framing
        if chance.random() < 0.1:
            self.framing = chance.choice(["length", "chunked", "close"])
        ok = 0.1 if world.failing else world.ok
        self.ending = chance.choices([WHOLE, BROKEN, *CAUSES], [ok, *WEIGHTS])[0]
        if self.ending == BROKEN and self.status == 204:
            self.ending = WHOLE  # there is nothing to break
        self._draw_body()
        end = len(self.body)
        self._end = chance.randrange(end + 1) if self.ending == BROKEN else end
        self._at_once = chance.random() < 0.3
        world.comes_upstream(self)
        world.tries.setdefault(receiver, []).append(self)
        if self.ending in CAUSES and chance.random() < 0.2:
            self._fail()  # before anybody knows that it was asked

    def _draw_body(self) -> None:
        world, chance = self._world, self._chance
        shared = world.shared and self.target != COMPLETIONS
        self.own = is_own(self.method, self.target, self.plan, self.status, shared)
        self.everybodys = shared and not self.own
        whose = b"" if self.everybodys else self.key
        version = 0 if chance.random() < world.same else chance.randrange(1, 4)
        number = len(world.asked) if self.own else -1
        self.epoch = world.epoch
        numbers = b"%d %d %d %d" % (self.status, version, self.epoch, number)
        parts = (self.subject, whose, numbers)
        self.body = self.plan.body(parts)
        if self.status == 204:
            self.body, self.framing = b"", "chunked"

    @property
    def cause(self) -> Cause | None:
        """Why there was no answer, as the daemon's client would tell."""
        return CAUSES.get(self.ending)

    # Withdrawable, and the response's Source.

    def cancel(self) -> None:
        self.done, self._receiver = True, None

    def pause_reading(self) -> None:
        self.held = True

    def resume_reading(self) -> None:
        self.held = False

    def abort(self) -> None:
        self.done = True

    # A step at a time.

    @property
    def ready(self) -> bool:
        """Whether there may be a step."""
        return not self.done and not self.held

    def step(self) -> None:
        """Something comes of it."""
        response = self.response
        if response is None:
            if self._chance.random() < 0.1:
                self._waiting().interim_received(103, b"Early Hints", [(b"Link", b"x")])
            elif self.ending in CAUSES:
                self._fail()
            else:
                self._answer()
        elif self._at < self._end:
            response.receive(*self._read([1, 10, 300, 1000, 3000]))
        else:
            self._finish(response)

    def _waiting(self) -> ResponseReceiver:
        assert self._receiver is not None, "it was told already, or has withdrawn"
        return self._receiver

    def _fail(self) -> None:
        receiver, self._receiver, self.done = self._waiting(), None, True
        receiver.failed(failure(self.ending), self.cause)

    def _answer(self) -> None:
        pairs, length = self._head()
        names, values = zip(*pairs, strict=True)
        shape = template_of(tuple(names))
        fields = shape.fields(values)
        response = Response(self, self.status, b"Phrase", shape, values, fields, length)
        self.response = response
        data, complete = self._read([0, 0, 1, 100])
        receiver, self._receiver = self._waiting(), None
        if data or complete:
            response.receive(data, complete)
        receiver.answered(response)
        if not complete and response.unclaimed:
            self.pause_reading()

    def _head(self) -> tuple[Headers, Any]:
        kind = b"text/event-stream" if self.plan.stream else b"text/plain"
        pairs: Headers = [
            (b"Content-Type", kind),
            (b"Set-Cookie", b"by=" + self.key),
            (b"OpenAI-Organization", self.key),
            (b"Connection", b"X-Hop"),
            (b"X-Hop", b"1"),
            *self.plan.extra,
        ]
        if self.status == 503:
            pairs.append((b"Retry-After", self._chance.choice([b"0", b"1", b"100"])))
        if self.status == 204:
            return pairs, 0
        if self.framing == "length":
            pairs.append((b"Content-Length", b"%d" % len(self.body)))
            return pairs, len(self.body)
        if self.framing == "chunked":
            pairs.append((b"Transfer-Encoding", b"chunked"))
        return pairs, UNKNOWN_LENGTH

    def _read(self, sizes: list[int]) -> tuple[bytes, bool]:
        """What one read brings, and whether it is known to be the last."""
        end = self._end if self._at_once else self._at + self._chance.choice(sizes)
        data = self.body[self._at : min(self._end, end)]
        self._at += len(data)
        last = self.ending == WHOLE and self.framing != "close" and self._at == self._end
        complete = self.status == 204 or (last and self._chance.random() < 0.7)
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
