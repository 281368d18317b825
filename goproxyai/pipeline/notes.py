"""What the pipeline works out about a request's header, once while a client repeats it."""

from __future__ import annotations

from goproxyai.http11.exchange import Exchange
from goproxyai.http11.framing import lines
from goproxyai.policy.cachekey import begun_key, credential
from goproxyai.policy.freshness import header_reason, request_directives
from goproxyai.policy.headers import Headers, forwarded, via_names_us

_VIA = (b"Via", b"1.1 goproxyai")
_LENGTH = b"content-length"


class Notes:
    """All of it holds for every request with that header, whatever its length.

    :ivar reason: why the cache is left aside, ``None`` where it is not.
    :ivar directives: of ``Cache-Control``.
    :ivar key: the part of the cache key that the header makes.
    :ivar credential: names whose request it is, see :func:`~goproxyai.policy.cachekey.credential`.
    :ivar looped: whether the request has passed through us before.
    """

    __slots__ = (
        "_before",
        "_behind",
        "_name",
        "credential",
        "directives",
        "key",
        "looped",
        "reason",
    )

    def __init__(self, exchange: Exchange) -> None:
        headers, fields = exchange.headers, exchange.fields
        self.reason = header_reason(fields)
        self.directives = request_directives(fields)
        self.key = begun_key(fields, headers, exchange.head.repeated)
        self.credential = credential(fields)
        self.looped = via_names_us(fields)
        kept: Headers = [*forwarded(headers, fields), _VIA]
        at = exchange.head.length_at
        if at < 0:
            self._before, self._name, self._behind = lines(kept), b"", b""
        else:
            name = self._name = headers[at][0]
            split = [other for other, _ in kept].index(name)
            self._before, self._behind = lines(kept[:split]), lines(kept[split + 1 :])

    def forwarded_lines(self, exchange: Exchange) -> bytes:
        """The header lines that go upstream, but for ``Host``."""
        if not self._name:
            return self._before
        length = exchange.headers[exchange.head.length_at][1]
        return b"%b%b: %b\r\n%b" % (self._before, self._name, length, self._behind)


def notes_on(exchange: Exchange) -> Notes:
    """The notes on the header of *exchange*, made if there are none yet."""
    head = exchange.head
    notes: Notes | None = head.notes
    if notes is None:
        notes = head.notes = Notes(exchange)
    return notes
