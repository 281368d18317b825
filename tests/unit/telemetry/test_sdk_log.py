"""Log records of OpenTelemetry's SDK in the daemon's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from twisted.internet.task import Clock
from twisted.logger import Logger

from goproxyai.telemetry import sdk_log
from goproxyai.telemetry.log_output import LogOutput, OpenedLog
from goproxyai.telemetry.sdk_log import MAX_KINDS, REPEAT_SECONDS, SdkLogHandler
from tests.unit.telemetry.samples import MemoryWriter


class OneThreadReactor(Clock):
    """A clock that runs calls from other threads at once."""

    def callFromThread(self, function: Any, *args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)


@attrs.define(eq=False)
class DaemonLog:
    """The daemon's log, with the handler installed."""

    reactor: OneThreadReactor
    handler: SdkLogHandler
    stream: MemoryWriter

    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonLog]:
    stream, reactor = MemoryWriter(), OneThreadReactor()
    output = LogOutput(lambda _: OpenedLog(stream, False), False, "info").open()
    monkeypatch.setattr(sdk_log, "_log", Logger(namespace="tracing", observer=output))
    handler = SdkLogHandler(reactor)
    handler.install()
    yield DaemonLog(reactor, handler, stream)
    handler.uninstall()
    assert logging.getLogger("opentelemetry").propagate


def test_each_kind_is_logged_once_a_minute(log: DaemonLog) -> None:
    exporter = logging.getLogger("opentelemetry.some.exporter")
    for number in range(5):
        exporter.warning("failed, code %s", number)
        exporter.error("gave up")
        exporter.info("went well")
    first, second = log.lines()
    assert first.endswith("warn [tracing] failed, code 0")
    assert second.endswith("error [tracing] gave up")
    log.reactor.advance(REPEAT_SECONDS)
    exporter.warning("failed, code %s", 7)
    assert len(log.lines()) == 3


def test_record_is_one_short_line_without_traceback_and_query(log: DaemonLog) -> None:
    try:
        raise ValueError("no answer\nfrom http://u:pass@c/v1/traces?key=Zq8secret (refused)")
    except ValueError:
        logging.getLogger("urllib3.pool").exception("it\nbroke %s", "x" * 1000)
        logging.getLogger("opentelemetry.sdk").exception("it broke")
    lines = log.lines()
    assert len(lines) == 2
    assert max(map(len, lines)) < 700
    assert "ValueError" in lines[1]
    assert "Traceback" not in "".join(lines)
    assert "Zq8secret" not in "".join(lines)
    assert "pass@" not in "".join(lines)


def test_exporters_credentials_are_not_logged(
    log: DaemonLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Zq8secret value")
    OTLPSpanExporter().shutdown()
    (line,) = log.lines()
    assert "OTEL_EXPORTER_OTLP_HEADERS" in line
    assert "Zq8secret" not in line


def test_silenced_handler_logs_nothing(log: DaemonLog) -> None:
    log.handler.silence()
    logging.getLogger("opentelemetry.sdk").error("gave up")
    assert log.lines() == []


def test_remembered_kinds_are_bounded() -> None:
    handler = SdkLogHandler(OneThreadReactor())
    for number in range(MAX_KINDS + 10):
        handler.handle(logging.makeLogRecord({"msg": f"odd {number}", "levelno": 20}))
    assert len(handler._quiet_until) <= MAX_KINDS
