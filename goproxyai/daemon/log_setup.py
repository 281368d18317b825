"""The destination of the log, chosen from the settings and the options of twistd."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

from twisted.logger import Logger

from goproxyai.config.settings import Settings
from goproxyai.telemetry.events import Batch, Event, Write
from goproxyai.telemetry.log_file import LogStream, open_log
from goproxyai.telemetry.log_output import LogOutput, OpenedLog
from goproxyai.telemetry.log_writer import LogWriter

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
    output = LogOutput(
        lambda report: _open_writer(twistd_options, report), as_json, settings.log_level
    )
    _chosen.append(output)
    twistd_options["logger"] = f"{__name__}.open_output"  # twistd takes a name, not a callable
    return output


def open_output() -> LogOutput:
    """Return the chosen output, opened; twistd calls this when logging begins."""
    return _chosen[-1].open()


def _open_writer(
    twistd_options: MutableMapping[str, Any], report: Callable[[int], bytes]
) -> OpenedLog:
    """Open the log, and start to write it unless the process is still going to fork."""
    stream = _open_stream(twistd_options)
    writer = LogWriter(stream, report)
    if twistd_options.get("nodaemon"):
        writer.start()
    return OpenedLog(writer, stream.isatty())


def _open_stream(twistd_options: MutableMapping[str, Any]) -> LogStream:
    """Open what twistd itself would log to: standard output, or a file.

    :raises SystemExit: with one line, where the file cannot be opened.
    """
    name, foreground = twistd_options.get("logfile"), twistd_options.get("nodaemon")
    if foreground and name in (None, "", "-"):
        return _standard_output()
    path = name or "twistd.log"
    try:
        return open_log(path, MAX_LOG_FILE_BYTES, MAX_ROTATED_LOG_FILES)
    except OSError as error:
        raise SystemExit(
            f"goproxyai: --logfile is {path!r}, expected a file that can be opened for appending: "
            f"{error.strerror}"
        ) from None


def _standard_output() -> LogStream:
    if sys.stdout is None:  # the process was started with a closed descriptor 1
        return LogStream(os.open(os.devnull, os.O_WRONLY))
    sys.stdout.flush()
    return LogStream(os.dup(sys.stdout.fileno()))


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
