"""Before step one: a name for each request, in the answer and in the log.

It is the client's own ``X-Request-Id``, if that is of visible ASCII, of 128 characters at most, and
does not look like a credential; else one of ours, which no other request has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from goproxyai.http11.exchange import Exchange
from goproxyai.policy.redaction import masked

_ENDS = tuple([b"%02x" % number for number in range(256)])
_GOOD = re.compile(rb"[\x21-\x7e]{1,128}")


class Names:
    """Gives them.

    :param start: what ours begin with; no other process has it.
    """

    def __init__(self, start: bytes) -> None:
        self._next = _numbered(start + b"-").__next__

    def name(self, exchange: Exchange) -> bytes:
        """The name of *exchange*."""
        if b"x-request-id" in exchange.head.fields:
            given = exchange.get(b"x-request-id")
            if given is not None and _GOOD.fullmatch(given):
                text = given.decode("ascii")
                if masked(text) == text:
                    return given
        return self._next()


def _numbered(start: bytes) -> Iterator[bytes]:
    """*start* and a number, again and again; half as long as formatting each takes."""
    for block in count():
        beginning = b"%b%x" % (start, block)
        for end in _ENDS:
            yield beginning + end
