"""The script of an answer: bytes to write, and steps between them.

An answer is either exact bytes or a sequence of bytes and steps, played in order. A step is an
object with ``async def perform(stage)``. Losing the connection cancels what is being played.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from tests.support.requests import Request


class RawClient(Protocol):
    """What a double asks of its transport."""

    def write(self, data: bytes) -> None: ...

    def loseConnection(self) -> None: ...

    def abortConnection(self) -> None: ...

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...

    def unregisterProducer(self) -> None: ...


@attrs.define(eq=False)
class Stage:
    """Where an answer is played.

    :ivar changed: to be called after a change of *request*.
    """

    wire: RawClient
    clock: IReactorTime
    request: Request
    changed: Callable[[], None]


class Step(Protocol):
    async def perform(self, stage: Stage) -> None:
        """Do it; the next step follows when this is done."""


Answer = bytes | Sequence[bytes | Step]
Responder = Answer | Callable[[Request], Answer]


async def play(answer: Answer, stage: Stage) -> None:
    """Write *answer* to the stage's wire."""
    for step in [answer] if isinstance(answer, bytes) else answer:
        if isinstance(step, bytes):
            stage.wire.write(step)
        else:
            await step.perform(stage)


class AnswerBeforeBody:
    """As the first step: the answer starts when the request's head is in, not its body."""

    async def perform(self, stage: Stage) -> None:
        pass


class Close:
    """Close the connection in an orderly way, once all is written."""

    async def perform(self, stage: Stage) -> None:
        stage.wire.loseConnection()


class Reset:
    """Break the connection with an RST, after what was written had two turns to leave."""

    async def perform(self, stage: Stage) -> None:
        await deferLater(stage.clock, 0)
        await deferLater(stage.clock, 0)
        stage.wire.abortConnection()


@attrs.frozen
class Wait:
    """Say nothing for some seconds."""

    seconds: float

    async def perform(self, stage: Stage) -> None:
        await deferLater(stage.clock, self.seconds)


class Pause:
    """Say nothing until :meth:`release`, for ever if nobody calls it.

    ``server.wait_for(lambda request: request.paused)`` tells when an answer got here.
    """

    def __init__(self) -> None:
        self._held: list[Deferred[None]] = []
        self._open = False

    def release(self) -> None:
        """Let everyone through who waits here, and who comes later."""
        self._open = True
        held, self._held = self._held, []
        for gate in held:
            gate.callback(None)

    async def perform(self, stage: Stage) -> None:
        if self._open:
            return
        gate: Deferred[None] = Deferred(self._held.remove)
        self._held.append(gate)
        stage.request.paused = True
        stage.changed()
        try:
            await gate
        finally:
            stage.request.paused = False


@attrs.frozen
class Dribble:
    """Write *data* in pieces of *size* bytes, *interval* seconds apart."""

    data: bytes
    interval: float
    size: int = 1

    async def perform(self, stage: Stage) -> None:
        for start in range(0, len(self.data), self.size):
            if start:
                await deferLater(stage.clock, self.interval)
            stage.wire.write(self.data[start : start + self.size])


@attrs.frozen
class Stream:
    """Write *chunk* again and again, as fast as the other side takes it, and no faster.

    :ivar written: told how many chunks are out, after each; for tests of backpressure.
    """

    chunk: bytes
    times: int
    written: Callable[[int], None] = lambda count: None

    async def perform(self, stage: Stage) -> None:
        producer = _Repeat(self, stage.wire)
        stage.wire.registerProducer(producer, True)
        try:
            producer.resumeProducing()
            await producer.done
        finally:
            stage.wire.unregisterProducer()


@implementer(IPushProducer)
class _Repeat:
    def __init__(self, stream: Stream, wire: RawClient) -> None:
        self.done: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._stream = stream
        self._wire = wire
        self._sent = 0
        self._paused = True
        self._stopped = False

    def resumeProducing(self) -> None:
        if not self._paused:
            return
        self._paused = False
        while not self._paused and not self._stopped and self._sent < self._stream.times:
            self._sent += 1
            self._wire.write(self._stream.chunk)
            self._stream.written(self._sent)
        if self._sent == self._stream.times and not self.done.called:
            self.done.callback(None)

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._stopped = True
