"""W3C Trace Context: what a ``traceparent`` says (https://www.w3.org/TR/trace-context-2/).

1. One field, of version 00, or of a later one that begins in the same way; ``ff`` is none.
2. Identifiers are of lower-case hexadecimal digits, and not all zero.
3. What is anything else, or came more than once, is as good as none: a new trace begins.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SAMPLED: Final = 0x01
"""Whoever sent it may have recorded it."""

RANDOM: Final = 0x02
"""The trace's id was drawn at random: whoever goes on with the trace says so, too."""

_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?![^-])")
_LENGTH = 55


class TraceParent(NamedTuple):
    """A span, as others name it.

    :ivar trace_id: of 128 bits, not 0. :ivar span_id: of 64, not 0.
    :ivar flags: of those that are known, :data:`SAMPLED` and :data:`RANDOM`.
    """

    trace_id: int
    span_id: int
    flags: int

    def header_line(self) -> bytes:
        """The header line that names it to whoever comes next."""
        return b"traceparent: 00-%032x-%016x-%02x\r\n" % self


def parse_traceparent(value: bytes | None) -> TraceParent | None:
    """The span that the value of a ``traceparent`` names.

    :param value: as received, repeated lines joined.
    """
    if value is None:
        return None
    value = value.strip(b" \t")
    found = _FORM.match(value)
    if found is None or found[1] == b"ff" or (found[1] == b"00" and len(value) != _LENGTH):
        return None
    trace_id, span_id, flags = [int(part, 16) for part in found.groups()[1:]]
    if not trace_id or not span_id:
        return None
    return TraceParent(trace_id, span_id, flags & (SAMPLED | RANDOM))
