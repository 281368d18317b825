"""What the head of a request says, worked out once while a client repeats it.

Clients repeat themselves: an SDK's hundredth request on a connection has the head of its first, but
for the digits of ``Content-Length`` and what names the one request, such as ``traceparent``. So

1. llhttp parses a head once, and :meth:`RequestHead.judged` judges it once; both are pure functions of its
   bytes. The values of :data:`VARYING` fields change nothing about it: they are its holes.
2. A connection keeps the :class:`RequestHead` of its last request, and knows it again by comparing bytes:
   all that stands around the holes (:meth:`RequestHead.again`). What fills a hole is checked, more
   strictly than llhttp would; what does not fit goes to llhttp.
3. Connections whose clients say the same share one (:class:`RequestHeadCache`). It holds credentials, as the
   connections do, so it lives no longer than the last of them.
4. Whoever works out more from a head keeps that in :attr:`RequestHead.notes`.
"""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakValueDictionary

from goproxyai.errors import ProxyError
from goproxyai.messages.headers import Headers, index_fields
from goproxyai.messages.targets import check_host, origin_form

LARGEST_KEPT = 8 * 1024
"""Bytes of a head beyond which a connection does not remember it."""

MOST_DIGITS = 15
"""Digits of a ``Content-Length`` that are understood without llhttp."""

VARYING = frozenset(
    (
        b"content-length", b"x-forwarded-for", b"x-real-ip", b"x-request-id", b"traceparent",
        b"tracestate", b"x-stainless-retry-count", b"date",
    )
)  # fmt: skip
"""Fields that say something about one request, and nothing that a head is judged or kept by."""

_LENGTH_ONLY = frozenset((b"content-length",))
_HOLE = b"\0"  # which llhttp lets into no head
# A value that is understood without llhttp: at most 1 KiB.
_TEXT = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]{0,1022}[\x21-\x7e])?")

FieldValues = tuple[bytes, ...]
"""The values of a head's varying fields, in the order of its lines."""


