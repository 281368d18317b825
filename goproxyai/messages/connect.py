"""The client's side of CONNECT, as bytes in and bytes out (RFC 9110 §9.3.6).

1. The request names the authority twice, in the request line and in ``Host``; credentials for the
   proxy go here and nowhere else.
2. Any 2xx opens the tunnel, and what follows its head is the tunnel's, whatever its
   ``Content-Length`` or ``Transfer-Encoding`` claim. Interim answers (1xx) are skipped.
3. Any other status is a refusal. Its body is not read.
4. All heads together may take :data:`MAX_CONNECT_RESPONSE_BYTES`; however the bytes are cut into reads, the
   outcome is the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import h11

MAX_CONNECT_RESPONSE_BYTES = 16 * 1024
"""Bytes of the answer's head, interim answers included."""

_LONGEST_REASON = 256


class ConnectRefused(Exception):
    """The proxy answered, and said no.

    :ivar status: the status code; 407 asks for credentials.
    :ivar reason: the reason phrase, as it was sent: a stranger's bytes.
    """

    def __init__(self, status: int, reason: bytes) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


class ConnectMalformed(Exception):
    """The proxy did not answer as HTTP/1.1 has it.

    :ivar reason: what was wrong, in words of ours.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ConnectParser:
    """One CONNECT request and its answer.

    :param authority: ``host:port``, an IPv6 host in brackets.
    :param headers: further fields, such as ``Proxy-Authorization``.
    """

    def __init__(self, authority: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._request = h11.Request(
            method=b"CONNECT", target=authority, headers=[(b"Host", authority), *headers]
        )
        self._connection = h11.Connection(h11.CLIENT, MAX_CONNECT_RESPONSE_BYTES)
        self._room = MAX_CONNECT_RESPONSE_BYTES
        self._opening = b""

    def request_bytes(self) -> bytes:
        """The request, to be written once."""
        request = self._connection.send(self._request)
        assert request is not None
        self._connection.send(h11.EndOfMessage())
        return request

    def receive(self, data: bytes) -> bytes | None:
        """Read some of the answer; not to be called again once the tunnel stands.

        :returns: ``None`` while the answer is incomplete; then what *data* holds behind it.
        :raises TunnelRefused: for an answer other than 2xx.
        :raises TunnelBroken: for what is no answer, or too long a one.
        """
        if not data:
            return None
        self._opening = (self._opening + data[:5])[:5]
        if not b"HTTP/".startswith(self._opening):  # h11 would wait for a blank line
            raise ConnectMalformed("its answer to CONNECT is not HTTP/1.1")
        head, beyond = data[: self._room], data[self._room :]
        self._room -= len(head)
        if head:
            self._connection.receive_data(head)
        while True:
            event = self._next()
            if isinstance(event, h11.Response):
                if 200 <= event.status_code < 300:
                    return self._connection.trailing_data[0] + beyond
                raise ConnectRefused(event.status_code, event.reason[:_LONGEST_REASON])
            if event is h11.NEED_DATA:
                break
        if beyond:
            raise ConnectMalformed("its answer to CONNECT exceeds 16 KiB")
        return None

    def _next(self) -> object:
        try:
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise ConnectMalformed("its answer to CONNECT is not HTTP/1.1") from error
        if isinstance(event, h11.InformationalResponse | h11.Response):
            if not event.http_version.startswith(b"1."):  # which h11 leaves to us
                raise ConnectMalformed("its answer to CONNECT is not HTTP/1.1")
        return event
