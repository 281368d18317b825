"""Traces: a span for each request, sent to a collector; only imported where ``TRACING`` says so.

1. A client's ``traceparent`` is honoured: what becomes of the request is a part of its trace, and
   upstream is told that it works for our span. Who sends none, or a bad one, begins a trace.
2. Whether a span is told is decided when the request comes (``OTEL_TRACES_SAMPLER``). One that is
   not costs its identifiers, which upstream gets all the same.
3. The SDK's own thread sends them, from a bounded queue. It begins with the service, behind
   twistd's fork, and no request ever waits for it: what does not fit is dropped.
4. What the SDK complains of is a line of our log, without a traceback, each kind once a minute.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from threading import Thread
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import NonRecordingSpan, SpanKind, set_span_in_context
from twisted.internet.defer import Deferred
from twisted.logger import Logger, LogLevel

from goproxyai import __version__
from goproxyai.http11.exchange import Exchange
from goproxyai.messages.trace_context import RANDOM, SAMPLED, TraceParent, parse
from goproxyai.telemetry.access_log import Batch, Event
from goproxyai.telemetry.spans import RequestTrace, context_of, kind_of, span_of

STOP_SECONDS: Final = 3.0
"""For which the last spans may keep the process from ending."""

COMPLAINT_SECONDS: Final = 60.0
"""Between two lines of our log about the same."""

LONGEST_COMPLAINT: Final = 500
"""Characters of such a line."""

MOST_KINDS: Final = 100
"""Of complaints, how many are remembered."""

_SOURCES = ("opentelemetry", "urllib3")  # whose loggers these are
_SECRETIVE = "opentelemetry.util.re"  # which repeats OTEL_EXPORTER_OTLP_HEADERS
_QUERY = re.compile(r"\?[^\s'\")]+")
_NO_PARENT = Context()

_log = Logger(namespace="goproxyai.telemetry.tracing")


class TracingError(SystemExit):
    """There can be no traces: ends the process with one line, status 1."""


class Tracing:
    """Follows requests; a :class:`goproxyai.telemetry.access_log.Tracer`.

    :param exporter: makes what sends spans away.
    """

    def __init__(
        self, reactor: Any, exporter: Callable[[], SpanExporter] = OTLPSpanExporter
    ) -> None:
        self._reactor = reactor
        self._make_exporter = exporter
        self._complaints = Complaints(reactor)
        self._exporter: SpanExporter
        self.processor: BatchSpanProcessor
        self._resource: Resource
        self._sampler: Sampler
        self._ids: IdGenerator

    def start(self) -> None:
        """Begin to send spans.

        :raises TracingError: where a variable of OpenTelemetry's has a value that is none.
        """
        self._complaints.listen()
        try:
            # Of a provider, the parts: it reads the variables, and has no use for whole spans.
            provider = TracerProvider(shutdown_on_exit=False, resource=_resource())
            self._exporter = self._make_exporter()
            self.processor = BatchSpanProcessor(self._exporter)
        except Exception as error:
            self._complaints.leave()
            why = " ".join(str(error).split())
            line = f"TRACING is otlp, expected good OTEL_* variables ({why})"
            raise TracingError(f"goproxyai: {line}") from None
        self._resource = provider.resource
        self._sampler = provider.sampler
        self._ids = provider.id_generator

    def begin(self, exchange: Exchange) -> RequestTrace:
        """A request has come: decide whether it becomes a span, and give that a name."""
        parent = parse(exchange.get(b"traceparent"))
        if parent is None:
            trace_id, flags, context = self._ids.generate_trace_id(), 0, _NO_PARENT
        else:
            trace_id, flags = parent.trace_id, parent.flags & RANDOM
            remote = NonRecordingSpan(context_of(parent, True))
            context = set_span_in_context(remote, _NO_PARENT)
        kind = kind_of(exchange.method, exchange.target)
        decision = self._sampler.should_sample(context, trace_id, kind.plain, SpanKind.SERVER)
        sampled = decision.decision.is_sampled()
        ours = TraceParent(
            trace_id, self._ids.generate_span_id(), flags | SAMPLED if sampled else flags
        )
        followed = RequestTrace(ours, parent, sampled, kind.generates)
        if exchange.body.complete:
            followed.asks(exchange.body.whole())
        return followed

    def ended(self, events: list[Event], batch: Batch) -> None:
        """Requests are over: hand on the spans of those that have one."""
        for event in events:
            followed = event.trace
            if isinstance(followed, RequestTrace) and followed.sampled:
                self.processor.on_end(span_of(event, followed, batch.offset, self._resource))

    def stop(self) -> Deferred[None]:
        """Send what is left; fires when it is sent, or after :data:`STOP_SECONDS`."""
        stopped: Deferred[None] = Deferred()
        late = self._reactor.callLater(STOP_SECONDS, self._give_up, stopped)

        def over() -> None:
            if late.active():
                late.cancel()
                stopped.callback(None)

        # No thread of the reactor's pool, which the process would wait for in any case.
        Thread(target=self._close, args=(over,), name="goproxyai spans", daemon=True).start()
        return stopped

    def _close(self, over: Callable[[], None]) -> None:
        """In a thread: wait for the SDK's own to end."""
        try:
            self.processor.shutdown()
        finally:
            self._complaints.leave()
            self._reactor.callFromThread(over)

    def _give_up(self, stopped: Deferred[None]) -> None:
        _log.warn("the last spans were not sent within {seconds:g} s", seconds=STOP_SECONDS)
        self._complaints.silence()
        self._exporter.shutdown()  # which ends its waits
        stopped.callback(None)


