"""What the header of a request says, worked out once for each different header of a connection.

Clients repeat themselves: an SDK's hundredth request on a connection has the header of its first,
but for ``Content-Length``. Comparing two lists of lines costs a tenth of working out what they say,
so a connection keeps the :class:`Head` of its last request and uses it again while it fits; whoever
works out more from it keeps that in :attr:`Head.notes`.
"""

from __future__ import annotations

from typing import Any

from goproxyai.policy.headers import Headers, fields_of
from goproxyai.policy.targets import check_host
from goproxyai.problems import Problem

LARGEST_KEPT = 8 * 1024
"""Bytes of header lines beyond which a connection does not remember them."""

_LENGTH = b"content-length"


class Head:
    """Header lines, judged (RFC 9112 §3.2, §6.1, §6.3).

    :param version: ``1.1`` or ``1.0``.
    :raises Problem: why a request with this header is refused at the door.

    :ivar fields: lower-cased name to value, repeats joined; ``Content-Length`` is the first one's.
    :ivar repeated: whether any name came more than once.
    :ivar host: the value of ``Host``.
    :ivar chunked: whether the body is.
    :ivar awaits_continue: whether the client waits for ``100 Continue`` (RFC 9110 §10.1.1).
    :ivar length_at: position of ``Content-Length`` among the lines, -1 where there is none.
    :ivar notes: room for what the pipeline works out, all of it independent of the length.
    """

    __slots__ = (
        "_before",
        "_behind",
        "_headers",
        "awaits_continue",
        "chunked",
        "fields",
        "host",
        "length_at",
        "notes",
        "repeated",
        "version",
    )  # fmt: skip

    def __init__(self, version: str, headers: Headers) -> None:
        self.version = version
        self.fields, self.repeated = fields_of(headers)
        self.notes: Any = None
        self._headers = headers
        self.length_at = self._find(_LENGTH) if _LENGTH in self.fields else -1
        self._before = headers[: max(self.length_at, 0)]
        self._behind = headers[self.length_at + 1 :]
        self.host = b""
        self.chunked = False
        self.awaits_continue = False

    @classmethod
    def judged(cls, version: str, headers: Headers) -> Head:
        """The head of a request that may be served.

        :raises Problem: where it may not.
        """
        head = cls(version, headers)
        if version not in ("1.1", "1.0"):
            raise Problem("bad_request", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        hosts = [name for name, _ in headers if name.lower() == b"host"] if head.repeated else ()
        check_host(head.fields.get(b"host"), len(hosts) > 1)
        head.host = head.fields[b"host"]
        head._judge_coding()
        head._judge_expectation()
        return head

    def _find(self, wanted: bytes) -> int:
        return [name.lower() for name, _ in self._headers].index(wanted)

    def _judge_coding(self) -> None:
        coding = self.fields.get(b"transfer-encoding")
        if coding is None:
            return
        if self.version == "1.0":
            raise Problem("bad_request", "Transfer-Encoding has no meaning in HTTP/1.0.")
        if coding.strip(b" \t").lower() != b"chunked":
            raise Problem("bad_request", "The only Transfer-Encoding understood is chunked.")
        self.chunked = True

    def _judge_expectation(self) -> None:
        expect = self.fields.get(b"expect")
        if expect is None or self.version == "1.0":
            return
        if expect.strip(b" \t").lower() != b"100-continue":
            raise Problem("bad_request", "The only Expect understood is 100-continue.")
        self.awaits_continue = True

    @property
    def size(self) -> int:
        """Bytes of the lines, about."""
        return sum([len(name) + len(value) + 4 for name, value in self._headers])

    def fits(self, version: str, headers: Headers) -> bool:
        """Whether *headers* say the same, ``Content-Length`` apart."""
        if version != self.version:
            return False
        if headers == self._headers:
            return True
        at = self.length_at
        return (
            at >= 0
            and len(headers) == len(self._headers)
            and headers[at][0] == self._headers[at][0]
            and headers[:at] == self._before
            and headers[at + 1 :] == self._behind
        )

    def length(self, headers: Headers) -> int | None:
        """The length of the body behind *headers*, which fit; ``None`` for a chunked one."""
        if self.length_at >= 0:
            return int(headers[self.length_at][1])
        return None if self.chunked else 0


NO_HEAD = Head("1.1", [])
"""Of a request that was refused before its header was understood."""
