"""The ``traceparent`` field of W3C Trace Context (https://www.w3.org/TR/trace-context-2/).

1. The field has version 00, or a later version that begins in the same way. Version ``ff`` is
   invalid.
2. The IDs are lower-case hexadecimal digits and not all zero.
3. An invalid or repeated field is ignored: the request starts a new trace.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SAMPLED: Final = 0x01
"""The sender may have recorded the span."""

RANDOM: Final = 0x02
"""The trace ID is random; the flag is passed on with the trace."""

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?![^-])")
_VERSION_00_BYTES = 55


class TraceParent(NamedTuple):
    """A reference to a span.

    :ivar trace_id: 128 bits, not 0.
    :ivar span_id: 64 bits, not 0.
    :ivar flags: :data:`SAMPLED` and :data:`RANDOM`; other flags are cleared.
    """

    trace_id: int
    span_id: int
    flags: int

    def header_line(self) -> bytes:
        """Return the header line that makes the span the parent of the receiver's span."""
        return b"traceparent: 00-%032x-%016x-%02x\r\n" % self


def parse_traceparent(value: bytes | None) -> TraceParent | None:
    """Parse the value of ``traceparent``; ``None`` if the value is invalid.

    :param value: as received; the values of repeated lines are joined.
    """
    if value is None:
        return None
    value = value.strip(b" \t")
    found = _TRACEPARENT.match(value)
    if (
        found is None
        or found[1] == b"ff"
        or (found[1] == b"00" and len(value) != _VERSION_00_BYTES)
    ):
        return None
    trace_id, span_id, flags = [int(part, 16) for part in found.groups()[1:]]
    if not trace_id or not span_id:
        return None
    return TraceParent(trace_id, span_id, flags & (SAMPLED | RANDOM))
