"""What the pipeline works out about a request's head, once while a client repeats it."""

from __future__ import annotations

from goproxyai.http11.exchange import Exchange
from goproxyai.http11.framing import lines
from goproxyai.policy.cachekey import begun_key, credential
from goproxyai.policy.freshness import bypass_reason, request_directives
from goproxyai.policy.headers import Headers, forwarded, via_names_us

_VIA = (b"Via", b"1.1 goproxyai")


class Notes:
    """All of it holds for every request with that head, whatever its length.

    :ivar path: of the target, without the query.
    :ivar reason: why the cache is left aside, ``None`` where it is not.
    :ivar directives: of ``Cache-Control``.
    :ivar credential: names whose request it is, see :func:`~goproxyai.policy.cachekey.credential`.
    :ivar looped: whether the request has passed through us before.
    """

    __slots__ = (
        "_before", "_behind", "_key", "credential", "directives", "looped", "path", "reason",
    )  # fmt: skip

    def __init__(self, exchange: Exchange) -> None:
        head = exchange.head
        headers, fields = head.headers, head.fields
        self.path = head.target.partition(b"?")[0]
        self.reason = bypass_reason(head.method, self.path, fields)
        self.directives = request_directives(fields)
        if self.reason is None and self.directives.no_store:
            self.reason = "no-store"
        self._key = begun_key(head.method, head.target, fields, headers, head.repeated)
        self.credential = credential(fields)
        self.looped = via_names_us(fields)
        kept: Headers = [*forwarded(headers, fields), _VIA]
        at = head.length_at
        if at < 0:
            self._before, self._behind = lines(kept), b""
        else:
            name = headers[at][0]
            split = [other for other, _ in kept].index(name)
            self._before = b"%b%b: " % (lines(kept[:split]), name)
            self._behind = b"\r\n" + lines(kept[split + 1 :])

    def key(self, body: bytes) -> bytes:
        """What the answer to a request with that head and *body* is stored under."""
        digest = self._key.copy()
        digest.update(body)
        key: bytes = digest.digest()
        return key

    def forwarded_lines(self, digits: bytes) -> bytes:
        """The header lines that go upstream, but for ``Host``."""
        return b"%b%b%b" % (self._before, digits, self._behind)


def notes_on(exchange: Exchange) -> Notes:
    """The notes on the head of *exchange*, made if there are none yet."""
    head = exchange.head
    notes: Notes | None = head.notes
    if notes is None:
        notes = head.notes = Notes(exchange)
    return notes
