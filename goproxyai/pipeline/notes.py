"""What the pipeline works out about a request's head, once while a client repeats it."""

from __future__ import annotations

from goproxyai.egress.routes import Route
from goproxyai.http11.framing import lines
from goproxyai.http11.head import Head
from goproxyai.policy.cachekey import begun_key, credential
from goproxyai.policy.freshness import bypass_reason, request_directives
from goproxyai.policy.headers import Headers, forwarded, via_names_us

_VIA = (b"Via", b"1.1 goproxyai")


class Notes:
    """All of it holds for every request with that head, whatever its length.

    :param route: to upstream. :param base: stands before the target there.
    :ivar path: of the target, without the query.
    :ivar reason: why the cache is left aside, ``None`` where it is not.
    :ivar directives: of ``Cache-Control``.
    :ivar credential: names whose request it is, see :func:`~goproxyai.policy.cachekey.credential`.
    :ivar looped: whether the request has passed through us before.
    """

    __slots__ = (
        "_before", "_behind", "_key", "credential", "directives", "looped", "path", "reason",
    )  # fmt: skip

    def __init__(self, head: Head, route: Route, base: bytes) -> None:
        headers, fields = head.headers, head.fields
        self.path = head.target.partition(b"?")[0]
        self.reason = bypass_reason(head.method, self.path, fields)
        self.directives = request_directives(fields)
        if self.reason is None and self.directives.no_store:
            self.reason = "no-store"
        self._key = begun_key(head.method, head.target, fields, headers, head.repeated)
        self.credential = credential(fields)
        self.looped = via_names_us(fields)
        start = route.head(head.method, base + head.target)
        kept: Headers = [*forwarded(headers, fields), _VIA]
        at = head.length_at
        if at < 0:
            self._before, self._behind = start + lines(kept), b""
        else:
            name = headers[at][0]
            split = [other for other, _ in kept].index(name)
            self._before = b"%b%b%b: " % (start, lines(kept[:split]), name)
            self._behind = b"\r\n" + lines(kept[split + 1 :])

    def key(self, body: bytes) -> bytes:
        """What the answer to a request with that head and *body* is stored under."""
        digest = self._key.copy()
        digest.update(body)
        key: bytes = digest.digest()
        return key

    def forwarded(self, digits: bytes) -> bytes:
        """The head that goes upstream, without the blank line that ends it.

        :param digits: of the request's ``Content-Length``.
        """
        return b"%b%b%b" % (self._before, digits, self._behind)
