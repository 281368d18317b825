"""Tracing: a span for each request, sent to a collector by OpenTelemetry's SDK.

Only imported with ``TRACING=otlp``.

1. The span is a child of the client's span, if the request has a valid ``traceparent``. Upstream
   gets a ``traceparent`` that names the proxy's span.
2. The sampler decides when the request arrives (``OTEL_TRACES_SAMPLER``). A request that is not
   sampled has span IDs, which upstream gets, but no span.
3. A thread of the SDK sends the spans from a bounded queue, which drops what does not fit. The
   thread starts with the service, after twistd's fork. No request waits for it.
4. Warnings of the SDK are logged by :mod:`.sdk_log`.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from goproxyai import __version__
from goproxyai.http11.exchange import Exchange
from goproxyai.messages.redaction import redacted_target
from goproxyai.telemetry.events import Batch, Event
from goproxyai.telemetry.propagation import extract, span_in
from goproxyai.telemetry.sdk_log import SdkLogHandler
from goproxyai.telemetry.spans import RequestTrace, request_kind, span_of

STOP_SECONDS: Final = 3.0
"""The longest time that the last spans may delay the end of the process."""

_log = Logger(namespace="goproxyai.telemetry.tracing")


class TracingError(SystemExit):
    """Tracing cannot start: ends the process with one line, status 1."""


class Tracing:
    """Traces requests: a :class:`~.trace_protocol.Tracer`.

    :param exporter: creates the exporter of spans.
    """

    def __init__(
        self, reactor: Any, exporter: Callable[[], SpanExporter] = OTLPSpanExporter
    ) -> None:
        self._reactor = reactor
        self._make_exporter = exporter
        self._sdk_log = SdkLogHandler(reactor)
        self._exporter: SpanExporter
        self.processor: BatchSpanProcessor
        self._resource: Resource
        self._sampler: Sampler
        self._ids: IdGenerator

    def start(self) -> None:
        """Start the thread that sends spans.

        :raises TracingError: if an ``OTEL_*`` variable is invalid.
        """
        self._sdk_log.install()
        try:
            # Of the provider, only the parts are used: it reads the variables, but creates spans
            # that are added to while a request is in progress (see `.spans`).
            provider = TracerProvider(shutdown_on_exit=False, resource=_resource())
            self._exporter = self._make_exporter()
            self.processor = BatchSpanProcessor(self._exporter)
        except Exception as error:
            self._sdk_log.uninstall()
            reason = " ".join(str(error).split())
            line = f"TRACING is otlp, expected valid OTEL_* variables ({reason})"
            raise TracingError(f"goproxyai: {line}") from None
        self._resource = provider.resource
        self._sampler = provider.sampler
        self._ids = provider.id_generator

    def begin(self, exchange: Exchange) -> RequestTrace:
        """Return the trace of a new request, sampled or not."""
        context = extract(exchange.get(b"traceparent"))
        parent = span_in(context)
        if parent is None:
            trace_id, flags = self._ids.generate_trace_id(), TraceFlags.DEFAULT
        else:
            trace_id = parent.trace_id
            flags = parent.trace_flags & TraceFlags.RANDOM_TRACE_ID
        kind = request_kind(exchange.method, redacted_target(exchange.target))
        decision = self._sampler.should_sample(context, trace_id, kind.name, SpanKind.SERVER)
        sampled = decision.decision.is_sampled()
        if sampled:
            flags |= TraceFlags.SAMPLED
        span = SpanContext(trace_id, self._ids.generate_span_id(), False, TraceFlags(flags))
        trace = RequestTrace(span, parent, sampled, kind.generates)
        if exchange.body.complete:
            trace.find_model(exchange.body.whole())
        return trace

    def ended(self, events: list[Event], batch: Batch) -> None:
        """Queue the spans of finished requests."""
        for event in events:
            trace = event.trace
            if trace is not None and trace.sampled:
                self.processor.on_end(span_of(event, trace, batch.offset, self._resource))

    def stop(self) -> Deferred[None]:
        """Send the spans that are left; fires when they are sent, or after :data:`STOP_SECONDS`."""
        stopped: Deferred[None] = Deferred()
        timeout = self._reactor.callLater(STOP_SECONDS, self._give_up, stopped)

        def finished() -> None:
            if timeout.active():
                timeout.cancel()
                stopped.callback(None)

        # The process would wait for a thread of the reactor's pool without a limit.
        Thread(target=self._close, args=(finished,), name="goproxyai spans", daemon=True).start()
        return stopped

    def _close(self, finished: Callable[[], None]) -> None:
        """Wait for the SDK's thread to end; runs in a thread."""
        try:
            self.processor.shutdown()
        finally:
            self._sdk_log.uninstall()
            self._reactor.callFromThread(finished)

    def _give_up(self, stopped: Deferred[None]) -> None:
        _log.warn("the last spans were not sent within {seconds:g} s", seconds=STOP_SECONDS)
        self._sdk_log.silence()
        self._exporter.shutdown()  # interrupts the exporter's waits between retries
        stopped.callback(None)


def _resource() -> Resource:
    """Return the resource that the ``OTEL_*`` variables describe, ``goproxyai`` by default."""
    configured = Resource.create()
    ours = {SERVICE_VERSION: __version__}
    name = str(configured.attributes.get(SERVICE_NAME, ""))
    if name.startswith("unknown_service"):  # the SDK's default
        return configured.merge(Resource({**ours, SERVICE_NAME: "goproxyai"}))
    return Resource(ours).merge(configured)
