"""Turns the log records of OpenTelemetry's SDK into few, short lines of the daemon's log."""

from __future__ import annotations

import logging
import re
from typing import Any, Final

from twisted.logger import Logger, LogLevel

REPEAT_SECONDS: Final = 60.0
"""The shortest time between two lines of the same kind."""

MAX_LINE_CHARACTERS: Final = 500

MAX_KINDS: Final = 100
"""Kinds of records that are remembered."""

_SOURCES: Final = ("opentelemetry", "urllib3")
_HEADER_PARSER: Final = "opentelemetry.util.re"  # its records quote OTEL_EXPORTER_OTLP_HEADERS
_QUERY = re.compile(r"\?[^\s'\")]+")

_log = Logger(namespace="goproxyai.telemetry.tracing")


class SdkLogHandler(logging.Handler):
    """Logs the warnings and errors of the SDK and its HTTP client.

    The SDK calls it in any thread; the lines are written in the reactor's thread.
    """

    def __init__(self, reactor: Any) -> None:
        super().__init__(logging.WARNING)
        self._reactor = reactor
        self._quiet_until: dict[str, float] = {}
        self._propagated: list[tuple[logging.Logger, bool]] = []
        self._silent = False

    def install(self) -> None:
        """Take over the records, which nothing else logs from now on."""
        for source in map(logging.getLogger, _SOURCES):
            self._propagated.append((source, source.propagate))
            source.propagate = False
            source.addHandler(self)

    def uninstall(self) -> None:
        """Restore the loggers."""
        propagated, self._propagated = self._propagated, []
        for source, before in propagated:
            source.propagate = before
            source.removeHandler(self)

    def silence(self) -> None:
        """Log nothing more."""
        self._silent = True

    def emit(self, record: logging.LogRecord) -> None:
        """Log *record*, unless its kind was logged within :data:`REPEAT_SECONDS`."""
        kind = f"{record.name} {record.msg}"
        now = self._reactor.seconds()
        if self._silent or now < self._quiet_until.get(kind, now):
            return
        if len(self._quiet_until) >= MAX_KINDS:
            self._quiet_until.clear()
        self._quiet_until[kind] = now + REPEAT_SECONDS
        level = LogLevel.error if record.levelno >= logging.ERROR else LogLevel.warn
        self._reactor.callFromThread(_log.emit, level, "{line}", line=_line(record))


def _line(record: logging.LogRecord) -> str:
    """Return *record* as one line, without traceback, queries and the exporter's credentials."""
    if record.name == _HEADER_PARSER:
        return "OTEL_EXPORTER_OTLP_HEADERS is invalid, expected key=value,... with encoded values"
    text = record.getMessage()
    if record.exc_info is not None and record.exc_info[1] is not None:
        text += f" ({record.exc_info[1]!r})"
    line = " ".join(_QUERY.sub("?***", text).split())
    return line if len(line) <= MAX_LINE_CHARACTERS else line[:MAX_LINE_CHARACTERS] + "..."
