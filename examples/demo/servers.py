"""The fake upstream and the egress proxy, in a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread

from tests.support.authority import Authority
from tests.support.proxy import FakeProxy
from tests.support.requests import Request
from tests.support.serving import loopback
from tests.support.upstream import FakeUpstream

T = TypeVar("T")

HOST = "api.openai.test"
USER, PASSWORD = "demo", "demo-password"
RATE_LIMIT = 30


class FakeServers:
    """A fake upstream with TLS and an egress proxy with credentials.

    :param reactor: must not run yet; it runs in a thread until :meth:`close`.
    """

    def __init__(self, reactor: Any, directory: Path) -> None:
        self._reactor = reactor
        self._authority = Authority(directory)
        self.upstream = FakeUpstream(reactor)
        self.proxy = FakeProxy(reactor, credentials=(USER, PASSWORD))
        self._thread = threading.Thread(target=reactor.run, args=(False,), daemon=True)
        running = threading.Event()
        reactor.callWhenRunning(running.set)
        self._thread.start()
        running.wait()
        self._proxy_port = self._await(self._listen())

    async def _listen(self) -> int:
        tls = self._authority.good().options()
        port = await self.upstream.listen(loopback(self._reactor, tls))
        self.proxy.names[f"{HOST}:443"] = ("127.0.0.1", port)
        return await self.proxy.listen(loopback(self._reactor))

    def settings(self) -> dict[str, str]:
        """The settings of a daemon that uses these servers."""
        return {
            "OPENAI_API_URL": f"https://{HOST}",
            "PROXY_URL": f"http://{USER}:{PASSWORD}@127.0.0.1:{self._proxy_port}",
            "SSL_CERT_FILE": str(self._authority.pem),
            "RATE_LIMIT": str(RATE_LIMIT),
            "LOG_FORMAT": "json",
        }

    def requests(self) -> list[Request]:
        """The requests that have reached the upstream."""
        return self._call(lambda: list(self.upstream.requests))

    def tunnel_of(self, request: Request) -> int | None:
        """The number of the tunnel of *request*; ``None`` if it used none."""
        ends = self._call(lambda: {each.outgoing: each.number for each in self.proxy.tunnels})
        return ends.get(request.peer)

    def close(self) -> None:
        """Stop the servers, the reactor and its thread."""
        self._await(self.upstream.close())
        self._await(self.proxy.close())
        self._reactor.callFromThread(self._reactor.stop)
        self._thread.join(5)

    def _call(self, function: Callable[[], T]) -> T:
        return blockingCallFromThread(self._reactor, function)

    def _await(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> T:
        result: T = blockingCallFromThread(
            self._reactor, lambda: cast("Any", Deferred.fromCoroutine(coroutine))
        )
        return result
