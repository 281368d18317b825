"""The daemon in memory with event streams, over TLS to upstream."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from bench.inside import BATCH, InMemoryDaemon, NullTransport, request

EVENT = (
    b'data: {"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion.chunk",'
    b'"created":1741569952,"model":"gpt-4.1-2025-04-14","service_tier":"default",'
    b'"system_fingerprint":"fp_b376dfbb","choices":[{"index":0,"delta":{"content":" word %07d"},'
    b'"logprobs":null,"finish_reason":null}]}\n\n'
)
HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: upstream\r\nDate: Thu, 26 Nov 2026 05:00:00 GMT\r\n"
    b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: keep-alive\r\n\r\n"
)

OPEN_STREAMS = 20

BURST_FRAMES = 25
"""Frames in one read of a stream that is as fast as the proxy: about 8 KB."""

_LOST = Failure(ConnectionDone())


def frame(number: int) -> bytes:
    """Return one event of a stream, as one chunk."""
    event = EVENT % number
    return b"%x\r\n%b\r\n" % (len(event), event)


class FrameDaemon(InMemoryDaemon):
    """A daemon with one stream: each "request" of a workload is a frame of it.

    A frame is one TLS record and one read. What is measured includes the encryption by the
    upstream.

    :param stores: the stream is recorded for the cache.
    """

    def __init__(self, stores: bool) -> None:
        super().__init__(tls=True, CACHE_TTL="5m" if stores else "0")
        self._connection.dataReceived(request(-1))
        self._end_iteration()
        self._receive(HEAD)

    def _receive(self, data: bytes) -> None:
        """Receive *data* from the upstream."""
        assert self._tls is not None
        self._upstream_connection.dataReceived(self._tls.sealed(data))
        self._end_iteration()

    def send(self, number: int) -> None:
        self._receive(frame(number))
        assert self._client.written, "the frame was not relayed"
        self._client.written.clear()


class BurstDaemon(FrameDaemon):
    """A daemon with one stream: each "request" is one read of :data:`BURST_FRAMES` frames.

    Each frame is a TLS record, as an upstream writes them that flushes after each event.
    """

    def send(self, number: int) -> None:
        assert self._tls is not None
        numbers = range(number * BURST_FRAMES, (number + 1) * BURST_FRAMES)
        records = b"".join([self._tls.sealed(frame(each)) for each in numbers])
        self._upstream_connection.dataReceived(records)
        self._end_iteration()
        assert self._client.written, "the frames were not relayed"
        self._client.written.clear()


class OpeningDaemon(FrameDaemon):
    """A daemon that opens a stream for each request, on new connections, and resumes TLS sessions.

    A client leaves after :data:`OPEN_STREAMS` more streams are open: OpenSSL does not resume the
    session of a connection that was reset. What is measured includes the upstream's part of the
    handshake.
    """

    def __init__(self) -> None:
        super().__init__(stores=False)
        self._open: deque[tuple[Any, Any]] = deque()

    def send(self, number: int) -> None:
        self._requests += 1
        client, connection = NullTransport(), self._factory.buildProtocol(self._client.getPeer())
        connection.makeConnection(client)
        connection.dataReceived(request(number))
        self._end_iteration()
        upstream = self._serve(frame(number))
        assert client.written, "the stream was not relayed"
        self._open.append((connection, upstream))
        if len(self._open) > OPEN_STREAMS:
            for each in self._open.popleft():
                each.connectionLost(_LOST)
        if self._requests % BATCH == 0:
            self.flush_log()

    @property
    def _factory(self) -> Any:
        return self._reactor.tcpServers[0][1]

    def _serve(self, data: bytes) -> Any:
        """Accept the new connection to the upstream, and begin a stream with *data*; return it."""
        assert self._tls is not None
        tls, transport = self._tls.another(), NullTransport()
        connection = self._reactor.tcpClients.pop()[2].buildProtocol(None)
        connection.makeConnection(transport)
        while not tls.is_open:
            connection.dataReceived(tls.handshake(transport.take()))
            self._end_iteration()
        assert tls.is_resumed, "the session was not resumed"
        connection.dataReceived(tls.answer(transport.take(), HEAD + data))
        self._end_iteration()
        return connection
