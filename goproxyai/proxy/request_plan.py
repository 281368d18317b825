"""What the pipeline works out about a request's head, once while a client repeats it."""

from __future__ import annotations

from typing import Final

import attrs

from goproxyai.cache.coalescing import shares
from goproxyai.cache.directives import request_directives, wanted_ttl, wants_pace
from goproxyai.cache.key import begun_key, credential
from goproxyai.cache.rules import bypass_reason, in_namespace, is_write
from goproxyai.cache.store import COMPUTED
from goproxyai.http11.request_head import FieldValues, RequestHead
from goproxyai.messages.headers import forwarded, via_names_us
from goproxyai.proxy.upstreams import Upstream
from goproxyai.usage.usage import generates

_VIA = b"Via: 1.1 goproxyai\r\n"

SHARED: Final = b"everybody's"
"""The owner of the answers in a shared namespace."""


@attrs.frozen
class ProxyOptions:
    """What holds for all requests.

    :ivar upstream: who is asked before all others.
    :ivar shared: the namespaces whose answers all credentials share.
    :ivar sharing: who shares upstream requests, see :mod:`goproxyai.cache.coalescing`.
    :ivar ttl: seconds that an answer is kept.
    :ivar most_ttl: seconds that a request may ask for.
    :ivar retry_status: answers that are asked for again, where that does no harm.
    :ivar patience: seconds after which nothing is asked for again.
    :ivar cached: whether answers are kept at all.
    :ivar traced: whether requests go on with a ``traceparent`` of ours.
    """

    upstream: Upstream
    shared: tuple[str, ...] = ()
    sharing: str = "deterministic"
    ttl: float = 0.0
    most_ttl: float = 0.0
    retry_status: frozenset[int] = frozenset()
    patience: float = 30.0
    cached: bool = True
    traced: bool = False


class RequestPlan:
    """All of it holds for every request with that head, whatever fills its holes.

    :ivar terms: those that it was worked out by; under others it holds no longer.
    :ivar path: of the target, without the query.
    :ivar reason: why the cache is left aside, ``None`` where it is not.
    :ivar directives: of ``Cache-Control``.
    :ivar ttl: seconds that the answer is kept.
    :ivar paced: whether a stored stream is to come as it came first.
    :ivar shared: whether all credentials share the answer.
    :ivar shares: whether it may be shared while it comes, ``None`` where the body decides.
    :ivar owner: whose writes drop the answer: of a credential, :data:`SHARED`, or nobody's
        (:data:`~goproxyai.cache.store.COMPUTED`).
    :ivar writes_to: the owners whose answers a write drops: what is shared, and one's own above it.
    :ivar generates: whether it is billed by what its answer says.
    :ivar is_get: whether the method is GET.
    :ivar writes: whether it changes what GETs answer.
    :ivar looped: whether the request has passed through us before.
    """

    __slots__ = (
        "_cut", "_key", "_line", "_template", "_used", "directives", "generates", "is_get",
        "looped", "owner", "paced", "path", "reason", "shared", "shares", "terms", "ttl", "writes",
        "writes_to",
    )  # fmt: skip

    def __init__(self, head: RequestHead, terms: ProxyOptions) -> None:
        self.terms = terms
        headers, fields, method = head.headers, head.fields, head.method
        path = self.path = head.target.partition(b"?")[0]
        self.reason = bypass_reason(method, path, fields) if terms.cached else "off"
        self.directives = request_directives(fields)
        if self.reason is None and self.directives.no_store:
            self.reason = "no-store"
        ttl = wanted_ttl(fields)
        self.ttl = min(ttl, terms.most_ttl) if ttl is not None and terms.most_ttl else terms.ttl
        self.paced = wants_pace(fields)
        self.generates = generates(method, path)
        self.is_get = method == b"GET"
        self.writes = is_write(method, path)
        self.shared = in_namespace(path, terms.shared)
        self.shares = shares(terms.sharing, method, path)
        own = credential(fields)
        self.writes_to = (SHARED, own) if self.shared else (own,)
        self.owner = self.writes_to[0] if self.is_get else COMPUTED
        self._key = begun_key(method, head.target, fields, headers, head.repeated, self.shared)
        self.looped = via_names_us(fields)
        holes = {headers[position][0]: hole for position, hole in head.variable_lines.items()}
        kept = forwarded(headers, fields)
        if terms.traced:
            kept = [pair for pair in kept if pair[0].lower() != b"traceparent"]
        self._line = method, head.target
        start = self._start(terms.upstream)
        self._cut = len(start)
        self._template = b"%b%b%b" % (
            start,
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

    def _start(self, upstream: Upstream) -> bytes:
        """The template's beginning, which depends on who is asked."""
        method, target = self._line
        return _escaped(upstream.route.head(method, upstream.base + target))

    def forwarded(self, values: FieldValues, upstream: Upstream) -> bytes:
        """The head that goes to *upstream*, without the blank line that ends it.

        :param values: what fills the holes of the request's head.
        """
        if self._used is not None:  # its Connection keeps some on this hop
            values = tuple([values[hole] for hole in self._used])
        if upstream.rank:
            return (self._start(upstream) + self._template[self._cut :]) % values
        return self._template % values


def _escaped(text: bytes) -> bytes:
    return text.replace(b"%", b"%%")
