"""Before step one: a name for each request, in the answer and in the log.

It is the client's own ``X-Request-Id``, if that is of visible ASCII, of 128 characters at most, and
does not look like a credential; else one of ours, which no other request has.
"""

from __future__ import annotations

import re
from itertools import count

from goproxyai.http11.exchange import Exchange
from goproxyai.policy.redaction import masked

_GOOD = re.compile(rb"[\x21-\x7e]{1,128}")


class Names:
    """Gives them.

    :param start: what ours begin with; no other process has it.
    """

    def __init__(self, start: bytes) -> None:
        self._start = start + b"-"
        self._next = count(1).__next__

    def name(self, exchange: Exchange) -> bytes:
        """The name of *exchange*."""
        head = exchange.head
        hole = head.named.get(b"x-request-id")
        given = head.fields.get(b"x-request-id") if hole is None else exchange.values[hole]
        if given is not None and _GOOD.fullmatch(given):
            text = given.decode("ascii")
            if masked(text) == text:
                return given
        return b"%b%x" % (self._start, self._next())
