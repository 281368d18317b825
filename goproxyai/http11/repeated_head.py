"""Recognise a request head by its bytes.

Clients repeat themselves: the hundredth request of an SDK on a connection has the head of the first
except for the values of variable fields (:data:`~.request_head.VARIABLE_FIELDS`). So

1. llhttp parses a head once and :meth:`.RequestHead.validated` checks it once. Both are pure
   functions of its bytes.
2. A parser keeps the :class:`RepeatedHead` of the last request and compares the bytes around the
   variable fields with those of the next one. The value of a variable field is checked more
   strictly than llhttp would; a head that does not match goes to llhttp.
3. Connections whose clients send the same head share one object (:class:`RepeatedHeadCache`). A
   head holds credentials, as the connections do, so the object lives no longer than the last of
   these connections.

A hit takes 11 µs with this module and 53 µs without, since all that is derived from a head
(:attr:`.RequestHead.plan`) is derived once as well (``bench/inside.py``).
"""

from __future__ import annotations

import re
from weakref import WeakValueDictionary, finalize

from goproxyai.http11.request_head import (
    MAX_VARIABLE_BYTES,
    FieldValues,
    RequestHead,
    variable_lines,
)
from goproxyai.limits.request_memory import RequestMemory
from goproxyai.messages.headers import Headers

MAX_REPEATED_HEAD_BYTES = 8 * 1024
"""Bytes of a head that is remembered."""

MAX_UNCOUNTED_BYTES = 8 * 1024
"""Memory of a head that is small enough not to be counted: that of an SDK takes 5 KB."""

MAX_LENGTH_DIGITS = 15
"""Digits of a ``Content-Length`` that is read without llhttp."""

_VARIABLE = b"\0"  # stands for the value of a variable field; llhttp refuses a NUL in a head
# A value that is read without llhttp: at most MAX_VARIABLE_BYTES.
_VALUE = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]{0,%d}[\x21-\x7e])?" % (MAX_VARIABLE_BYTES - 2))


class RepeatedHead:
    """A head, and the bytes around the values of its variable fields.

    :param pieces: these bytes, in order: one more than there are variable fields.
    """

    __slots__ = (
        "__weakref__", "_between", "_length_follows", "_prefix", "_text_indexes", "head",
    )  # fmt: skip

    def __init__(self, head: RequestHead, pieces: tuple[bytes, ...]) -> None:
        self.head = head
        self._prefix = pieces[0]
        self._between = pieces[1:]
        self._text_indexes = tuple(
            [index for index in head.variable_lines.values() if index != head.length_index]
        )
        # In most heads Content-Length alone is variable: the bytes after its value, or None.
        only_length = len(self._between) == 1 and not self._text_indexes
        self._length_follows = self._between[0] if only_length else None

    def match(self, data: bytes) -> tuple[int, int, FieldValues] | None:
        """Match the beginning of *data*.

        :returns: the offset and the length of the body, and the values of the variable fields;
            ``None`` if *data* does not begin with this head.
        """
        prefix = self._prefix
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

    def _match_values(self, data: bytes, at: int) -> tuple[int, int, FieldValues] | None:
        values: list[bytes] = []
        for piece in self._between:
            end = data.find(b"\r", at)
            if not data.startswith(piece, end) or end < 0:
                return None
            values.append(data[at:end])
            at = end + len(piece)
        for index in self._text_indexes:
            if _VALUE.fullmatch(values[index]) is None:
                return None
        length_index = self.head.length_index
        if length_index < 0:
            return at, 0, tuple(values)
        digits = values[length_index]
        if len(digits) > MAX_LENGTH_DIGITS or not digits.isdigit():
            return None
        return at, int(digits), tuple(values)


class RepeatedHeadCache:
    """The repeated heads of all connections, by the bytes around their variable fields.

    The cache keeps no head alive: the memory is that of the connections. A head that takes more
    than :data:`MAX_UNCOUNTED_BYTES` is counted in the budget, and is not remembered while the
    budget is tight.
    """

    def __init__(self, memory: RequestMemory) -> None:
        self._memory = memory
        self._known: WeakValueDictionary[tuple[bytes, ...], RepeatedHead] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._known)

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
        pieces = _pieces(read, method, headers) if read and keep_alive else None
        if pieces is None:
            head = RequestHead.validated(method, target, version, headers, keep_alive)
            head.memory_bytes = _counted_memory(head)
            return head, None
        known = self._known.get(pieces)
        if known is not None:
            return known.head, known
        head = RequestHead.validated(method, target, version, headers, keep_alive)
        memory = self._memory
        size = _counted_memory(head)
        if (
            head.chunked
            or head.expects_continue
            or b"upgrade" in head.fields
            or (size and memory.is_tight)
        ):
            head.memory_bytes = size
            return head, None
        head.drop_values()
        known = self._known[pieces] = RepeatedHead(head, pieces)
        if size:
            memory.change(size)
            finalize(known, memory.change, -size).atexit = False
        return head, known


def _counted_memory(head: RequestHead) -> int:
    size = head.estimated_memory()
    return size if size > MAX_UNCOUNTED_BYTES else 0


def _pieces(read: bytes, method: bytes, headers: Headers) -> tuple[bytes, ...] | None:
    """Return the bytes around the variable fields of the head that *read* begins with.

    ``None`` if the head is too large, or if a line is not written as ``name: value``.
    """
    size = read.find(b"\r\n\r\n") + 4
    if size < 4 or size > MAX_REPEATED_HEAD_BYTES or not read.startswith(method + b" "):
        return None
    lines = read[:size].split(b"\r\n")
    if len(lines) != len(headers) + 3:
        return None
    repeated = len({name.lower() for name, _ in headers}) < len(headers)
    variable = variable_lines(headers, repeated)
    for index in variable:
        name, value = headers[index]
        line = lines[index + 1]
        before = line[: len(line) - len(value)]
        if not value or before.rstrip(b" \t") != name + b":" or not line.endswith(value):
            return None
        lines[index + 1] = before + _VARIABLE
    pieces = b"\r\n".join(lines).split(_VARIABLE)
    return tuple(pieces) if len(pieces) == len(variable) + 1 else None
