"""What the proxy derives from a request's head.

A client repeats its head with every request, so the plan is kept with the parsed head and serves
all requests that differ only in the variable fields. Their values count towards the bytes of
neutral fields (:data:`~goproxyai.cache.request_fields.MAX_NEUTRAL_BYTES`), so a plan says how many
bytes they may have.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Final

import attrs

from goproxyai.cache.coalescing import may_coalesce
from goproxyai.cache.directives import (
    Directives,
    request_directives,
    requested_ttl,
    wants_paced_replay,
)
from goproxyai.cache.key import credential_id, start_cache_key
from goproxyai.cache.post_paths import STANDARD_POST_PATHS, PostPaths
from goproxyai.cache.request_fields import (
    NOTHING_IGNORED,
    IgnoredFields,
    JudgedFields,
    judge_sizes,
)
from goproxyai.cache.rules import ERROR_STATUSES, in_namespace, judge_request
from goproxyai.cache.stateless_responses import RESPONSES_PATH
from goproxyai.cache.verdict import answer_check
from goproxyai.cache.write_log import UNOWNED
from goproxyai.cache.writes import (
    asks_to_store,
    is_write,
    owner_of,
    stores_by_default,
    written_owners,
)
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_body import RequestBody, WholeBody
from goproxyai.http11.request_head import FieldValues, RequestHead
from goproxyai.messages.headers import (
    is_forwarding_loop,
    request_headers_for_upstream,
    via_value,
)
from goproxyai.messages.websocket import UPGRADE_LINES, is_handshake
from goproxyai.proxy.upstreams import Upstream
from goproxyai.usage.usage import generates

UPGRADE: Final = "upgrade"
"""The bypass reason of a WebSocket handshake."""

SHARED_OWNER: Final = b"shared"
"""Stands for the credential of the entries in a namespace that all credentials share."""


_OFF = JudgedFields("off")
_NO_STORE = JudgedFields("no-store")


@attrs.frozen
class ProxyOptions:
    """The settings that apply to every request.

    :ivar first_upstream: the preferred upstream, whose request line is prepared in the plan.
    :ivar instance: names this process in the ``Via`` of forwarded requests; unique.
    :ivar shared_namespaces: paths below ``/v1/`` whose entries all credentials share.
    :ivar coalesce: which requests share an upstream request: see
        :data:`goproxyai.cache.coalescing.COALESCE_MODES`.
    :ivar ttl: lifetime of an entry in seconds.
    :ivar max_ttl: longest lifetime in seconds that a request may ask for; 0 allows none.
    :ivar error_ttl: longest lifetime in seconds of an error's entry; 0 stores none.
    :ivar post_paths: the POSTs that may be answered from the cache.
    :ivar ignored_fields: request fields that the operator declared as without effect.
    :ivar upgrades: WebSocket handshakes are relayed, and not refused.
    :ivar retry_status: statuses that are retried where that is safe.
    :ivar retry_seconds: seconds after a request's head within which it may be retried.
    :ivar post_retry_seconds: the same for a POST.
    :ivar caches: responses are stored and looked up.
    :ivar traces: forwarded requests get a ``traceparent`` of the proxy's own.
    """

    first_upstream: Upstream
    instance: bytes
    shared_namespaces: tuple[str, ...] = ()
    coalesce: str = "deterministic"
    ttl: float = 0.0
    max_ttl: float = 0.0
    retry_status: frozenset[int] = frozenset()
    retry_seconds: float = 30.0
    post_retry_seconds: float = 600.0
    caches: bool = True
    traces: bool = False
    error_ttl: float = 10.0
    post_paths: PostPaths = STANDARD_POST_PATHS
    ignored_fields: IgnoredFields = NOTHING_IGNORED
    upgrades: bool = True


class UpstreamHead:
    """Makes the head that is sent upstream from the variable fields of a request's head."""

    __slots__ = ("_is_handshake", "_request_line", "_start_bytes", "_template", "_used_fields")

    def __init__(self, head: RequestHead, options: ProxyOptions, is_handshake: bool) -> None:
        self._request_line = head.method, head.target
        self._is_handshake = is_handshake
        start = self._start(options.first_upstream)
        self._start_bytes = len(start)
        headers = head.headers
        variable = {headers[line][0]: index for line, index in head.variable_lines.items()}
        kept = request_headers_for_upstream(headers, head.fields)
        if options.traces:
            kept = [pair for pair in kept if pair[0].lower() != b"traceparent"]
        lines = [
            b"%b: %b\r\n" % (_escaped(name), b"%b" if name in variable else _escaped(value))
            for name, value in kept
        ]
        via = _escaped(via_value(options.instance))
        if is_handshake:
            lines.append(UPGRADE_LINES)
        self._template = b"%b%bVia: %b\r\n" % (start, b"".join(lines), via)
        # Indexes of the variable fields that are sent; `Connection` may keep some on this hop.
        used = [variable[name] for name, _ in kept if name in variable]
        self._used_fields = used if len(used) < len(variable) else None

    def _start(self, upstream: Upstream) -> bytes:
        """Return the part of the template that depends on the upstream."""
        method, target = self._request_line
        route = upstream.handshake_route if self._is_handshake else upstream.route
        return _escaped(route.head(method, upstream.base + target))

    def render(self, values: FieldValues, upstream: Upstream) -> bytes:
        """Return the head that is sent to *upstream*, without the final blank line.

        :param values: the variable fields of the request's head.
        """
        if self._used_fields is not None:
            values = tuple([values[index] for index in self._used_fields])
        if upstream.rank:
            return (self._start(upstream) + self._template[self._start_bytes :]) % values
        return self._template % values


