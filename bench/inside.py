"""CPU time of a request in the project's own code: the daemon in memory, without sockets.

``python -m bench.inside`` prints microseconds of CPU time per request, and the part of it that the
access log and the counters take, for cache hits and misses, and for hits whose heads all differ.
Hits and misses on fresh connections follow, over real sockets (:mod:`bench.loopback`). With
``--tls``, the upstream of misses on kept connections has TLS. Each figure is the minimum of many
chunks of requests, so it hardly depends on other load on the machine. With ``--tree`` the script
measures another checkout, for a comparison of two trees; it also supports the module layout of
version 0.1.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import trustme
from twisted.internet.address import IPv4Address
from twisted.internet.ssl import Certificate
from twisted.internet.testing import MemoryReactorClock

CHUNK = 2_048
"""Requests between two readings of the clock."""

BATCH = 200
"""Requests between two flushes of the access log, fewer than it holds at most."""

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
VARIED_LINE = b"User-Agent: client/%d\r\n"
"""A header line that makes a head differ from those before it, and not the answer."""


def request(number: int) -> bytes:
    """Return a request; the answer to a repeated number is a cache hit."""
    body = QUESTION % number
    return HEAD % len(body) + body


class NullTransport:
    """A TCP transport without a socket, with as little code as possible."""

    connected, disconnecting = True, False
    dataBuffer, offset, _tempDataLen, _tempDataBuffer = b"", 0, 0, ()

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        data = b"".join(self.written)
        self.written.clear()
        return data

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 50_000)

    getHost = getPeer

    def ignore(self, *_: object) -> None:
        pass

    pauseProducing = resumeProducing = registerProducer = unregisterProducer = ignore
    setTcpNoDelay = loseConnection = loseWriteConnection = abortConnection = ignore


def imported(*paths: str) -> Any:
    """Return the first of *paths* that exists, as ``module:name``."""
    for path in paths:
        module, _, name = path.partition(":")
        try:
            return getattr(import_module(module), name)
        except ModuleNotFoundError:
            continue
    raise ImportError(f"none of {', '.join(paths)}")


def _access_log(daemon: Any) -> Any:
    try:
        return daemon.context.access_log
    except AttributeError:
        return daemon.system.relay.log  # version 0.1


class TLSUpstream:
    """The TLS of one connection to an upstream, over memory BIOs.

    :param authority: has issued the certificate of *context*.
    :ivar is_open: the handshake is complete.
    """

    def __init__(self, authority: trustme.CA, context: ssl.SSLContext) -> None:
        self._authority, self._context = authority, context
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.is_open = False

    @classmethod
    def first(cls) -> TLSUpstream:
        """Return the first connection to an upstream with a new certificate."""
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        return cls(authority, context)

    def another(self) -> TLSUpstream:
        """Return another connection to the same upstream."""
        return TLSUpstream(self._authority, self._context)

    def client(self, host: str) -> Any:
        """Return the TLS of the daemon, which trusts this upstream."""
        root = Certificate.loadPEM(self._authority.cert_pem.bytes())
        return imported("goproxyai.egress.tls:ClientTLS")(host, root)

    def handshake(self, records: bytes) -> bytes:
        """Continue the handshake; return what is to be sent."""
        self._incoming.write(records)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
            self.is_open = True
        return self._outgoing.read()

    @property
    def is_resumed(self) -> bool:
        """Whether the client has resumed a session."""
        return bool(self._tls.session_reused)

    def answer(self, records: bytes, response: bytes = RESPONSE) -> bytes:
        """Read a request and return the records of the response."""
        self._incoming.write(records)
        self._tls.read(65536)
        return self.sealed(response)

    def sealed(self, data: bytes) -> bytes:
        """Return the records of *data*."""
        self._tls.write(data)
        return self._outgoing.read()


class MeasuredDaemon:
    """A daemon that requests are sent to.

    :param tls: the client's part of the TLS to the upstream, if it has TLS.
    :param parts: further arguments of ``make_daemon``.
    :param more: settings of the daemon.
    :ivar log_seconds: CPU time of the access log's flushes so far.
    """

    def __init__(
        self,
        reactor: Any,
        tls: Callable[[str], Any] | None = None,
        parts: Mapping[str, Any] | None = None,
        **more: str,
    ) -> None:
        settings_class = imported(
            "goproxyai.config.settings:Settings", "goproxyai.settings:Settings"
        )
        make_daemon = imported(
            "goproxyai.daemon.build:make_daemon", "goproxyai.service:make_daemon"
        )
        reactor.seconds = time.monotonic  # as the plugin does
        settings = settings_class.from_texts(
            {
                "OPENAI_API_URL": "http%s://127.0.0.1:9" % ("" if tls is None else "s"),
                "RATE_LIMIT": "0",
                "LISTEN": "tcp:0:interface=127.0.0.1:backlog=1024",
                **more,
            }
        )
        arguments = {**({} if tls is None else {"tls": tls}), **(parts or {})}
        self.daemon = make_daemon(reactor, settings, **arguments)
        self.daemon.startService()
        self.log = _access_log(self.daemon)
        self.log_seconds = 0.0

    def send_all(self, numbers: Iterable[int]) -> None:
        """Send a request for each number, and flush the access log from time to time."""
        raise NotImplementedError

    def flush_log(self) -> None:
        began = time.process_time()
        self.log.flush()
        self.log_seconds += time.process_time() - began

    def set_time(self) -> None:
        """Tell the time to the daemon, in which no timer runs: kept connections have an age."""
        self.daemon.listeners.factory.ticker.now = time.monotonic()

    def measure(self, first: int, step: int, chunks: int) -> tuple[float, float]:
        """Microseconds per request: the minimum of all *chunks*, in all and for the access log.

        :param first: the number of the first request.
        :param step: from one number to the next; 0 repeats the first.
        """
        total, log, number = float("inf"), float("inf"), first
        for _ in range(chunks):
            self.set_time()
            self.log_seconds = 0.0
            began = time.process_time()
            self.send_all([number + index * step for index in range(CHUNK)])
            number += CHUNK * step
            total = min(total, time.process_time() - began)
            log = min(log, self.log_seconds)
        return total / CHUNK * 1e6, log / CHUNK * 1e6


class InMemoryDaemon(MeasuredDaemon):
    """A daemon, a client's connection to it, and its connection to the upstream.

    :param tls: the upstream has TLS; its half of the work is a part of what is measured.
    :param varied: every request has another head.
    :param reactor: a memory reactor; by default a new one.
    :param parts: further arguments of ``make_daemon``.
    :param more: settings of the daemon.
    """

    def __init__(
        self,
        tls: bool = False,
        varied: bool = False,
        reactor: Any = None,
        parts: Mapping[str, Any] | None = None,
        **more: str,
    ) -> None:
        self._tls = TLSUpstream.first() if tls else None
        self._varied = varied
        reactor = reactor or MemoryReactorClock()
        self._reactor: Any = reactor
        self._at_end: list[Callable[[], None]] = []  # what runs at the end of an iteration
        reactor._goproxyai_at_end = self._at_end.append
        reactor._goproxyai_ends = self._at_end.append  # version 0.1
        super().__init__(reactor, None if self._tls is None else self._tls.client, parts, **more)
        self._requests = 0
        self._client, self._upstream = NullTransport(), NullTransport()
        factory = reactor.tcpServers[0][1]
        self._connection = factory.buildProtocol(self._client.getPeer())
        self._connection.makeConnection(self._client)
        self.begin()
        self._connection.dataReceived(self.sealed(request(0)))
        self._end_iteration()
        client_factory = reactor.tcpClients[0][2]
        self._upstream_connection: Any = client_factory.buildProtocol(None)
        self._upstream_connection.makeConnection(self._upstream)
        if self._tls is not None:
            while not self._tls.is_open:
                self._upstream_connection.dataReceived(self._tls.handshake(self._sent_upstream()))
            # The request was sent with the end of the handshake.
            self._upstream_connection.dataReceived(self._tls.answer(self._sent_upstream()))
        self._answer()

    def begin(self) -> None:
        """Do what precedes the first request of the client's connection."""

    def sealed(self, data: bytes) -> bytes:
        """Return what the client sends for *data*."""
        return data

    def exchange(self, data: bytes) -> bytes:
        """Send *data* on the client's connection; return what the daemon has sent."""
        self._connection.dataReceived(data)
        self._end_iteration()
        return self._client.take()

    def _end_iteration(self) -> None:
        while self._at_end:
            calls = self._at_end.copy()
            self._at_end.clear()
            for call in calls:
                call()

    def _answer(self) -> None:
        self._end_iteration()
        if self._upstream.written:
            request = self._sent_upstream()
            response = RESPONSE if self._tls is None else self._tls.answer(request)
            self._upstream_connection.dataReceived(response)
            self._end_iteration()
        assert self._client.written, "the request was not answered"
        self._client.written.clear()

    def _sent_upstream(self) -> bytes:
        return self._upstream.take()

    def send(self, number: int) -> None:
        """Send one request; a repeated number is a cache hit."""
        self._requests += 1
        data = request(number)
        if self._varied:
            data = data.replace(b"Content-Type", VARIED_LINE % self._requests + b"Content-Type", 1)
        self._connection.dataReceived(self.sealed(data))
        self._answer()
        if self._requests % BATCH == 0:
            self.flush_log()

    def send_all(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.send(number)


def report(chunks: int, tls: bool = False) -> None:
    """Measure hits and misses and print one line for each."""
    # The module imports this one.
    loopback = imported("bench.loopback:LoopbackDaemon")()
    kept, varied = InMemoryDaemon(tls), InMemoryDaemon(varied=True)
    for name, daemon, step in (
        ("hit", kept, 0), ("miss", kept, 1), ("varied hit", varied, 0),
        ("fresh hit", loopback, 0), ("fresh miss", loopback, 1),
    ):  # fmt: skip
        total, log = daemon.measure(1, step, chunks)
        print(
            f"{name:10}{total:7.2f} us per request, of which access log and counters {log:5.2f} us",
            flush=True,
        )
    loopback.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=20, help=f"of {CHUNK} requests each")
    parser.add_argument("--tree", help="another checkout to measure")
    parser.add_argument("--tls", action="store_true", help="with TLS to upstream")
    given = parser.parse_args()
    if given.tree is None:
        gc.disable()  # collections would take place in some chunks only
        report(given.chunks, given.tls)
        return
    command = [sys.executable, __file__, "--chunks", str(given.chunks)]
    command += ["--tls"] if given.tls else []
    subprocess.run(command, cwd=given.tree, env={"PYTHONPATH": given.tree}, check=True)


if __name__ == "__main__":
    main()
