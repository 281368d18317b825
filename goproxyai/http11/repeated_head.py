"""Recognise a request head by its bytes.

Clients repeat themselves: the hundredth request of an SDK on a connection has the head of the first
except for the values of variable fields (:data:`~.request_head.VARIABLE_FIELDS`). So

1. llhttp parses a head once and :meth:`.RequestHead.validated` checks it once. Both are pure
   functions of its bytes.
2. A parser keeps the :class:`RepeatedHead` of the last request and compares the bytes around the
   variable fields with those of the next one. The value of a variable field is checked more
   strictly than llhttp would.
3. Connections whose clients send the same head share one object (:class:`RepeatedHeadCache`). A
   head that differs from the last one of its connection, or is the first one, is looked up there. A
   head that is not found goes to llhttp.
4. A head holds credentials, as the connections do. So the object lives no longer than the last of
   these connections, and :data:`RETAINED_TICKS` of the ticker after the head was looked up, for
   clients that open a connection for each request.

A hit takes 11 µs with this module and 53 µs without, since all that is derived from a head
(:attr:`.RequestHead.plan`) is derived once as well (``bench/inside.py``).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple
from weakref import WeakValueDictionary, finalize

from goproxyai.http11.request_head import (
    MAX_LONG_VARIABLE_BYTES,
    MAX_VARIABLE_BYTES,
    VARIABLE_FIELDS,
    FieldValues,
    RequestHead,
    max_variable_bytes,
)
from goproxyai.limits.request_memory import RequestMemory
from goproxyai.messages.headers import Headers

MAX_REPEATED_HEAD_BYTES = 8 * 1024
"""Bytes of a head that is remembered."""

MAX_UNCOUNTED_BYTES = 8 * 1024
"""Memory of a head that is small enough not to be counted: that of an SDK takes 5 KB."""

MAX_LENGTH_DIGITS = 15
"""Digits of a ``Content-Length`` that is read without llhttp."""

RETAINED_TICKS = 2
"""Ticks of the ticker, half a second, after which a head is released that no connection uses."""

MAX_RETAINED = 16
"""Heads that are retained in one tick, and compared before the look-up, which takes 7 µs for the
head of an SDK. The comparison takes 0.4 µs where no head is equal."""


def any_of(names: Iterable[bytes]) -> bytes:
    """Return a pattern for *names* that compares a common beginning of several names only once.

    The pattern takes 3 µs for the head of an SDK, a mere alternative of all names 5 µs.
    """
    rests: dict[bytes, list[bytes]] = {}
    for name in sorted(names):
        rests.setdefault(name[:1], []).append(name[1:])
    return b"|".join(
        [start + (b"(?:%b)" % any_of(rest) if start else b"") for start, rest in rests.items()]
    )


_VARIABLE_LINES = re.compile(
    rb"\r\n((?:%b):[ \t]*)([^\r]*)" % any_of(VARIABLE_FIELDS), re.IGNORECASE
)


def _value_of(max_bytes: int) -> Callable[[bytes], object]:
    """Return what matches a value that is read without llhttp, of at most *max_bytes*."""
    pattern = rb"[\x21-\x7e](?:[\x20-\x7e]{0,%d}[\x21-\x7e])?" % (max_bytes - 2)
    return re.compile(pattern).fullmatch


_VALUES = {size: _value_of(size) for size in (MAX_VARIABLE_BYTES, MAX_LONG_VARIABLE_BYTES)}

Match = tuple[int, int, FieldValues]
"""The offset and the length of the body, and the values of the variable fields."""


class RepeatedHead:
    """A head, and the bytes around the values of its variable fields.

    :param pieces: these bytes, in order: one more than there are variable fields.
    :ivar prefix: the first of these pieces.
    """

    __slots__ = (
        "__weakref__", "_between", "_length_follows", "_texts", "head", "prefix",
    )  # fmt: skip

    def __init__(self, head: RequestHead, pieces: tuple[bytes, ...]) -> None:
        self.head = head
        self.prefix = pieces[0]
        self._between = pieces[1:]
        # What values other than that of Content-Length must match.
        self._texts = tuple(
            [
                (index, _VALUES[max_variable_bytes(head.headers[line][0].lower())])
                for line, index in head.variable_lines.items()
                if index != head.length_index
            ]
        )
        # In most heads Content-Length alone is variable: the bytes after its value, or None.
        only_length = len(self._between) == 1 and not self._texts
        self._length_follows = self._between[0] if only_length else None

    def match(self, data: bytes) -> Match | None:
        """Match the beginning of *data*; ``None`` if *data* does not begin with this head."""
        prefix = self.prefix
        if not data.startswith(prefix):
            return None
        at = len(prefix)
        follows = self._length_follows
        if follows is not None:
            end = data.find(b"\r", at)
            digits = data[at:end]
            if (
                len(digits) > MAX_LENGTH_DIGITS
                or not digits.isdigit()
                or not data.startswith(follows, end)
            ):
                return None
            return end + len(follows), int(digits), (digits,)
        return self._match_values(data, at)

    def _match_values(self, data: bytes, at: int) -> Match | None:
        values: list[bytes] = []
        for piece in self._between:
            end = data.find(b"\r", at)
            if not data.startswith(piece, end) or end < 0:
                return None
            values.append(data[at:end])
            at = end + len(piece)
        for index, matches in self._texts:
            if matches(values[index]) is None:
                return None
        length_index = self.head.length_index
        if length_index < 0:
            return at, 0, tuple(values)
        digits = values[length_index]
        if len(digits) > MAX_LENGTH_DIGITS or not digits.isdigit():
            return None
        return at, int(digits), tuple(values)


class _SplitHead(NamedTuple):
    """A head and its parts, see :func:`_split`."""

    head: bytes
    parts: list[bytes]


_NO_HEAD = _SplitHead(b"", [b""])


class RepeatedHeadCache:
    """The repeated heads of all connections, by the bytes around their variable fields.

    The memory is that of the connections, except for the heads that are retained: at most
    :data:`MAX_RETAINED` for each of :data:`RETAINED_TICKS`. A head that takes more than
    :data:`MAX_UNCOUNTED_BYTES` is counted in the budget, and is not remembered while the budget is
    tight.
    """

    def __init__(self, memory: RequestMemory) -> None:
        self._memory = memory
        self._known: WeakValueDictionary[tuple[bytes, ...], RepeatedHead] = WeakValueDictionary()
        self._retained: deque[list[RepeatedHead]] = deque([[]], RETAINED_TICKS)
        self._recent = self._retained[-1]
        self._recent_prefixes: tuple[bytes, ...] = ()
        self._unknown = _NO_HEAD

    def __len__(self) -> int:
        return len(self._known)

    def tick(self, _now: float) -> None:
        """Release the heads that have been retained for long enough."""
        self._recent, self._recent_prefixes = [], ()
        self._retained.append(self._recent)
        self._unknown = _NO_HEAD

    def postpone(self, _lost: float, now: float) -> None:
        """Release them after a standstill as well."""
        self.tick(now)

    def find(self, data: bytes) -> tuple[RepeatedHead, Match] | None:
        """Return the head that *data* begins with, if a connection has received an equal one."""
        if data.startswith(self._recent_prefixes):
            for recent in self._recent:
                match = recent.match(data)
                if match is not None:
                    return recent, match
        head = _head_bytes(data)
        if not head:
            return None
        parts = _split(head)
        known = self._known.get(_key(parts))
        if known is None:
            self._unknown = _SplitHead(head, parts)
            return None
        match = known.match(data)
        if match is None:
            return None
        self._retain(known)
        return known, match

    def _retain(self, known: RepeatedHead) -> None:
        if len(self._recent) < MAX_RETAINED:
            self._recent.append(known)
            self._recent_prefixes += (known.prefix,)

    def validated(
        self,
        read: bytes,
        method: bytes,
        target: bytes,
        version: str,
        headers: Headers,
        keep_alive: bool,
    ) -> tuple[RequestHead, RepeatedHead | None]:
        """Return the validated head, from the cache if an equal one is known.

        :param read: the bytes of one read that begin with the head, or no bytes if the head does
            not stand at the beginning of a read.
        :returns: the head, and how to recognise it, unless the head cannot be recognised.
        :raises ProxyError: as :meth:`.RequestHead.validated`.
        """
        split = self._unknown  # by `find`, which usually precedes; a split takes 3 µs
        head_bytes = _head_bytes(read)
        parts = split.parts if split.head == head_bytes else _split(head_bytes)
        key = _key(parts)
        known = self._known.get(key)
        if known is not None and known.match(read) is not None:
            return known.head, known
        head = RequestHead.validated(method, target, version, headers, keep_alive)
        memory = self._memory
        size = _counted_memory(head)
        if not _is_recognisable(head, headers, parts) or (size and memory.is_tight):
            head.memory_bytes = size
            return head, None
        head.drop_values()
        known = self._known[key] = RepeatedHead(head, _pieces(parts))
        self._retain(known)
        if size:
            memory.change(size)
            finalize(known, memory.change, -size).atexit = False
        return head, known


def _head_bytes(data: bytes) -> bytes:
    """Return the head that *data* begins with; nothing if it is incomplete or too large."""
    size = data.find(b"\r\n\r\n") + 4
    return b"" if size > MAX_REPEATED_HEAD_BYTES or size < 4 else data[:size]


def _split(head: bytes) -> list[bytes]:
    """Split *head* at its variable fields: text, start of a line, value, text, and so on."""
    return _VARIABLE_LINES.split(head)


def _key(parts: list[bytes]) -> tuple[bytes, ...]:
    """Return all but the values. Heads with equal keys may differ where a value is fixed."""
    key = parts.copy()
    del key[2::3]
    return tuple(key)


def _pieces(parts: list[bytes]) -> tuple[bytes, ...]:
    """Return the bytes around the values."""
    before = zip(parts[::3], parts[1::3], strict=False)
    return (*[text + b"\r\n" + start for text, start in before], parts[-1])


def _is_recognisable(head: RequestHead, headers: Headers, parts: list[bytes]) -> bool:
    """Return whether *head* can be recognised by the bytes around its variable fields.

    Not if only some of the fields at which it is split are variable: one of them is repeated, or
    its value is large.
    """
    values = tuple(parts[2::3])
    return (
        len(parts[0]) > 0
        and values == head.values(headers)
        and all(values)
        and not (head.chunked or head.expects_continue or b"upgrade" in head.fields)
    )


def _counted_memory(head: RequestHead) -> int:
    size = head.estimated_memory()
    return size if size > MAX_UNCOUNTED_BYTES else 0
