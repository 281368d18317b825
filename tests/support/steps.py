"""Scripted answers: bytes to write, and steps between them.

An answer is either exact bytes or a sequence of bytes and steps, run in order. A step is an object
with ``async def perform(context)``. The loss of the connection cancels the running answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from tests.support.requests import Request


class StreamTransport(Protocol):
    """What fake servers use of a transport: every TCP and TLS transport of Twisted's has it."""

    def write(self, data: bytes) -> None: ...

    def loseConnection(self) -> None: ...

    def abortConnection(self) -> None: ...

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...

    def unregisterProducer(self) -> None: ...

    def getHost(self) -> Any: ...


@attrs.define(eq=False)
class ScriptContext:
    """What a step may use.

    :ivar changed: must be called after a change of *request*.
    """

    transport: StreamTransport
    clock: IReactorTime
    request: Request
    changed: Callable[[], None]


class Step(Protocol):
    async def perform(self, context: ScriptContext) -> None:
        """Run the step; the next one starts when this returns."""


Answer = bytes | Sequence[bytes | Step]
Responder = Answer | Callable[[Request], Answer]


async def run(answer: Answer, context: ScriptContext) -> None:
    """Write the bytes of *answer* and run its steps."""
    for step in [answer] if isinstance(answer, bytes) else answer:
        if isinstance(step, bytes):
            context.transport.write(step)
        else:
            await step.perform(context)


class AnswerBeforeBody:
    """As the first step: start the answer when the request's head is complete."""

    async def perform(self, context: ScriptContext) -> None:
        pass


class Close:
    """Close the connection after all writes."""

    async def perform(self, context: ScriptContext) -> None:
        context.transport.loseConnection()


class Reset:
    """Reset the connection (RST), two reactor iterations after the last write."""

    async def perform(self, context: ScriptContext) -> None:
        await deferLater(context.clock, 0)
        await deferLater(context.clock, 0)
        context.transport.abortConnection()


@attrs.frozen
class Wait:
    """Write nothing for some seconds."""

    seconds: float

    async def perform(self, context: ScriptContext) -> None:
        await deferLater(context.clock, self.seconds)


class Pause:
    """Write nothing until :meth:`release`.

    ``server.wait_for(lambda request: request.paused)`` waits for an answer to reach this step.
    """

    def __init__(self) -> None:
        self._waiting: list[Deferred[None]] = []
        self._open = False

    def release(self) -> None:
        """Continue all paused answers; later ones do not pause."""
        self._open = True
        waiting, self._waiting = self._waiting, []
        for gate in waiting:
            gate.callback(None)

    async def perform(self, context: ScriptContext) -> None:
        if self._open:
            return
        gate: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(gate)
        context.request.paused = True
        context.changed()
        try:
            await gate
        finally:
            context.request.paused = False


@attrs.frozen
class Dribble:
    """Write *data* in pieces of *size* bytes, *interval* seconds apart."""

    data: bytes
    interval: float
    size: int = 1

    async def perform(self, context: ScriptContext) -> None:
        for start in range(0, len(self.data), self.size):
            if start:
                await deferLater(context.clock, self.interval)
            context.transport.write(self.data[start : start + self.size])


@attrs.frozen
class Stream:
    """Write *chunk* many *times*, respecting the transport's backpressure.

    :ivar written: called with the number of chunks written so far, after each.
    """

    chunk: bytes
    times: int
    written: Callable[[int], None] = lambda count: None

    async def perform(self, context: ScriptContext) -> None:
        producer = _Repeat(self, context.transport)
        context.transport.registerProducer(producer, True)
        try:
            producer.resumeProducing()
            await producer.done
        finally:
            context.transport.unregisterProducer()


@implementer(IPushProducer)
class _Repeat:
    def __init__(self, stream: Stream, transport: StreamTransport) -> None:
        self.done: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._stream = stream
        self._transport = transport
        self._sent = 0
        self._paused = True
        self._stopped = False

    def resumeProducing(self) -> None:
        if not self._paused:
            return
        self._paused = False
        while not self._paused and not self._stopped and self._sent < self._stream.times:
            self._sent += 1
            self._transport.write(self._stream.chunk)
            self._stream.written(self._sent)
        if self._sent == self._stream.times and not self.done.called:
            self.done.callback(None)

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._stopped = True
