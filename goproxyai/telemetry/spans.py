"""What a request looks like as a span of OpenTelemetry; only imported where requests are traced.

1. There is no span while a request is under way: a :class:`.RequestTrace` notes what its event will not
   know, and goes with the exchange. The span is made when the request is over, in one piece, which
   takes a fifth of the time of one that is added to, and cannot be left open.
2. Names are those of the semantic conventions for HTTP servers and for generative AI, as of
   https://github.com/open-telemetry/semantic-conventions-genai; what has none begins with
   ``goproxyai.``.
3. Nothing of a header or a body, but for the model's name and the tokens; of a target, the path.
4. Tokens are counted as ``gen_ai.usage.*`` where upstream was asked for them, that sums are right;
   those of an answer that the cache spared as ``goproxyai.spared.*``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SpanEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from goproxyai import __version__
from goproxyai.messages.redaction import mask_credentials
from goproxyai.messages.trace_context import TraceParent
from goproxyai.telemetry.counters import CLIENT_CLOSED_REQUEST, route_of
from goproxyai.telemetry.events import Event
from goproxyai.telemetry.outcome import SAVED_OUTCOMES, Ending
from goproxyai.usage.usage import Usage, generates, requested_model

OPERATIONS: Final = {
    b"/v1/chat/completions": "chat",
    b"/v1/responses": "chat",
    b"/v1/completions": "text_completion",
    b"/v1/embeddings": "embeddings",
}
"""``gen_ai.operation.name`` of POSTs; other paths are requests of HTTP like any other."""

MAX_ATTEMPTS: Final = 8
"""Of one request, how many are told: retries are three, and whoever goes on alone has as many."""

_METHODS = frozenset((b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS"))
_FAILED = Status(StatusCode.ERROR)
_FINE = Status(StatusCode.UNSET)
_SCOPE = InstrumentationScope("goproxyai", __version__)


class Kind(NamedTuple):
    """What is known of a request by its first line.

    :ivar method: as the conventions have it. :ivar operation: of :data:`OPERATIONS`, or empty.
    :ivar plain: a name for it, one of few. :ivar generates: whether it asks for a model.
    """

    method: str
    operation: str
    plain: str
    generates: bool


@lru_cache(maxsize=512)
def kind_of(method: bytes, target: bytes) -> Kind:
    """The kind of a request."""
    path = target.partition(b"?")[0]
    known = method.decode("ascii") if method in _METHODS else ""
    operation = OPERATIONS.get(path, "") if method == b"POST" else ""
    plain = operation or f"{known or 'HTTP'} {route_of(target.decode('ascii', 'replace'))}"
    return Kind(known or "_OTHER", operation, plain, generates(method, path))


class RequestTrace:
    """One request under way; see :class:`goproxyai.telemetry.access_log.Trace`.

    :param ours: the span that it will be. :param parent: the client's, if it has one.
    :param sampled: whether there will be one.
    :ivar model: that it asks for.
    :ivar read_at: when a body that did not come with the head was here; negative where it did.
    :ivar tries: when, and to whom, it was forwarded.
    :ivar leader: the span of the request whose answer it waits for.
    """

    __slots__ = ("_wanted", "leader", "model", "ours", "parent", "read_at", "sampled", "tries")

    def __init__(
        self, ours: TraceParent, parent: TraceParent | None, sampled: bool, wanted: bool
    ) -> None:
        self.ours = ours
        self.parent = parent
        self.sampled = sampled
        self.model = ""
        self.read_at = -1.0
        self.tries: list[tuple[float, str]] = []
        self.leader: TraceParent | None = None
        self._wanted = wanted and sampled  # its model

    def asks(self, body: object) -> None:
        """The body is here, if it is bytes: look for the model in it, once."""
        if self._wanted and isinstance(body, bytes):
            self._wanted = False
            self.model = mask_credentials(requested_model(body))

    def read(self, now: float, body: bytes | None) -> None:
        """The body that did not come with the head is here, or is too large to keep."""
        self.read_at = now
        self.asks(body)

    def forwarded(self, now: float, url: str, body: object) -> bytes:
        """The request goes to the upstream at *url*: what says to it whose span it is."""
        self.asks(body)
        if self.sampled and len(self.tries) < MAX_ATTEMPTS:
            self.tries.append((now, url))
        return self.ours.header_line()

    def coalesced(self, leader: RequestTrace | None) -> None:
        """It waits for the answer to another."""
        if leader is not None:
            self.leader = leader.ours


def context_of(span: TraceParent, remote: bool) -> SpanContext:
    """*span* as the SDK has it; *remote*: it came with a request."""
    return SpanContext(span.trace_id, span.span_id, remote, TraceFlags(span.flags))


def span_of(
    event: Event, followed: RequestTrace, offset: float, resource: Resource
) -> ReadableSpan:
    """The span of a request that is over.

    :param offset: turns reactor seconds into unix time.
    """
    kind = kind_of(event.method, event.path.encode("ascii"))
    parent, leader = followed.parent, followed.leader
    began = event.began + offset
    error = _error_of(event)
    return ReadableSpan(
        name=f"{kind.operation} {followed.model}" if kind.operation and followed.model
        else kind.plain,
        context=context_of(followed.ours, False),
        parent=None if parent is None else context_of(parent, True),
        resource=resource,
        attributes=_attributes(event, followed, kind, error),
        events=_phases(event, followed, offset),
        links=() if leader is None else (Link(context_of(leader, False)),),
        kind=SpanKind.SERVER,
        status=_FAILED if error else _FINE,
        start_time=_nanoseconds(began),
        end_time=_nanoseconds(began + event.seconds),
        instrumentation_scope=_SCOPE,
    )  # fmt: skip


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)


def _unanswered(event: Event) -> bool:
    """Whether the client left before there was an answer."""
    return event.ending is Ending.CLIENT_GONE and event.status == CLIENT_CLOSED_REQUEST


def _error_of(event: Event) -> str:
    """``error.type``: a code of the proxy's, or upstream's status; empty where all went well.

    Of a server, what is the client's fault is no error.
    """
    if event.ending is Ending.CUT:
        return event.code or "cut"
    if event.status >= 500:
        return event.code or str(event.status)
    return ""


def _attributes(event: Event, followed: RequestTrace, kind: Kind, error: str) -> dict[str, Any]:
    named: dict[str, Any] = {
        "http.request.method": kind.method,
        "url.path": event.path.partition("?")[0],
        "client.address": event.client,
        "goproxyai.cache": event.cache_label,
        "goproxyai.request_id": event.request_id.decode("ascii"),
    }
    if not _unanswered(event):
        named["http.response.status_code"] = event.status
    if event.code:
        named["goproxyai.code"] = event.code
    if event.ending is not Ending.COMPLETE:
        named["goproxyai.ended"] = event.ending.value
    if error:
        named["error.type"] = error
    if followed.tries:
        named |= _server(followed.tries[-1][1])
    if kind.operation:
        named["gen_ai.operation.name"] = kind.operation
    if kind.generates:
        named["gen_ai.provider.name"] = "openai"
        if followed.model:
            named["gen_ai.request.model"] = followed.model
    usage = event.usage
    if usage is not None:
        _count(named, usage, event.cache in SAVED_OUTCOMES)
    return named


def _count(named: dict[str, Any], usage: Usage, spared: bool) -> None:
    """What the answer says of itself."""
    if usage.model:
        named["gen_ai.response.model"] = mask_credentials(usage.model)
    if spared:
        named["goproxyai.spared.input_tokens"] = usage.prompt
        named["goproxyai.spared.output_tokens"] = usage.completion
        return
    named["gen_ai.usage.input_tokens"] = usage.prompt
    named["gen_ai.usage.output_tokens"] = usage.completion
    if usage.cached:
        named["gen_ai.usage.cache_read.input_tokens"] = usage.cached
    if usage.reasoning:
        named["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning


@lru_cache(maxsize=64)
def _server(url: str) -> dict[str, Any]:
    """Host and port of an upstream."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"server.address": parts.hostname or "", "server.port": port}


def _phases(event: Event, followed: RequestTrace, offset: float) -> list[SpanEvent]:
    """What happened when, as far as it is known."""
    phases: list[tuple[str, float, dict[str, Any] | None]] = []
    if followed.read_at >= 0:
        phases.append(("request_read", followed.read_at, None))
    for number, (at, url) in enumerate(followed.tries, 1):
        phases.append(("forwarded", at, {"goproxyai.try": number, **_server(url)}))
    if event.upstream_seconds >= 0 and followed.tries:
        phases.append(("upstream_head", followed.tries[-1][0] + event.upstream_seconds, None))
    if not _unanswered(event):
        phases.append(("first_byte", event.began + event.waited, None))
    return [SpanEvent(name, more, _nanoseconds(at + offset)) for name, at, more in phases]
