"""The span of a finished request; only imported if requests are traced.

1. A span is created when the request has ended, from its event and its :class:`RequestTrace`. This
   takes a fifth of the time of an SDK span that is added to, and no span is left open.
2. Names are those of the semantic conventions for HTTP servers and for generative AI
   (https://github.com/open-telemetry/semantic-conventions-genai). Names of the proxy's own begin
   with ``goproxyai.``.
3. A span contains nothing of headers and bodies but the model's name and the tokens, and of the
   target only the path.
4. Tokens of forwarded requests are ``gen_ai.usage.*``, and ``goproxyai.usage.*`` for kinds that
   the conventions do not name. Tokens of responses without an upstream
   request are ``goproxyai.spared.*``, so that sums of the former match upstream's bill.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SpanEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from goproxyai import __version__
from goproxyai.telemetry.counters import route_of
from goproxyai.telemetry.events import Event
from goproxyai.telemetry.outcome import CLIENT_CLOSED_REQUEST, SAVED_OUTCOMES, Ending
from goproxyai.telemetry.propagation import header_line
from goproxyai.usage.usage import NO_DETAILS, Details, Usage, generates, requested_model

OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""``gen_ai.operation.name`` of POSTs; requests to other paths are plain HTTP requests."""

MAX_ATTEMPTS: Final = 8
"""Upstream requests of one request that its span shows: three, and three after a restart."""

_DETAIL_ATTRIBUTES: Final = (
    "gen_ai.usage.cache_creation.input_tokens",
    *(f"goproxyai.usage.{kind}" for kind in Details._fields[1:]),
)
"""Names of :class:`~goproxyai.usage.usage.Details`; the conventions have only one of them."""

