"""The client side of CONNECT as bytes in and bytes out (RFC 9110 §9.3.6).

1. The request states the authority twice, in the request line and in ``Host``. The credentials for
   the proxy are in this request only.
2. A 2xx response opens the tunnel. The bytes after the response header belong to the tunnel, even
   if the header has ``Content-Length`` or ``Transfer-Encoding``. Interim responses (1xx) are
   skipped.
3. A response of another status is a refusal. Its body is not read.
4. The headers of all responses together may take :data:`MAX_CONNECT_RESPONSE_BYTES`. The outcome
   does not depend on how the bytes are split into reads.
"""

from __future__ import annotations

from collections.abc import Iterable

import h11

from goproxyai.messages.connect_errors import (
    ConnectMalformed,
    ConnectRefused,
    unsupported_schemes,
)

MAX_CONNECT_RESPONSE_BYTES = 16 * 1024
"""Bytes of the response headers, those of interim responses included."""

_MAX_REASON_BYTES = 256


class ConnectParser:
    """A CONNECT request and the parser of the response.

    :param authority: ``host:port``, an IPv6 host in brackets.
    :param headers: additional fields, such as ``Proxy-Authorization``.
    """

    def __init__(self, authority: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._request = h11.Request(
            method=b"CONNECT", target=authority, headers=[(b"Host", authority), *headers]
        )
        self._connection = h11.Connection(h11.CLIENT, MAX_CONNECT_RESPONSE_BYTES)
        self._bytes_left = MAX_CONNECT_RESPONSE_BYTES
        self._first_bytes = b""

    def request_bytes(self) -> bytes:
        """Return the request; to be called once."""
        request = self._connection.send(self._request)
        assert request is not None
        self._connection.send(h11.EndOfMessage())
        return request

    def receive(self, data: bytes) -> bytes | None:
        """Parse a part of the response; not to be called after the tunnel is open.

        :returns: ``None`` while the response is incomplete; then the first bytes of the tunnel.
        :raises ConnectRefused: if the status is not 2xx.
        :raises ConnectMalformed: if the response is invalid or too long.
        """
        if not data:
            return None
        # h11 reports other protocols, such as SSH or TLS, only after a blank line.
        self._first_bytes = (self._first_bytes + data[:5])[:5]
        if not b"HTTP/".startswith(self._first_bytes):
            raise ConnectMalformed("its answer to CONNECT is not HTTP/1.1")
        head, excess = data[: self._bytes_left], data[self._bytes_left :]
        self._bytes_left -= len(head)
        if head:
            self._connection.receive_data(head)
        while True:
            event = self._next_event()
            if isinstance(event, h11.Response):
                if 200 <= event.status_code < 300:
                    return self._connection.trailing_data[0] + excess
                raise _refusal(event)
            if event is h11.NEED_DATA:
                break
        if excess:
            raise ConnectMalformed("its answer to CONNECT exceeds 16 KiB")
        return None

    def data_to_send(self) -> bytes:
        """Return nothing: the request is all that the client sends."""
        return b""

    def closed(self) -> ConnectMalformed:
        """Return the error of a connection that the proxy has closed."""
        return ConnectMalformed("it closed the connection without an answer")

    def _next_event(self) -> object:
        try:
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise ConnectMalformed("its answer to CONNECT is not HTTP/1.1") from error
        if isinstance(event, h11.InformationalResponse | h11.Response):
            if not event.http_version.startswith(b"1."):  # h11 accepts other versions
                raise ConnectMalformed("its answer to CONNECT is not HTTP/1.1")
        return event


def _refusal(response: h11.Response) -> ConnectRefused:
    challenges = [value for name, value in response.headers if name == b"proxy-authenticate"]
    schemes = unsupported_schemes(challenges) if response.status_code == 407 else ()
    return ConnectRefused(response.status_code, response.reason[:_MAX_REASON_BYTES], schemes)
