"""The export of spans: a collector that hangs, and the bound of the queue."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import pytest_twisted
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from goproxyai.config.settings import Settings
from goproxyai.daemon.tracer import make_tracer
from goproxyai.telemetry import tracing
from goproxyai.telemetry.tracing import Tracing
from tests.integration.traced import no_otel_variables
from tests.support.harness import ProxyHarness, eventually, request

__all__ = ["no_otel_variables"]  # a fixture


class HangingExporter(SpanExporter):
    """Blocks in its first export until it is released or shut down."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()

    def export(self, spans: Any) -> SpanExportResult:
        self.begun.set()
        self.released.wait(20)
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.released.set()


@pytest_twisted.ensureDeferred
async def test_hanging_collector_delays_no_request_and_the_stop_briefly(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "STOP_SECONDS", 0.1)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    exporter = HangingExporter()
    tracer = harness.tracer = Tracing(harness.reactor, lambda: exporter)
    await harness.start()
    for _ in range(3):
        assert (await harness.ask(request())).status == 200
        await eventually(harness.reactor, lambda: len(harness.events) and exporter.begun.is_set())
    await harness.stop()
    assert exporter.released.is_set()
    await deferToThread(tracer.processor._batch_processor._worker_thread.join, 20)


@pytest_twisted.ensureDeferred
async def test_span_queue_is_bounded(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "2")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    exporter = HangingExporter()
    tracer = harness.tracer = Tracing(harness.reactor, lambda: exporter)
    await harness.start()
    for number in range(9):
        assert (await harness.ask(request(f"/v1/models?{number}"))).status == 200
    await harness.logged(9)
    assert len(tracer.processor._batch_processor._queue) <= 2
    exporter.released.set()


@pytest.mark.parametrize("disabled", ["true", " TRUE "])
def test_disabled_sdk_turns_tracing_off(monkeypatch: pytest.MonkeyPatch, disabled: str) -> None:
    settings = Settings.from_texts({"TRACING": "otlp"})
    assert make_tracer(Clock(), settings) is not None
    monkeypatch.setenv("OTEL_SDK_DISABLED", disabled)
    assert make_tracer(Clock(), settings) is None