def _resource() -> Resource:
    """Who sends the spans: as the variables say, or else we."""
    told = Resource.create()
    ours = {SERVICE_VERSION: __version__}
    name = str(told.attributes.get(SERVICE_NAME, ""))
    if name.startswith("unknown_service"):  # the SDK's own default
        return told.merge(Resource({**ours, SERVICE_NAME: "goproxyai"}))
    return Resource(ours).merge(told)


class Complaints(logging.Handler):
    """What the SDK, and what it sends with, log: lines of ours, few of them.

    It is called in whatever thread, and writes in the reactor's.
    """

    def __init__(self, reactor: Any) -> None:
        super().__init__(logging.WARNING)
        self._reactor = reactor
        self._said: dict[str, float] = {}
        self._before: list[tuple[logging.Logger, bool]] = []
        self._silent = False

    def listen(self) -> None:
        """Take all of it, that nobody else writes it with its traceback."""
        for source in map(logging.getLogger, _SOURCES):
            self._before.append((source, source.propagate))
            source.propagate = False
            source.addHandler(self)

    def leave(self) -> None:
        """Leave them as they were."""
        before, self._before = self._before, []
        for source, propagated in before:
            source.propagate = propagated
            source.removeHandler(self)

    def silence(self) -> None:
        """Say nothing any more."""
        self._silent = True

    def emit(self, record: logging.LogRecord) -> None:
        """In any thread: one of theirs."""
        kind = f"{record.name} {record.msg}"
        now = self._reactor.seconds()
        if self._silent or now < self._said.get(kind, now):
            return
        if len(self._said) >= MOST_KINDS:
            self._said.clear()
        self._said[kind] = now + COMPLAINT_SECONDS
        level = LogLevel.error if record.levelno >= logging.ERROR else LogLevel.warn
        self._reactor.callFromThread(_log.emit, level, "{line}", line=_line_of(record))


def _line_of(record: logging.LogRecord) -> str:
    """One line that says what happened, and no secret of the exporter's."""
    if record.name == _SECRETIVE:
        return "OTEL_EXPORTER_OTLP_HEADERS is not key=value,..., with values that are URL-encoded"
    text = record.getMessage()
    if record.exc_info is not None and record.exc_info[1] is not None:
        text += f" ({record.exc_info[1]!r})"
    line = " ".join(_QUERY.sub("?***", text).split())
    return line if len(line) <= LONGEST_COMPLAINT else line[:LONGEST_COMPLAINT] + "..."