class RequestHead:
    """A request line and header lines, judged (RFC 9112 §3.2, §6.1, §6.3).

    :ivar target: in origin-form, judged; of a refused request as far as it was read.
    :ivar version: ``1.1`` or ``1.0``.
    :ivar headers: (name, value) in order; of a known head, with nothing in the holes.
    :ivar keep: whether the client allows for another request behind this one.
    :ivar fields: lower-cased name to value, repeats joined, as *headers*.
    :ivar repeated: whether any name came more than once.
    :ivar host: the value of ``Host``.
    :ivar chunked: whether the body is.
    :ivar awaits_continue: whether the client waits for ``100 Continue`` (RFC 9110 §10.1.1).
    :ivar holes: position among the lines to position among the holes.
    :ivar named: lower-cased name to position among the holes.
    :ivar length_hole: the hole that is ``Content-Length``, -1 where there is none.
    :ivar known: whether it can be known again by its bytes.
    :ivar notes: room for what the pipeline works out, all of it independent of the holes.
    """

    __slots__ = (
        "__weakref__", "_cut", "_first", "_rest", "_texts", "awaits_continue", "chunked", "fields",
        "headers", "holes", "host", "keep", "known", "length_hole", "method", "named", "notes",
        "repeated", "target", "version",
    )  # fmt: skip

    def __init__(
        self, method: bytes, target: bytes, version: str, headers: Headers, keep: bool
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.keep = keep
        self.fields, self.repeated = index_fields(headers)
        self.holes = _holes(headers, self.repeated)
        self.named = {headers[position][0].lower(): hole for position, hole in self.holes.items()}
        self.length_hole = self.named.get(b"content-length", -1)
        self.host = b""
        self.chunked = False
        self.awaits_continue = False
        self.notes: Any = None
        self.known = False
        self._first = b""
        self._cut = 0
        self._rest: tuple[bytes, ...] = ()
        self._texts: tuple[int, ...] = ()

    @classmethod
    def judged(
        cls, method: bytes, target: bytes, version: str, headers: Headers, keep: bool
    ) -> RequestHead:
        """The head of a request that may be served.

        :param target: as it stood in the request line.
        :raises Problem: where it may not.
        """
        head = cls(method, target, version, headers, keep)
        if version not in ("1.1", "1.0"):
            raise ProxyError("bad_request", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
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
            raise ProxyError("bad_request", "Transfer-Encoding has no meaning in HTTP/1.0.")
        if coding.strip(b" \t").lower() != b"chunked":
            raise ProxyError("bad_request", "The only Transfer-Encoding understood is chunked.")
        self.chunked = True

    def _judge_expectation(self) -> None:
        expect = self.fields.get(b"expect")
        if expect is None or self.version == "1.0":
            return
        if expect.strip(b" \t").lower() != b"100-continue":
            raise ProxyError("bad_request", "The only Expect understood is 100-continue.")
        self.awaits_continue = True

    def values(self, headers: Headers) -> FieldValues:
        """What fills the holes in *headers*, which are this head's but for them."""
        return tuple([headers[position][1] for position in self.holes])

    def length(self, values: FieldValues) -> int | None:
        """The length of the body, ``None`` for a chunked one."""
        if self.chunked:
            return None
        return int(values[self.length_hole]) if self.length_hole >= 0 else 0

    # Known by its bytes.

    def learn(self, pieces: tuple[bytes, ...]) -> None:
        """Know this head by what stands around its holes; what filled them is forgotten."""
        self.known = True
        self.headers = self.headers.copy()  # theirs is read by whoever made this
        for position in self.holes:
            self.headers[position] = (self.headers[position][0], b"")
        for name in self.named:
            self.fields[name] = b""
        self._first, self._rest = pieces[0], pieces[1:]
        self._cut = len(self._first)
        self._texts = tuple([hole for hole in self.holes.values() if hole != self.length_hole])

    def again(self, data: bytes) -> tuple[int, int, FieldValues] | None:
        """Where the body begins, its length, and what fills the holes.

        ``None`` where *data* does not begin with this head.
        """
        if not data.startswith(self._first):
            return None
        at = self._cut
        if len(self._rest) == 1 and not self._texts:  # as most heads: the length is all that varies
            (piece,) = self._rest
            end = data.find(b"\r", at)
            digits = data[at:end]
            if len(digits) > MOST_DIGITS or not digits.isdigit() or not data.startswith(piece, end):
                return None
            return end + len(piece), int(digits), (digits,)
        found: list[bytes] = []
        for piece in self._rest:
            end = data.find(b"\r", at)
            if not data.startswith(piece, end) or end < 0:
                return None
            found.append(data[at:end])
            at = end + len(piece)
        for hole in self._texts:
            if _TEXT.fullmatch(found[hole]) is None:
                return None
        if self.length_hole < 0:
            return at, 0, tuple(found)
        digits = found[self.length_hole]
        if len(digits) > MOST_DIGITS or not digits.isdigit():
            return None
        return at, int(digits), tuple(found)


def _holes(headers: Headers, repeated: bool) -> dict[int, int]:
    """Position among the lines to position among the holes; a repeated name makes none."""
    varying = _LENGTH_ONLY if repeated else VARYING
    lines = [position for position, (name, _) in enumerate(headers) if name.lower() in varying]
    return {position: hole for hole, position in enumerate(lines)}


class RequestHeadCache:
    """The heads that connections know by their bytes, shared by those that know the same.

    It keeps none alive: the memory is that of the connections.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[bytes, ...], RequestHead] = WeakValueDictionary()

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
    ) -> RequestHead:
        """As :meth:`RequestHead.judged`, once for each different head.

        :param read: what llhttp was fed and found this head at the beginning of; empty where that
            is not so.
        :raises Problem: where the request may not be served.
        """
        pieces = _pieces(read, method, headers) if read and keep else None
        if pieces is None:
            return RequestHead.judged(method, target, version, headers, keep)
        head = self._known.get(pieces)
        if head is None:
            head = RequestHead.judged(method, target, version, headers, keep)
            if not (head.chunked or head.awaits_continue or b"upgrade" in head.fields):
                head.learn(pieces)
                self._known[pieces] = head
        return head


def _pieces(read: bytes, method: bytes, headers: Headers) -> tuple[bytes, ...] | None:
    """What stands around the holes of the head that *read* begins with."""
    size = read.find(b"\r\n\r\n") + 4
    if size < 4 or size > LARGEST_KEPT or not read.startswith(method + b" "):
        return None
    lines = read[:size].split(b"\r\n")
    if len(lines) != len(headers) + 3:
        return None
    holes = _holes(headers, len({name.lower() for name, _ in headers}) < len(headers))
    for position in holes:
        name, value = headers[position]
        line = lines[position + 1]
        before = line[: len(line) - len(value)]
        if not value or before.rstrip(b" \t") != name + b":" or not line.endswith(value):
            return None
        lines[position + 1] = before + _HOLE
    pieces = b"\r\n".join(lines).split(_HOLE)
    return tuple(pieces) if len(pieces) == len(holes) + 1 else None
