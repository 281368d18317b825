"""The clients' end: connections with pipelined requests, whose readers may be slow or leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from twisted.internet.interfaces import IPushProducer

from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_body import WholeBody
from goproxyai.http11.request_head import RequestHead
from tests.simulation.plans import Ask

if TYPE_CHECKING:
    from tests.simulation.world import World


@attrs.frozen
class Got:
    """What a client got for one request.

    :ivar epoch: how often the cache had been emptied as it was asked for.
    :ivar done: whether the answer ended, rather than the connection.
    :ivar raw: all that came.
    """

    ask: Ask
    epoch: int
    done: bool
    raw: bytes


class Client:
    """One connection: the wire of its exchanges.

    :ivar peer: its address.
    :param asks: what it asks, in order; ``None`` empties the cache in between.
    :ivar active: the exchange that is being answered.
    :ivar choked: whether it reads nothing for now.
    """

    peer = "peer"

    def __init__(self, world: World, asks: list[Ask | None]) -> None:
        self._world = world
        self._asks = asks
        self._slow = world.chance.random() < world.slow
        self._advancing = False
        self._asked: Ask
        self._epoch = 0
        self._raw = b""
        self._producer: IPushProducer | None = None
        self.active: Exchange | None = None
        self.choked = self.gone = self.aborted = self.closed = False
        self.got: list[Got] = []

    def advance(self) -> None:
        """Ask what is next, if nothing is being answered."""
        if self._advancing:
            return
        self._advancing = True
        while self.may_ask:
            ask = self._asks.pop(0)
            if ask is None:
                self._world.clear()
            else:
                self._ask(ask)
        self._advancing = False

    @property
    def may_ask(self) -> bool:
        """Whether there is something to ask, and nothing in the way."""
        over = self.gone or self.choked or self.closed or self.aborted
        return self.active is None and bool(self._asks) and not over

    def _ask(self, ask: Ask) -> None:
        lines = [(b"Host", b"h"), (b"Authorization", ask.key), *ask.more]
        if ask.body:
            lines.append((b"Content-Length", b"%d" % len(ask.body)))
        keep = ask.version == "1.1" and ask.keep
        head = RequestHead(ask.method, ask.target, ask.version, lines, keep)
        now, values = self._world.clock.seconds(), head.values(head.headers)
        exchange = Exchange(self, now, head, values, WholeBody(ask.body))
        self._asked, self._epoch, self.active = ask, self._world.epoch, exchange
        self._world.exchanges += 1
        self._world.relay.handle(exchange)

    def takes(self, target: bytes) -> bool:
        """Whether it waits for an answer of *target*, and reads."""
        active = self.active
        return active is not None and active.target == target and not (active.over or self.choked)

    @property
    def output(self) -> Client:
        return self

    # The exchange's connection, and its output.

    def send(self, data: bytes) -> None:
        if self.gone:
            return
        self._raw += data
        world = self._world
        if self._slow and not self.choked and not world.ending and world.chance.random() < 0.5:
            self.choked = True
            if self._producer is not None:
                self._producer.pauseProducing()

    def exchange_done(self, exchange: Exchange, keep: bool) -> None:
        if exchange is not self.active:
            return
        self.active = self._producer = None
        self._note(True)
        if keep:
            self.advance()
        else:
            self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def set_producer(self, producer: IPushProducer | None) -> None:
        self._producer = producer
        if producer is not None and self.choked:
            producer.pauseProducing()

    def _note(self, done: bool) -> None:
        self.got.append(Got(self._asked, self._epoch, done, self._raw))
        self._raw = b""

    # A step at a time.

    @property
    def there(self) -> bool:
        """Whether something may come of it still."""
        return not self.gone and (self.active is not None or (bool(self._asks) and not self.closed))

    @property
    def ready(self) -> bool:
        """Whether there is something for it to do."""
        return self.may_ask or (not self.gone and (self.aborted or self.choked))

    def act(self) -> None:
        """It sees that the connection is broken off, or reads again, or asks on."""
        if self.aborted and not self.gone:
            self.leave()
        elif self.choked and not self.gone:
            self.choked = False
            if self._producer is not None:
                self._producer.resumeProducing()
            elif self.active is None:
                self.advance()
        else:
            self.advance()

    def leave(self) -> None:
        """Its connection is lost."""
        self.gone = True
        active, self.active, self._producer = self.active, None, None
        if active is not None:
            self._note(False)
            active.connection_lost()
