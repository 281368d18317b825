r"""Before step one: a name for each request, in the answer and in the log.

It is the client's own ``X-Request-Id``, if that is of visible ASCII without ``"`` and ``\``, of 128
characters at most, and does not look like a credential; else one of ours, which no other request
has. So it can stand in JSON as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from typing import Final

from goproxyai.http11.exchange import Exchange
from goproxyai.messages.redaction import mask_credentials

GIVEN: Final = b"x-request-id"
"""The lower-cased field that a client names its request in."""

_ENDS = tuple([b"%02x" % number for number in range(256)])
_GOOD = re.compile(rb"[\x21\x23-\x5b\x5d-\x7e]{1,128}")


class RequestIds:
    """Gives them.

    :param start: what ours begin with; no other process has it.
    :ivar ours: gives one of ours.
    """

    def __init__(self, start: bytes) -> None:
        self.ours = _numbered(start + b"-").__next__

    def given(self, exchange: Exchange) -> bytes:
        """That of an *exchange* whose client gave it one, if it will do."""
        given = exchange.get(GIVEN)
        if given is not None and _GOOD.fullmatch(given):
            text = given.decode("ascii")
            if mask_credentials(text) == text:
                return given
        return self.ours()


def _numbered(start: bytes) -> Iterator[bytes]:
    """*start* and a number, again and again; half as long as formatting each takes."""
    for block in count():
        beginning = b"%b%x" % (start, block)
        for end in _ENDS:
            yield beginning + end
