"""The client side of SOCKS 5 as bytes in and bytes out (RFC 1928, RFC 1929).

1. The client offers "no authentication", and user and password if it has credentials. The server
   chooses.
2. The client sends the credentials if the server has chosen so, then the request: CONNECT to a host
   name, which the server resolves, or to an address.
3. The reply opens the tunnel, or says why not. Its length follows from its address type. The bytes
   after it belong to the tunnel. The outcome does not depend on how the bytes are split into reads.
4. All replies together have at most 2 + 2 + 262 bytes, which bounds the memory.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import pack
from typing import Final

MAX_CREDENTIAL_BYTES: Final = 255
"""Of a user name, and of a password."""

MAX_NAME_BYTES: Final = 255

_VERSION, _AUTH_VERSION = 5, 1
_NO_AUTH, _PASSWORD, _NONE_ACCEPTABLE = 0, 2, 0xFF
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_SUCCEEDED = 0

REPLIES: Final = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}
"""The meanings of replies that refuse a request (RFC 1928 section 6)."""

NOT_ALLOWED: Final = 2
ADDRESS_TYPE_NOT_SUPPORTED: Final = 8
NO_ACCEPTABLE_METHOD: Final = 256
"""The server refuses all methods of authentication; not a reply of the protocol."""
WRONG_CREDENTIALS: Final = 257
"""The server refuses user and password; not a reply of the protocol."""

_ADDRESS_REPLIES: Final = frozenset((1, 3, 4, 5, 6, 8))
_LASTING_REPLIES: Final = frozenset(
    (NOT_ALLOWED, 7, ADDRESS_TYPE_NOT_SUPPORTED, NO_ACCEPTABLE_METHOD, WRONG_CREDENTIALS)
)


class SocksRefused(Exception):
    """The server refuses the connection.

    :ivar reply: a key of :data:`REPLIES`, another byte, or one of the two values above 255.
    """

    def __init__(self, reply: int) -> None:
        super().__init__(reply)
        self.reply = reply

    @property
    def concerns_address(self) -> bool:
        """Whether another address of the same host may be reachable."""
        return self.reply in _ADDRESS_REPLIES

    @property
    def would_recur(self) -> bool:
        """Whether the server would refuse the same request once more."""
        return self.reply in _LASTING_REPLIES

    def __str__(self) -> str:
        if self.reply == NO_ACCEPTABLE_METHOD:
            return "no acceptable method of authentication"
        if self.reply == WRONG_CREDENTIALS:
            return "wrong user or password"
        return REPLIES.get(self.reply, f"reply {self.reply}")


class SocksMalformed(Exception):
    """The server's bytes are not SOCKS 5. The argument is a clause that says why."""


class _State(Enum):
    METHOD = "method"
    CREDENTIALS = "credentials"
    REPLY = "reply"
    OPEN = "open"


class Socks5Handshake:
    """The messages that open a tunnel.

    :param host: a name in ASCII, or an address.
    :param credentials: user and password, each of 1 to 255 bytes; the password may be empty.
    :raises ValueError: if a part is too long.
    """

    def __init__(
        self, host: str, port: int, credentials: tuple[bytes, bytes] | None = None
    ) -> None:
        for part in credentials or ():
            if len(part) > MAX_CREDENTIAL_BYTES:
                raise ValueError("a user or password of more than 255 bytes")
        self._request = bytes((_VERSION, _CONNECT, 0)) + _address(host) + pack(">H", port)
        self._credentials = credentials
        self._state = _State.METHOD
        self._received = b""
        self._to_send = b""

    def request_bytes(self) -> bytes:
        """Return the first message; to be called once."""
        methods = (_NO_AUTH,) if self._credentials is None else (_NO_AUTH, _PASSWORD)
        return bytes((_VERSION, len(methods), *methods))

    def receive(self, data: bytes) -> bytes | None:
        """Parse a part of the server's messages; not to be called after the tunnel is open.

        :returns: ``None`` while the tunnel is not open; then its first bytes.
        :raises SocksRefused: if the server refuses.
        :raises SocksMalformed: if the messages are invalid.
        """
        self._received += data
        while self._step():
            if self._state is _State.OPEN:
                return self._received
        return None

    def data_to_send(self) -> bytes:
        """Return what is to be sent after the last call of :meth:`receive`."""
        data, self._to_send = self._to_send, b""
        return data

    def closed(self) -> SocksMalformed:
        """Return the error of a connection that the server has closed."""
        return SocksMalformed("it closed the connection without an answer")

    def _step(self) -> bool:
        """Parse one message; return whether it was complete."""
        data = self._received
        if self._state is _State.REPLY:
            return self._parse_reply()
        version = _VERSION if self._state is _State.METHOD else _AUTH_VERSION
        if data and data[0] != version:
            raise _not_socks(data)
        if len(data) < 2:
            return False
        self._received = data[2:]
        if self._state is _State.METHOD:
            self._choose_method(data[1])
        elif data[1] != 0:
            raise SocksRefused(WRONG_CREDENTIALS)
        else:
            self._send_request()
        return True

    def _choose_method(self, method: int) -> None:
        if method == _NONE_ACCEPTABLE:
            raise SocksRefused(NO_ACCEPTABLE_METHOD)
        if method == _NO_AUTH:
            self._send_request()
        elif method == _PASSWORD and self._credentials is not None:
            user, password = self._credentials
            self._state = _State.CREDENTIALS
            self._to_send += b"%c%c%b%c%b" % (
                _AUTH_VERSION, len(user), user, len(password), password,
            )  # fmt: skip
        else:
            raise SocksMalformed("it chose a method of authentication that was not offered")

    def _send_request(self) -> None:
        self._state = _State.REPLY
        self._to_send += self._request

    def _parse_reply(self) -> bool:
        data = self._received
        if data and data[0] != _VERSION:
            raise _not_socks(data)
        if len(data) > 1 and data[1] != _SUCCEEDED:
            # Some servers close after the code, without the address that should follow.
            raise SocksRefused(data[1])
        if len(data) < 5:
            return False
        kind = data[3]
        if kind == _IPV4:
            length = 10
        elif kind == _IPV6:
            length = 22
        elif kind == _NAME:
            length = 7 + data[4]
        else:
            raise SocksMalformed("its reply has an unknown address type")
        if len(data) < length:
            return False
        self._received = data[length:]
        self._state = _State.OPEN
        return True


def _address(host: str) -> bytes:
    """Return the address type and the address of a request."""
    try:
        address = ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        if not 0 < len(name) <= MAX_NAME_BYTES:
            raise ValueError("a host name of 1 to 255 bytes is needed") from None
        return bytes((_NAME, len(name))) + name
    if isinstance(address, IPv4Address):
        return bytes((_IPV4,)) + address.packed
    return bytes((_IPV6,)) + IPv6Address(int(address)).packed


def _not_socks(data: bytes) -> SocksMalformed:
    if data[:1] == b"H":
        return SocksMalformed("its answer is HTTP and not SOCKS 5")
    if data[:1] == b"\0":
        return SocksMalformed("its answer is SOCKS 4 and not SOCKS 5")
    return SocksMalformed("its answer is not SOCKS 5")
