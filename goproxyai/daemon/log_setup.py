"""The destination of the log, chosen from the settings and the options of twistd."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from twisted.logger import Logger

from goproxyai.config.settings import Settings
from goproxyai.telemetry.events import Batch, Event, Write
from goproxyai.telemetry.log_file import LogStream, open_log, open_shared_log
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
    twistd_options: MutableMapping[str, Any] | None, settings: Settings, lock: int | None = None
) -> LogOutput | None:
    """Make goproxyai's log output twistd's logger.

    :param lock: see :class:`.LogStream`; ``None`` where no other process writes to the log.
    :param twistd_options: the options before the subcommand; ``None`` outside of twistd.
    :returns: ``None`` where the operator has chosen a logger or syslog, or outside of twistd.
    """
    if twistd_options is None or twistd_options.get("logger") or twistd_options.get("syslog"):
        return None

    def opened(report: Callable[[int], bytes]) -> OpenedLog:
        stream = _open_stream(twistd_options, output.rotated, lock)
        # Otherwise the process is still going to fork, and the thread starts later.
        return _open_writer(stream, report, start=bool(twistd_options.get("nodaemon")))

    output = _output(opened, settings)
    _chosen.append(output)
    twistd_options["logger"] = f"{__name__}.open_output"  # twistd takes a name, not a callable
    return output


def worker_output(log_file: str, lock: int, settings: Settings) -> LogOutput:
    """Return the log output of a worker, opened.

    :param log_file: as the parent has it; empty for standard output.
    :raises OSError: the file cannot be opened.
    """

    def opened(report: Callable[[int], bytes]) -> OpenedLog:
        stream = open_shared_log(log_file, lock) if log_file else _standard_output(lock)
        return _open_writer(stream, report, start=True)

    return _output(opened, settings).open()


def log_file_of(twistd_options: Mapping[str, Any]) -> str:
    """Return the path of the log that twistd itself would write; empty for standard output."""
    name, foreground = twistd_options.get("logfile"), twistd_options.get("nodaemon")
    if foreground and name in (None, "", "-"):
        return ""
    return name or "twistd.log"


def _output(opened: Callable[[Callable[[int], bytes]], OpenedLog], settings: Settings) -> LogOutput:
    as_json = None if not settings.log_format else settings.log_format == "json"
    return LogOutput(opened, as_json, settings.log_level)


def open_output() -> LogOutput:
    """Return the chosen output, opened; twistd calls this when logging begins."""
    return _chosen[-1].open()


def _open_writer(stream: LogStream, report: Callable[[int], bytes], start: bool) -> OpenedLog:
    writer = LogWriter(stream, report)
    if start:
        writer.start()
    return OpenedLog(writer, stream.isatty())


def _open_stream(
    twistd_options: MutableMapping[str, Any], on_rotated: Callable[[], None], lock: int | None
) -> LogStream:
    """Open what twistd itself would log to: standard output, or a file.

    :raises SystemExit: with one line, where the file cannot be opened.
    """
    path = log_file_of(twistd_options)
    if not path:
        return _standard_output(lock)
    try:
        return open_log(path, MAX_LOG_FILE_BYTES, MAX_ROTATED_LOG_FILES, on_rotated, lock)
    except OSError as error:
        raise SystemExit(
            f"goproxyai: --logfile is {path!r}, expected a file that can be opened for appending: "
            f"{error.strerror}"
        ) from None


def _standard_output(lock: int | None) -> LogStream:
    if sys.stdout is None:  # the process was started with a closed descriptor 1
        return LogStream(os.open(os.devnull, os.O_WRONLY))
    sys.stdout.flush()
    return LogStream(os.dup(sys.stdout.fileno()), lock)


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
