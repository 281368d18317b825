"""What a request costs in our own code: the daemon in memory, without a socket or a kernel.

``python -m bench.inside`` prints microseconds of CPU a request, for hits and misses, and how much
of them is counting, what ``/metrics`` and ``/stats`` tell included. It is the least of many chunks,
so it says the same on a busy machine as on a quiet one; with ``--tree`` that of another checkout,
to be compared side by side.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.testing import MemoryReactorClock

CHUNK = 2_048
"""Requests between two looks at the clock."""

BATCH = 200
"""Events that the log counts at a time."""

ANSWER = (
    b'{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion",'
    b'"created":1741569952,"model":"gpt-4.1-2025-04-14","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello! How can I assist you today?","refusal":null,'
    b'"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,'
    b'"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0}},"service_tier":"default"}'
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: upstream\r\nDate: Thu, 26 Nov 2026 05:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n%b"
) % (len(ANSWER), ANSWER)
QUESTION = b'{"model":"gpt-4.1","messages":[{"role":"user","content":"Hello! %09d"}]}'
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAuthorization: Bearer sk-bench"
    b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


class Line:
    """A transport that the kernel has no part in."""

    connected, disconnecting = True, False
    dataBuffer, offset, _tempDataLen, _tempDataBuffer = b"", 0, 0, ()

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written.append(data)

    def getPeer(self) -> IPv4Address:
        """Somebody here."""
        return IPv4Address("TCP", "127.0.0.1", 50_000)

    getHost = getPeer

    def nothing(self, *_: object) -> None:
        """What has no meaning here."""

    pauseProducing = resumeProducing = registerProducer = unregisterProducer = nothing
    setTcpNoDelay = loseConnection = loseWriteConnection = abortConnection = nothing


class Inside:
    """A daemon, a client's connection to it, and its connection to upstream."""

    def __init__(self) -> None:
        from goproxyai.config.settings import Settings
        from goproxyai.daemon.build import make_daemon

        reactor = MemoryReactorClock()
        reactor.seconds = time.monotonic  # type: ignore[method-assign]  # as the plugin does
        self._ends: list[Callable[[], None]] = []
        reactor._goproxyai_at_end = self._ends.append  # type: ignore[attr-defined]  # a turn's end
        settings = Settings.from_texts(
            {"OPENAI_API_URL": "http://127.0.0.1:9", "RATE_LIMIT": "0", "PORT": "0"}
        )
        daemon = make_daemon(reactor, settings)
        self.log = daemon.context.access_log
        self.count = True  # or else events are thrown away
        self._client, self._upstream = Line(), Line()
        self._protocol = daemon.listeners.factory.buildProtocol(self._client.getPeer())
        self._protocol.makeConnection(self._client)
        self._protocol.dataReceived(self._question(0))
        self._turn()
        connecting: Any = reactor.tcpClients[0][2]
        self._above: Any = connecting.buildProtocol(None)
        self._above.makeConnection(self._upstream)
        self._answer()

    def _question(self, number: int) -> bytes:
        body = QUESTION % number
        return HEAD % len(body) + body

    def _turn(self) -> None:
        while self._ends:
            calls = self._ends.copy()
            self._ends.clear()
            for call in calls:
                call()

    def _answer(self) -> None:
        self._turn()
        if self._upstream.written:
            self._upstream.written.clear()
            self._above.dataReceived(RESPONSE)
            self._turn()
        assert self._client.written, "it is not answered"
        self._client.written.clear()

    def ask(self, number: int) -> None:
        """One request; the cache has the answers to numbers that were asked for before."""
        self._protocol.dataReceived(self._question(number))
        self._answer()
        if len(self.log._waiting) >= BATCH:
            if self.count:
                self.log.flush()
            else:
                self.log._waiting.clear()

    def spent(self, first: int, step: int, chunks: int) -> float:
        """Microseconds a request, the least of so many *chunks*."""
        least, number = float("inf"), first
        for _ in range(chunks):
            began = time.process_time()
            for _ in range(CHUNK):
                self.ask(number)
                number += step
            least = min(least, time.process_time() - began)
        return least / CHUNK * 1e6


def measure(chunks: int) -> None:
    """Print what there is to say."""
    inside = Inside()
    number = 1
    for name, step in (("hit", 0), ("miss", 1)):
        spent = {}
        for inside.count in (True, False):
            spent[inside.count] = inside.spent(number, step, chunks)
            number += step * CHUNK * chunks + 1
        counting = spent[True] - spent[False]
        print(f"{name:5}{spent[True]:7.2f} us a request, of which counting {counting:5.2f} us")


def main() -> None:
    """Of this checkout, or of another."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=20, help=f"of {CHUNK} requests each")
    parser.add_argument("--tree", help="another checkout, in whose place this script runs")
    asked = parser.parse_args()
    if asked.tree is None:
        gc.disable()  # the daemon's own comes some hundred requests apart
        measure(asked.chunks)
        return
    command = [sys.executable, __file__, "--chunks", str(asked.chunks)]
    subprocess.run(command, cwd=asked.tree, env={"PYTHONPATH": asked.tree}, check=True)


if __name__ == "__main__":
    main()
