"""The destination of the log, chosen from the settings and the options of twistd."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

from twisted.logger import Logger
from twisted.python.logfile import LogFile

from goproxyai.config.settings import Settings
from goproxyai.telemetry.events import Batch, Event, Write
from goproxyai.telemetry.log_output import LogOutput

MAX_LOG_FILE_BYTES = 100 * 1024 * 1024
"""Size at which a log file is rotated."""

MAX_ROTATED_LOG_FILES = 9
"""Rotated log files that are kept."""

_chosen: list[LogOutput] = []
"""The output for :func:`open_output`, which twistd imports by name and calls without arguments."""

_access = Logger(namespace="goproxyai.access")


def choose_output(
    twistd_options: MutableMapping[str, Any] | None, settings: Settings
) -> LogOutput | None:
    """Make goproxyai's log output twistd's logger.

    :param twistd_options: the options before the subcommand; ``None`` outside of twistd.
    :returns: ``None`` where the operator has chosen a logger or syslog, or outside of twistd.
    """
    if twistd_options is None or twistd_options.get("logger") or twistd_options.get("syslog"):
        return None
    as_json = None if not settings.log_format else settings.log_format == "json"
    output = LogOutput(lambda: _open_stream(twistd_options), as_json, settings.log_level)
    _chosen.append(output)
    twistd_options["logger"] = f"{__name__}.open_output"  # twistd takes a name, not a callable
    return output


def open_output() -> LogOutput:
    """Return the chosen output, opened; twistd calls this when logging begins."""
    return _chosen[-1].open()


def _open_stream(twistd_options: MutableMapping[str, Any]) -> TextIO:
    """Open the stream that twistd itself would log to: standard output, or a rotated file.

    Only regular files are rotated: a rotation renames, and would remove ``/dev/null``.
    """
    name, foreground = twistd_options.get("logfile"), twistd_options.get("nodaemon")
    if foreground and name in (None, "", "-"):
        return sys.stdout
    path = name or "twistd.log"
    if os.path.exists(path) and not os.path.isfile(path):
        return open(path, "a", encoding="utf-8")
    stream: Any = LogFile.fromFullPath(
        path, rotateLength=MAX_LOG_FILE_BYTES, maxRotatedFiles=MAX_ROTATED_LOG_FILES
    )
    return stream  # type: ignore[no-any-return]  # LogOutput only calls write and flush


def request_writer(output: LogOutput | None) -> Write | None:
    """Return the function that writes the events of requests.

    :returns: ``None`` where the log level excludes the events.
    """
    if output is None:
        return log_request_events
    return output.requests if output.wants_requests else None


def log_request_events(events: list[Event], batch: Batch) -> None:
    """Log one event for each request, for the operator's own logger."""
    for event in events:
        fields = event.fields(batch)
        fields["at"] = fields.pop("time")
        _access.info("{method} {path} {status} {cache} {client}", **fields)
