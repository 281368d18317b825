"""What the head of a request says, worked out once while a client repeats it.

Clients repeat themselves: an SDK's hundredth request on a connection has the head of its first, but
for the digits of ``Content-Length``. So

1. llhttp parses a head once, and :meth:`Head.judged` judges it once; both are pure functions of its
   bytes, the length apart.
2. A connection keeps the :class:`Head` of its last request, and knows it again by comparing bytes:
   what stands before the digits and what stands behind them (:meth:`Head.again`).
3. Connections whose clients say the same share one (:class:`Heads`). It holds credentials, as the
   connections do, so it lives no longer than the last of them.
4. Whoever works out more from a head keeps that in :attr:`Head.notes`.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

from goproxyai.policy.headers import Headers, fields_of
from goproxyai.policy.targets import check_host, origin_form
from goproxyai.problems import Problem

LARGEST_KEPT = 8 * 1024
"""Bytes of a head beyond which a connection does not remember it."""

MOST_DIGITS = 15
"""Digits of a ``Content-Length`` that are understood without llhttp."""

_LENGTH = b"content-length"


class Head:
    """A request line and header lines, judged (RFC 9112 §3.2, §6.1, §6.3).

    :ivar target: in origin-form, judged; of a refused request as far as it was read.
    :ivar version: ``1.1`` or ``1.0``.
    :ivar headers: (name, value) in order; the length is the first request's.
    :ivar keep: whether the client allows for another request behind this one.
    :ivar fields: lower-cased name to value, repeats joined; the length is the first request's.
    :ivar repeated: whether any name came more than once.
    :ivar host: the value of ``Host``.
    :ivar chunked: whether the body is.
    :ivar awaits_continue: whether the client waits for ``100 Continue`` (RFC 9110 §10.1.1).
    :ivar length_at: position of ``Content-Length`` among the lines, -1 where there is none.
    :ivar size: bytes of the head without its digits; 0 where it is not known by its bytes.
    :ivar notes: room for what the pipeline works out, all of it independent of the length.
    """

    __slots__ = (
        "__weakref__", "_before", "_behind", "_cut", "awaits_continue", "chunked", "fields",
        "headers", "host", "keep", "length_at", "method", "notes", "repeated", "size", "target",
        "version",
    )  # fmt: skip

    def __init__(
        self, method: bytes, target: bytes, version: str, headers: Headers, keep: bool
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.keep = keep
        self.fields, self.repeated = fields_of(headers)
        self.length_at = _length_at(headers) if _LENGTH in self.fields else -1
        self.host = b""
        self.chunked = False
        self.awaits_continue = False
        self.notes: Any = None
        self.size = self._cut = 0
        self._before = self._behind = b""

    @classmethod
    def judged(
        cls, method: bytes, target: bytes, version: str, headers: Headers, keep: bool
    ) -> Head:
        """The head of a request that may be served.

        :param target: as it stood in the request line.
        :raises Problem: where it may not.
        """
        head = cls(method, target, version, headers, keep)
        if version not in ("1.1", "1.0"):
            raise Problem("bad_request", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        hosts = [name for name, _ in headers if name.lower() == b"host"] if head.repeated else ()
        check_host(head.fields.get(b"host"), len(hosts) > 1)
        head.host = head.fields[b"host"]
        head._judge_coding()
        head._judge_expectation()
        head.target = origin_form(target, head.host)
        return head

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

    def digits(self, headers: Headers) -> bytes:
        """The ``Content-Length`` in *headers*, as it stands there; empty where there is none."""
        return headers[self.length_at][1] if self.length_at >= 0 else b""

    # Known by its bytes.

    def learn(self, before: bytes, behind: bytes) -> None:
        """Know this head by what stands before and behind the digits of its length."""
        self._before, self._behind = before, behind
        self._cut = len(before)
        self.size = len(before) + len(behind)

    def again(self, data: bytes) -> bytes | None:
        """The digits of the length, where *data* begins with this head; ``None`` where not.

        Empty for a head without a length. The body begins at ``size`` and the digits' number.
        """
        if not data.startswith(self._before):
            return None
        if self.length_at < 0:
            return b""
        cut = self._cut
        end = data.find(b"\r", cut, cut + MOST_DIGITS + 1)
        digits = data[cut:end]
        if end > 0 and digits.isdigit() and data.startswith(self._behind, end):
            return digits
        return None


def _length_at(headers: Headers) -> int:
    return [name.lower() for name, _ in headers].index(_LENGTH)


class Heads:
    """The heads that connections know by their bytes, shared by those that know the same.

    It keeps none alive: the memory is that of the connections.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[bytes, bytes], Head] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._known)

    def judged(
        self,
        read: bytes,
        method: bytes,
        target: bytes,
        version: str,
        headers: Headers,
        keep: bool,
    ) -> Head:
        """As :meth:`Head.judged`, once for each different head.

        :param read: what llhttp was fed and found this head at the beginning of; empty where that
            is not so.
        :raises Problem: where the request may not be served.
        """
        parts = _parts(read, method, headers) if read and keep else None
        if parts is None:
            return Head.judged(method, target, version, headers, keep)
        head = self._known.get(parts)
        if head is None:
            head = Head.judged(method, target, version, headers, keep)
            if not (head.chunked or head.awaits_continue or b"upgrade" in head.fields):
                head.learn(*parts)
                self._known[parts] = head
        return head


def _parts(read: bytes, method: bytes, headers: Headers) -> tuple[bytes, bytes] | None:
    """The head at the beginning of *read*, without the digits of its length."""
    size = read.find(b"\r\n\r\n") + 4
    if size < 4 or size > LARGEST_KEPT or not read.startswith(method + b" "):
        return None
    names = [name.lower() for name, _ in headers]
    if _LENGTH not in names:
        return read[:size], b""
    at = 0
    for _ in range(names.index(_LENGTH) + 1):
        at = read.find(b"\r\n", at) + 2
    cut = at + len(_LENGTH) + 1
    while read[cut : cut + 1] in (b" ", b"\t"):
        cut += 1
    end = cut
    while read[end : end + 1].isdigit():
        end += 1
    return read[:cut], read[end:size]
