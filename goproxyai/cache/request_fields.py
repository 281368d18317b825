"""Which request fields cannot change a response.

A field of a request is one of

================================================ ==========================================
part of the cache key                            :data:`~goproxyai.cache.key.KEY_FIELDS`
hop-by-hop, or named by ``Connection``           not forwarded (RFC 9110 §7.6.1)
neutral                                          in :data:`NEUTRAL_NAMES`, or begins with one of
                                                 :data:`NEUTRAL_PREFIXES`: forwarded, without an
                                                 effect on the response
ignored                                          as the operator says: :class:`IgnoredFields`
a reason to bypass the cache                     any other: ``Cookie``, ``Origin``, ``Range``,
                                                 conditional requests, ``X-Anything``,
                                                 ``X-Stainless-Poll-Helper``
================================================ ==========================================

Neutral fields over :data:`MAX_NEUTRAL_BYTES` together are a reason to bypass as well: an upstream
that refuses a large header answers 400, and the response would be stored for other clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import attrs

from goproxyai.cache.key import KEY_FIELDS
from goproxyai.messages.headers import HOP_BY_HOP, Fields, is_sent_upstream, nominated_fields

MAX_NEUTRAL_BYTES: Final = 1024
"""Largest size of the neutral fields that are sent upstream.

Counted are the values, and the names that are not in :data:`NEUTRAL_NAMES`; ``Content-Length`` is
not counted.
"""

NEUTRAL_NAMES: Final = frozenset(
    (
        # HTTP and browsers
        b"host", b"user-agent", b"content-length", b"date", b"via", b"from", b"referer",
        b"http-referer", b"x-title", b"dnt", b"priority", b"save-data", b"early-data",
        b"max-forwards", b"upgrade-insecure-requests", b"cache-control", b"pragma", b"expect",
        b"http2-settings",
        # the proxy's own
        b"x-cache-ttl", b"x-cache-replay",
        # SDKs
        b"x-stainless-lang", b"x-stainless-package-version", b"x-stainless-os",
        b"x-stainless-arch", b"x-stainless-runtime", b"x-stainless-runtime-version",
        b"x-stainless-async", b"x-stainless-retry-count", b"x-stainless-read-timeout",
        b"x-stainless-timeout", b"x-stainless-helper-method", b"x-stainless-raw-response",
        # IDs of requests
        b"x-request-id", b"x-client-request-id", b"x-correlation-id", b"x-unique-id",
        b"x-trace-id", b"request-id", b"idempotency-key", b"x-ms-client-request-id",
        b"x-ms-return-client-request-id", b"x-ms-useragent",
        # load balancers, CDNs and platforms
        b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host",
        b"x-forwarded-port", b"x-real-ip", b"true-client-ip", b"client-ip", b"x-client-ip",
        b"x-cluster-client-ip", b"x-scheme", b"x-request-start", b"x-queue-start", b"cdn-loop",
        b"x-amzn-trace-id", b"x-amzn-tls-version", b"x-amzn-tls-cipher-suite",
        b"x-amzn-requestid", b"x-amzn-apigateway-api-id", b"x-cloud-trace-context",
        b"x-varnish", b"x-timer", b"surrogate-capability", b"x-appgw-trace-id",
        b"x-arr-log-id", b"x-arr-ssl",
        b"x-site-deployment-id", b"x-waws-unencoded-url", b"disguised-host",
        b"was-default-hostname", b"connect-time", b"total-route-time", b"x-matched-path",
        # tracers
        b"traceparent", b"tracestate", b"baggage", b"b3", b"sentry-trace", b"newrelic",
        b"uber-trace-id", b"jaeger-debug-id", b"jaeger-baggage", b"elastic-apm-traceparent",
        b"x-ot-span-context", b"grpc-trace-bin", b"x-dynatrace", b"x-honeycomb-trace", b"sw8",
        b"request-context", b"correlation-context",
    )
)  # fmt: skip
"""Lower-cased names."""

NEUTRAL_PREFIXES: Final = (
    b"proxy-", b"sec-", b"x-stainless-",
    # load balancers, CDNs and platforms
    b"x-forwarded-", b"x-original-", b"cf-", b"x-amz-cf-", b"cloudfront-", b"x-envoy-", b"x-kong-",
    b"x-azure-", b"x-fd-", b"l5d-", b"fastly-", b"akamai-", b"x-akamai-", b"x-edgeconnect-",
    b"x-vercel-", b"fly-",
    # tracers
    b"x-b3-", b"x-datadog-", b"x-newrelic-", b"uberctx-", b"ot-tracer-", b"x-instana-", b"sw8-",
)  # fmt: skip
"""Beginnings of lower-cased names."""

RANGE_FIELDS: Final = frozenset((b"range", b"if-range"))

NEVER_IGNORED: Final = RANGE_FIELDS | {b"x-stainless-poll-helper"}
"""Lower-cased names that bypass the cache, whatever :class:`IgnoredFields` contains.