class RequestPlan:
    """What a request's head decides, for given options.

    :ivar options: the options that the plan was made for.
    :ivar path: the target's path, without the query.
    :ivar entry_path: the path that a clearing finds the entry by, see
        :meth:`goproxyai.cache.store.Store.put`.
    :ivar bypass_reason: why the cache is bypassed; ``None`` where it is used.
    :ivar bypass_field: see :class:`~goproxyai.cache.request_fields.JudgedFields`.
    :ivar body_decides: the body may be a reason to bypass the cache:
        :func:`~goproxyai.cache.stateless_responses.state_bypass` says so.
    :ivar counted_fields: the variable fields whose values count towards the bytes of neutral
        fields: lower-cased name to index.
    :ivar directives: the request's ``Cache-Control``.
    :ivar ttl: lifetime of the entry in seconds.
    :ivar replays_timing: a stored stream is replayed with its original timing.
    :ivar across_credentials: all credentials share the entry.
    :ivar coalesces: the request may share an upstream request; ``None`` where its body decides.
    :ivar owner: the owner whose writes drop the entry, or
        :data:`~goproxyai.cache.write_log.UNOWNED`.
    :ivar answer_check: checks the shape that an answer must have to be stored.
    :ivar stores_by_default: whether upstream keeps the response if the body does not have
        ``store``; ``None`` where that is not for the body to decide.
    :ivar generates: a successful response reports token usage.
    :ivar is_loop: see :func:`~goproxyai.messages.headers.is_forwarding_loop`.
    :ivar is_handshake: see :func:`~goproxyai.messages.websocket.is_handshake`.
    :ivar is_refused: the request is not relayed: a loop, or a handshake where none is relayed.
    :ivar upstream_head: makes the head that is sent upstream; ``None`` before the first request is
        forwarded, since a hit of a head that no client repeats needs none.
    """

    __slots__ = (
        "_key", "_oversized", "_sizes", "_spare_bytes", "_written_owners", "across_credentials",
        "answer_check", "body_decides", "bypass_field", "bypass_reason", "coalesces",
        "counted_fields", "directives", "entry_path", "generates", "is_get", "is_handshake",
        "is_loop", "is_refused", "options", "owner", "path", "replays_timing",
        "stores_by_default", "ttl", "upstream_head",
    )  # fmt: skip

    def __init__(self, head: RequestHead, options: ProxyOptions) -> None:
        self.options = options
        headers, fields, method = head.headers, head.fields, head.method
        path = self.path = head.target.partition(b"?")[0]
        self.entry_path = path.rstrip(b"/")
        # A POST under another prefix than /v1/ is judged as the one that it corresponds to.
        api_path = path
        if method == b"POST":
            api_path = options.post_paths.standard_path(path) or path
        self.body_decides = api_path == RESPONSES_PATH and method == b"POST"
        self.directives = request_directives(fields)
        judged = _judge(head, path, options, self.directives)
        self.bypass_reason, self.bypass_field = judged.reason, judged.field
        self.counted_fields = {
            name: index for name, index in head.variable_fields.items() if name in judged.sizes
        }
        self._sizes = judged.sizes
        self._spare_bytes = judged.spare_bytes if self.counted_fields else 0
        self._oversized: RequestPlan | None = None
        self.is_handshake = is_handshake(method, head.version, fields)
        if self.is_handshake:
            self.bypass_reason, self.bypass_field = UPGRADE, b""
        ttl = requested_ttl(fields)
        self.ttl = min(ttl, options.max_ttl) if ttl is not None and options.max_ttl else options.ttl
        self.replays_timing = wants_paced_replay(fields)
        self.generates = generates(method, api_path)
        self.is_get = method == b"GET"
        self.answer_check = answer_check(self.is_get, api_path)
        self.across_credentials = in_namespace(path, options.shared_namespaces)
        self.coalesces = may_coalesce(options.coalesce, method, api_path)
        own = credential_id(fields)
        entry_owner = SHARED_OWNER if self.across_credentials else own
        self.owner = owner_of(entry_owner, path) if self.is_get else UNOWNED
        self.stores_by_default = stores_by_default(method, path)
        self._written_owners: tuple[bytes, ...] = ()
        if is_write(method, path):
            self._written_owners = written_owners(own, path)
            if options.shared_namespaces:
                self._written_owners += written_owners(SHARED_OWNER, path)
        self._key = start_cache_key(
            method, head.target, fields, headers, head.repeated, self.across_credentials
        )
        self.is_loop = is_forwarding_loop(fields, options.instance)
        self.is_refused = self.is_loop or (self.is_handshake and not options.upgrades)
        self.upstream_head: UpstreamHead | None = None

    def for_values(self, values: FieldValues) -> RequestPlan:
        """Return this plan, or one that bypasses the cache if neutral fields are too large.

        :param values: the variable fields of the request's head.
        """
        counted = self.counted_fields
        if not counted or self.bypass_reason is not None:
            return self
        if sum([len(values[index]) for index in counted.values()]) <= self._spare_bytes:
            return self
        made = self._oversized
        if made is None:
            sizes = dict(self._sizes)
            for name, index in counted.items():
                sizes[name] += len(values[index])
            judged = judge_sizes(sizes)
            made = self._oversized = copy(self)
            made.bypass_reason, made.bypass_field = judged.reason, judged.field
        return made

    def make_upstream_head(self, head: RequestHead) -> UpstreamHead:
        """Make :attr:`upstream_head`.

        :param head: that the plan was made of.
        """
        made = self.upstream_head = UpstreamHead(head, self.options, self.is_handshake)
        return made

    def written_owners(self, body: RequestBody | WholeBody) -> tuple[bytes, ...]:
        """Return the owners whose entries a successful request drops; none unless it is a write.

        :param body: of the request; it counts as that of a write if it is not complete.
        """
        default = self.stores_by_default
        if default is None or not body.complete or asks_to_store(body.whole(), default):
            return self._written_owners
        return ()

    def ttl_of(self, status: int) -> float:
        """Return the lifetime in seconds of an entry with *status*."""
        if status in ERROR_STATUSES:
            return min(self.ttl, self.options.error_ttl)
        return self.ttl

    def start_key(self) -> Any:
        """Return a hash object; updated with the body, its digest is the cache key."""
        return self._key.copy()

    def key(self, body: bytes) -> bytes:
        """Return the cache key of a request with this head and *body*."""
        digest = self._key.copy()
        digest.update(body)
        key: bytes = digest.digest()
        return key


def plan_for(exchange: Exchange, options: ProxyOptions) -> RequestPlan:
    """Return the plan of the request, made anew where the options have changed."""
    head = exchange.head
    plan = head.plan
    if not isinstance(plan, RequestPlan) or plan.options is not options:
        plan = head.plan = RequestPlan(head, options)
    return plan.for_values(exchange.values) if plan.counted_fields else plan


def _judge(
    head: RequestHead, path: bytes, options: ProxyOptions, directives: Directives
) -> JudgedFields:
    """Judge a head, with empty values of its variable fields."""
    if not options.caches:
        return _OFF
    judged = judge_request(
        head.method, path, head.fixed_fields, options.post_paths, options.ignored_fields
    )
    return _NO_STORE if judged.reason is None and directives.no_store else judged


def _escaped(text: bytes) -> bytes:
    return text.replace(b"%", b"%%")
