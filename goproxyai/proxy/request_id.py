r"""The ID of each request, in its response and in the log.

A client's own ``X-Request-Id`` is used if it has at most 128 visible ASCII characters without ``"``
and ``\``, and does not look like a credential. Other requests get a unique ID. So an ID never needs
escaping in JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from typing import Final

from goproxyai.http11.exchange import Exchange
from goproxyai.messages.redaction import mask_credentials

REQUEST_ID_FIELD: Final = b"x-request-id"
"""The lower-cased field in which a client names its request."""

_SUFFIXES = tuple([b"%02x" % number for number in range(256)])
_VALID_ID = re.compile(rb"[\x21\x23-\x5b\x5d-\x7e]{1,128}")


class RequestIds:
    """Makes and checks request IDs.

    :param prefix: the start of every generated ID, unique to this process.
    :ivar generate: returns a new ID.
    """

    def __init__(self, prefix: bytes) -> None:
        self.generate = _numbered(prefix + b"-").__next__

    def of(self, exchange: Exchange) -> bytes:
        """Return the client's own ID where it is valid, else a new one."""
        given = exchange.get(REQUEST_ID_FIELD)
        if given is not None and _VALID_ID.fullmatch(given):
            text = given.decode("ascii")
            if mask_credentials(text) == text:
                return given
        return self.generate()


def _numbered(prefix: bytes) -> Iterator[bytes]:
    """Yield *prefix* with ascending numbers; takes half the time of formatting each."""
    for block in count():
        start = b"%b%x" % (prefix, block)
        for suffix in _SUFFIXES:
            yield start + suffix
