"""What the pipeline works out about a request's head, once while a client repeats it."""

from __future__ import annotations

from goproxyai.egress.routes import Route
from goproxyai.http11.head import Head, Holes
from goproxyai.policy.cachekey import begun_key, credential
from goproxyai.policy.freshness import bypass_reason, request_directives
from goproxyai.policy.headers import forwarded, via_names_us

_VIA = b"Via: 1.1 goproxyai\r\n"


class Notes:
    """All of it holds for every request with that head, whatever fills its holes.

    :param route: to upstream. :param base: stands before the target there.
    :ivar path: of the target, without the query.
    :ivar reason: why the cache is left aside, ``None`` where it is not.
    :ivar directives: of ``Cache-Control``.
    :ivar credential: names whose request it is, see :func:`~goproxyai.policy.cachekey.credential`.
    :ivar looped: whether the request has passed through us before.
    """

    __slots__ = (
        "_key", "_template", "_used", "credential", "directives", "looped", "path", "reason",
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
        holes = {headers[position][0]: hole for position, hole in head.holes.items()}
        kept = forwarded(headers, fields)
        self._template = b"%b%b%b" % (
            _escaped(route.head(head.method, base + head.target)),
            b"".join(
                [
                    b"%b: %b\r\n" % (_escaped(name), b"%b" if name in holes else _escaped(value))
                    for name, value in kept
                ]
            ),
            _VIA,
        )
        used = [holes[name] for name, _ in kept if name in holes]
        self._used = used if len(used) < len(holes) else None

    def key(self, body: bytes) -> bytes:
        """What the answer to a request with that head and *body* is stored under."""
        digest = self._key.copy()
        digest.update(body)
        key: bytes = digest.digest()
        return key

    def forwarded(self, values: Holes) -> bytes:
        """The head that goes upstream, without the blank line that ends it.

        :param values: what fills the holes of the request's head.
        """
        if self._used is not None:  # its Connection keeps some on this hop
            values = tuple([values[hole] for hole in self._used])
        return self._template % values


def _escaped(text: bytes) -> bytes:
    return text.replace(b"%", b"%%")
