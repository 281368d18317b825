"""An answer that began with a flight and goes on with a request of its own.

What the client has got already is asked for again and left away, if it is the same to the byte: it
is compared by digest, so that nothing of it needs to be kept. Where it is not the same, as an
answer may well not be, the client's connection breaks off: never two halves of different answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

from goproxyai.errors import ProxyError
from goproxyai.http11.response import Response
from goproxyai.proxy.forward import Forward
from goproxyai.usage.usage import Usage

if TYPE_CHECKING:
    from goproxyai.proxy.handler import ProxyHandler
    from goproxyai.proxy.subscriber import Subscriber

_SAME: Final = (b"content-length", b"content-type", b"content-encoding")

_log = Logger(namespace="goproxyai.resume")


class ResumedForward(Forward):
    """The second request."""

    __slots__ = ("_digest", "_first", "_got", "_missing")

    def __init__(self, relay: ProxyHandler, rider: Subscriber) -> None:
        super().__init__(relay, rider.exchange, rider.client, rider.wanted.notes, None, rider.cache)
        self._first_seconds = rider.first_seconds
        self._first: Response
        self._missing = 0
        self._digest: Any
        self._got: Any

    def resume(self, first: Response, size: int, digest: Any) -> None:
        """Send the request.

        :param first: the answer whose beginning the client has.
        :param size: bytes of its body that the client has, of which *digest* is.
        """
        self._first = first
        self._missing = size
        self._digest = digest
        self._got = type(digest)()
        self._exchange.unregister_producer()
        self.start()

    def _begin(self, response: Response) -> None:
        """Go on only with an answer that looks the same."""
        self._upstream_seconds = self._relay.seconds() - self._sent_at
        fields, first = response.fields, self._first
        if response.code != first.code or any(
            fields.get(name) != first.fields.get(name) for name in _SAME
        ):
            self._differs()
            return
        self._watch(response)
        self._exchange.register_producer(response)
        response.deliver(self)

    def received(self, data: bytes, ended: bool) -> None:
        """Leave away what the client has."""
        if self._missing:
            again, data = data[: self._missing], data[self._missing :]
            self._got.update(again)
            if self._meter is not None:
                self._meter.add(again)
            self._missing -= len(again)
            if self._missing:
                if ended:
                    self._differs()
                return
            if self._got.digest() != self._digest.digest():
                self._differs()
                return
        if data or ended:
            super().received(data, ended)

    def closed(self) -> None:
        """Upstream ended the body with its connection."""
        if self._missing:
            self._differs()
        else:
            super().closed()

    def _complete(self, data: bytes) -> None:
        self._usage = None  # it is counted; what shares an answer by name has spared none of it
        super()._complete(data)

    def _note(
        self, ended: str, problem: ProxyError | None, bill: bytes | Usage | None = None
    ) -> None:
        self._upstream_seconds = -1.0  # the first byte was another's
        super()._note(ended, problem, bill)

    def _differs(self) -> None:
        response = self._response
        if response is not None:
            response.abort()
        self._refuse(
            ProxyError(
                "upstream_protocol_error",
                "Upstream answered the same request differently, in the middle of an answer.",
                detail="the answer to go on with differs",
            )
        )
