"""A request that waits for the decision of another process whether it is admitted.

Meanwhile nothing reads the body of the request, beyond what the connection buffers.
"""

from __future__ import annotations

from collections.abc import Callable

from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.proxy.admission import Admission


class PendingAdmission:
    """Calls *admitted* with the decision, unless the request ends before.

    :param decided: its argument is 0.0, or the seconds until the client has a token again.
    :param gone: called when the client has left.
    :param failed: called when the rest of the request is invalid, or the limit cannot be known.
    """

    def __init__(
        self,
        exchange: Exchange,
        decided: Callable[[float], None],
        gone: Callable[[], None],
        failed: Callable[[ProxyError], None],
    ) -> None:
        self._exchange = exchange
        self._decided = decided
        self._gone = gone
        self._failed = failed
        self._ended = False

    def start(self, admission: Admission, client: str) -> None:
        """Ask *admission*."""
        self._exchange.listener = self
        began = admission.seconds()

        def decided(wait: float) -> None:
            self._exchange.state_seconds = admission.seconds() - began
            self._end(wait)

        admission.when_decided(client, decided)

    def _end(self, wait: float) -> None:
        if not (self._ended or self._exchange.over):
            self._ended = True
            self._exchange.listener = None
            if wait < 0:
                self._failed(_shared_state_away())
            else:
                self._decided(wait)

    def client_gone(self) -> None:
        self._ended = True
        self._gone()

    def request_failed(self, problem: ProxyError) -> None:
        self._ended = True
        self._exchange.listener = None
        self._failed(problem)


def _shared_state_away() -> ProxyError:
    return ProxyError(
        "overloaded",
        "The shared state in STATE_URL does not respond, and STATE_STRICT refuses requests without "
        "it. Try again later.",
    )
