"""The clients: connections with pipelined requests, which may read slowly or leave."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IPushProducer

from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_body import whole_body
from goproxyai.http11.request_head import RequestHead
from goproxyai.http11.tunnel_end import TunnelEnd
from tests.simulation.environment import Environment
from tests.simulation.plans import ClientRequest


@attrs.frozen
class Outcome:
    """What a client received for one request.

    :ivar epoch: of the environment, when the request was sent.
    :ivar ended: whether the answer ended, as opposed to the connection.
    :ivar raw: all received bytes.
    """

    request: ClientRequest
    epoch: int
    ended: bool
    raw: bytes


class SimulatedClient:
    """One client connection, which its exchanges use as their ``Wire``.

    :param requests: what to send, in order; ``None`` clears the cache in between.
    :param handle: handles an exchange.
    :ivar active: the exchange that is being answered.
    :ivar paused: whether the client does not read at the moment.
    """

    peer = "192.0.2.1"
    subject = ""

    def __init__(
        self,
        environment: Environment,
        requests: list[ClientRequest | None],
        handle: Callable[[Exchange], None],
    ) -> None:
        self._environment = environment
        self._requests = requests
        self._handle = handle
        self._slow = environment.rng.random() < environment.slow_probability
        self._advancing = False
        self._request: ClientRequest
        self._epoch = 0
        self._raw = b""
        self._producer: IPushProducer | None = None
        self.active: Exchange | None = None
        self.paused = self.gone = self.aborted = self.closed = False
        self.outcomes: list[Outcome] = []

    def advance(self) -> None:
        """Send the next request unless an answer is outstanding."""
        if self._advancing:
            return
        self._advancing = True
        while self.may_send:
            request = self._requests.pop(0)
            if request is None:
                self._environment.clear_cache()
            else:
                self._send(request)
        self._advancing = False

    @property
    def may_send(self) -> bool:
        over = self.gone or self.paused or self.closed or self.aborted
        return self.active is None and bool(self._requests) and not over

    def _send(self, request: ClientRequest) -> None:
        lines = [(b"Host", b"h"), (b"Authorization", request.key), *request.more]
        if request.body:
            lines.append((b"Content-Length", b"%d" % len(request.body)))
        keep = request.version == "1.1" and request.keep
        head = RequestHead(request.method, request.target, request.version, lines, keep)
        now, values = self._environment.clock.seconds(), head.values(head.headers)
        exchange = Exchange(self, now, head, values, whole_body(request.body))
        self._request, self._epoch, self.active = request, self._environment.epoch, exchange
        self._handle(exchange)

    def accepts(self, target: bytes) -> bool:
        """Whether the client waits for an answer to *target*, and reads."""
        active = self.active
        return active is not None and active.target == target and not (active.over or self.paused)

    # ExchangeConnection and ExchangeOutput.

    @property
    def can_start_tunnel(self) -> bool:
        return False

    def start_tunnel(self) -> TunnelEnd:
        raise NotImplementedError("no simulated upstream switches protocols")

    @property
    def output(self) -> SimulatedClient:
        return self

    def send(self, data: bytes) -> None:
        if self.gone:
            return
        self._raw += data
        environment = self._environment
        may_pause = self._slow and not self.paused and not environment.draining
        if may_pause and environment.rng.random() < 0.5:
            self.paused = True
            if self._producer is not None:
                self._producer.pauseProducing()

    def set_producer(self, producer: IPushProducer | None) -> None:
        self._producer = producer
        if producer is not None and self.paused:
            producer.pauseProducing()

    def memory_changed(self) -> None:
        pass

    def exchange_done(self, exchange: Exchange, keep_alive: bool) -> None:
        if exchange is not self.active:
            return
        self.active = self._producer = None
        self._record(True)
        if keep_alive:
            self.advance()
        else:
            self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def _record(self, ended: bool) -> None:
        self.outcomes.append(Outcome(self._request, self._epoch, ended, self._raw))
        self._raw = b""

    # Steps.

    @property
    def live(self) -> bool:
        """Whether the client can do anything further."""
        more = bool(self._requests) and not self.closed
        return not self.gone and (self.active is not None or more)

    @property
    def ready(self) -> bool:
        """Whether :meth:`step` does anything now."""
        return self.may_send or (not self.gone and (self.aborted or self.paused))

    def step(self) -> None:
        """Notice that the connection was aborted, resume reading, or send the next request."""
        if self.aborted and not self.gone:
            self.leave()
        elif self.paused and not self.gone:
            self.paused = False
            if self._producer is not None:
                self._producer.resumeProducing()
            elif self.active is None:
                self.advance()
        else:
            self.advance()

    def leave(self) -> None:
        """Lose the connection."""
        self.gone = True
        active, self.active, self._producer = self.active, None, None
        if active is not None:
            self._record(False)
            active.connection_lost()