An SDK that polls sends ``X-Stainless-Poll-Helper``, and must see the present state.
"""

_NOT_CHECKED = frozenset(KEY_FIELDS) | HOP_BY_HOP
_COOKIE = b"cookie"
_WEBSOCKET_PREFIX = b"sec-websocket-"  # browsers send a credential in Sec-WebSocket-Protocol


@attrs.frozen
class NamePatterns:
    """A set of names: some in full, some by their beginnings.

    :ivar names: as they are compared.
    :ivar prefixes: beginnings of names.
    """

    names: frozenset[bytes] = frozenset()
    prefixes: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, patterns: Iterable[str]) -> NamePatterns:
        """Return the names that match one of *patterns*: a name, or a prefix with ``*``."""
        encoded = [pattern.encode("ascii") for pattern in patterns]
        return cls(
            frozenset([pattern for pattern in encoded if not pattern.endswith(b"*")]),
            tuple([pattern[:-1] for pattern in encoded if pattern.endswith(b"*")]),
        )

    def __contains__(self, name: bytes) -> bool:
        return name in self.names or name.startswith(self.prefixes)


@attrs.frozen
class IgnoredFields:
    """Fields that do not change a response, as the operator says.

    :ivar headers: lower-cased names of fields.
    :ivar cookies: names of cookies.
    """

    headers: NamePatterns = NamePatterns()
    cookies: NamePatterns = NamePatterns()

    def ignores(self, name: bytes, value: bytes) -> bool:
        """Whether the operator declared a field, or all cookies in it, as without effect."""
        if name == _COOKIE:
            # A comma may join two lines (RFC 9110 §5.3), and would hide the first cookie of the
            # second line.
            return b"," not in value and all(
                pair.partition(b"=")[0].strip() in self.cookies and b"=" in pair
                for pair in value.split(b";")
                if pair.strip()
            )
        return name in self.headers and name not in NEVER_IGNORED


NOTHING_IGNORED: Final = IgnoredFields()


def is_neutral(name: bytes) -> bool:
    """Whether a request field is forwarded without an effect on the response.

    :param name: lower-cased.
    """
    if name in NEUTRAL_NAMES:
        return True
    if not name.startswith(NEUTRAL_PREFIXES) or name.startswith(_WEBSOCKET_PREFIX):
        return False
    return name not in NEVER_IGNORED


def is_left_out_of_key(name: bytes) -> bool:
    """Whether a request field neither is part of the key nor bypasses the cache.

    :param name: lower-cased.
    """
    return name in HOP_BY_HOP or is_neutral(name)


_NO_SIZES: Final[Mapping[bytes, int]] = {}


class JudgedFields(NamedTuple):
    """What the fields of a request mean for the cache.

    :ivar reason: why the cache is bypassed: ``range``; ``header`` and the first such field;
        ``header-size`` and the largest neutral field; ``None`` where it is used.
    :ivar field: lower-cased name of the field that is the reason, or empty.
    :ivar sizes: how much each neutral field counts, by lower-cased name; incomplete if there is
        another reason.
    """

    reason: str | None
    field: bytes = b""
    sizes: Mapping[bytes, int] = _NO_SIZES

    @property
    def spare_bytes(self) -> int:
        """How much longer the neutral fields may be."""
        return MAX_NEUTRAL_BYTES - sum(self.sizes.values())


def judge_fields(fields: Fields, ignored: IgnoredFields = NOTHING_IGNORED) -> JudgedFields:
    """Judge the fields of a request."""
    nominated = nominated_fields(fields)
    sizes: dict[bytes, int] = {}
    found: bytes | None = None
    for name, value in fields.items():
        if name in _NOT_CHECKED or name in nominated:
            continue
        if name in NEUTRAL_NAMES:
            if name != b"content-length" and is_sent_upstream(name):
                sizes[name] = len(value)
        elif is_neutral(name) or ignored.ignores(name, value):
            if is_sent_upstream(name):
                sizes[name] = len(name) + len(value)
        elif name in RANGE_FIELDS:
            return JudgedFields("range", b"", sizes)
        elif found is None:
            found = name
    if found is not None:
        return JudgedFields("header", found, sizes)
    return judge_sizes(sizes)


def judge_sizes(sizes: Mapping[bytes, int]) -> JudgedFields:
    """Judge neutral fields by how much each of them counts."""
    judged = JudgedFields(None, b"", sizes)
    if judged.spare_bytes >= 0:
        return judged
    return JudgedFields("header-size", max(sizes, key=sizes.__getitem__), sizes)