_METHODS: Final = frozenset((b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS"))
_ERROR = Status(StatusCode.ERROR)
_UNSET = Status(StatusCode.UNSET)
_SCOPE = InstrumentationScope("goproxyai", __version__)


class RequestKind(NamedTuple):
    """What the request line tells.

    :ivar method: ``http.request.method``; ``_OTHER`` for an unknown one.
    :ivar operation: of :data:`OPERATIONS`, else empty.
    :ivar name: of the span, without a model; one of few.
    :ivar generates: the request asks for a model.
    """

    method: str
    operation: str
    name: str
    generates: bool


@lru_cache(maxsize=512)
def request_kind(method: bytes, path: str) -> RequestKind:
    """Return the kind of a request; *path* is a redacted target."""
    path = path.partition("?")[0]
    known = method.decode("ascii") if method in _METHODS else ""
    operation = OPERATIONS.get(path, "") if method == b"POST" else ""
    name = operation or f"{known or 'HTTP'} {route_of(path)}"
    return RequestKind(known or "_OTHER", operation, name, generates(method, path.encode("ascii")))


class RequestTrace:
    """The trace of one request: a :class:`~.trace_protocol.Trace`.

    :param span: of the request.
    :param parent: the client's span, if the client sent one.
    :param sampled: the request becomes a span.
    :param generates: the request asks for a model.
    :ivar model: that the request asks for.
    :ivar read_at: reactor seconds when the body was complete; negative if it came with the head.
    :ivar attempts: time and upstream URL of each upstream request.
    :ivar leader: span of the request whose response this one shares.
    """

    __slots__ = (
        "_wants_model", "attempts", "leader", "model", "parent", "read_at", "sampled", "span",
    )  # fmt: skip

    def __init__(
        self, span: SpanContext, parent: SpanContext | None, sampled: bool, generates: bool
    ) -> None:
        self.span = span
        self.parent = parent
        self.sampled = sampled
        self.model = ""
        self.read_at = -1.0
        self.attempts: list[tuple[float, str]] = []
        self.leader: SpanContext | None = None
        self._wants_model = generates and sampled

    def find_model(self, body: object) -> None:
        """Look for the model in *body*, if it is bytes, once."""
        if self._wants_model and isinstance(body, bytes):
            self._wants_model = False
            self.model = requested_model(body)

    def read(self, now: float, body: bytes | None) -> None:
        """Note that a body that did not arrive with the head is read.

        :param body: ``None`` if it is too large to keep.
        """
        self.read_at = now
        self.find_model(body)

    def forwarded(self, now: float, url: str, body: object) -> bytes:
        """Note that the request is sent to the upstream at *url*.

        :returns: header lines to add to the upstream request.
        """
        self.find_model(body)
        if self.sampled and len(self.attempts) < MAX_ATTEMPTS:
            self.attempts.append((now, url))
        return header_line(self.span)

    def coalesced(self, leader: RequestTrace | None) -> None:
        """Note that the request waits for the response to another request."""
        if leader is not None:
            self.leader = leader.span


def span_of(event: Event, trace: RequestTrace, offset: float, resource: Resource) -> ReadableSpan:
    """Return the span of a finished request.

    :param offset: reactor seconds + offset = Unix time.
    """
    kind = request_kind(event.method, event.path)
    began = event.began + offset
    error = _error_type(event)
    return ReadableSpan(
        name=f"{kind.operation} {trace.model}" if kind.operation and trace.model else kind.name,
        context=trace.span,
        parent=trace.parent,
        resource=resource,
        attributes=_attributes(event, trace, kind, error),
        events=_span_events(event, trace, offset),
        links=() if trace.leader is None else (Link(trace.leader),),
        kind=SpanKind.SERVER,
        status=_ERROR if error else _UNSET,
        start_time=_nanoseconds(began),
        end_time=_nanoseconds(began + event.seconds),
        instrumentation_scope=_SCOPE,
    )


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)


def _is_unanswered(event: Event) -> bool:
    """Whether the client left before the response began."""
    return event.ending is Ending.CLIENT_GONE and event.status == CLIENT_CLOSED_REQUEST


def _error_type(event: Event) -> str:
    """Return ``error.type``: an error code or a status of 500 or above, else empty.

    The conventions do not count a client's error as an error of the server.
    """
    if event.ending is Ending.CUT:
        return event.code or "cut"
    if event.status >= 500:
        return event.code or str(event.status)
    return ""


def _attributes(event: Event, trace: RequestTrace, kind: RequestKind, error: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.request.method": kind.method,
        "url.path": event.path.partition("?")[0],
        "client.address": event.client,
        "goproxyai.cache": str(event.cache_label),
        "goproxyai.request_id": event.request_id.decode("ascii"),
    }
    if not _is_unanswered(event):
        attributes["http.response.status_code"] = event.status
    if event.code:
        attributes["goproxyai.code"] = event.code
    if event.ending is not Ending.COMPLETE:
        attributes["goproxyai.ended"] = event.ending.value
    if error:
        attributes["error.type"] = error
    if trace.attempts:
        attributes |= _server(trace.attempts[-1][1])
    if kind.operation:
        attributes["gen_ai.operation.name"] = kind.operation
    if kind.generates:
        attributes["gen_ai.provider.name"] = "openai"
        if trace.model:
            attributes["gen_ai.request.model"] = trace.model
    if event.usage is not None:
        attributes |= _usage_attributes(event.usage, event.cache in SAVED_OUTCOMES)
    return attributes


def _usage_attributes(usage: Usage, saved: bool) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if usage.model:
        attributes["gen_ai.response.model"] = usage.model
    if saved:
        attributes["goproxyai.spared.input_tokens"] = usage.prompt
        attributes["goproxyai.spared.output_tokens"] = usage.completion
        return attributes
    attributes["gen_ai.usage.input_tokens"] = usage.prompt
    attributes["gen_ai.usage.output_tokens"] = usage.completion
    if usage.cached:
        attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached
    if usage.reasoning:
        attributes["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning
    if usage.details is not NO_DETAILS:
        for name, count in zip(_DETAIL_ATTRIBUTES, usage.details, strict=True):
            if count:
                attributes[name] = count
    return attributes


@lru_cache(maxsize=64)
def _server(url: str) -> dict[str, Any]:
    """Return host and port of an upstream."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"server.address": parts.hostname or "", "server.port": port}


def _span_events(event: Event, trace: RequestTrace, offset: float) -> list[SpanEvent]:
    """Return the phases of the request that are known, in order."""
    phases: list[tuple[str, float, dict[str, Any] | None]] = []
    if trace.read_at >= 0:
        phases.append(("request_read", trace.read_at, None))
    for number, (at, url) in enumerate(trace.attempts, 1):
        phases.append(("forwarded", at, {"goproxyai.try": number, **_server(url)}))
    if event.upstream_seconds >= 0 and trace.attempts:
        phases.append(("upstream_head", trace.attempts[-1][0] + event.upstream_seconds, None))
    if not _is_unanswered(event):
        phases.append(("first_byte", event.began + event.waited, None))
    return [SpanEvent(name, extra, _nanoseconds(at + offset)) for name, at, extra in phases]
