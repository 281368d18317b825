"""Writes the log: JSON lines for machines, readable lines for a terminal.

:class:`LogOutput` is an observer of Twisted's log that the access log also writes to, in batches.
Twisted's own notices about ports and protocols, which it logs through its legacy interface, are
written at the level ``debug`` only. An event with a :class:`Report` is one JSON event, or a banner
on a terminal; lines that repeat the banner, and those of twistd, are not written after it.
Credentials are masked in what other code logs (:mod:`goproxyai.messages.redaction`); the events of
requests contain none.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText
from zope.interface import implementer

from goproxyai.errors import is_printable, json_bytes
from goproxyai.messages.redaction import mask_credentials
from goproxyai.telemetry.events import Batch, Event, RequestLine, request_lines, timestamp
from goproxyai.telemetry.outcome import Ending

_WORD = re.compile(r"[!#-\[\]-~]+")

_LEGACY: Final = "log_legacy"
_TWISTD: Final = "twisted.scripts."

_encode_lines = msgspec.json.Encoder().encode_lines


class LineWriter(Protocol):
    """Writes lines without blocking; see :class:`.LogWriter`."""

    dropped: int

    def write(self, data: bytes) -> None: ...
    def reopen(self) -> None: ...
    def check_size(self) -> None: ...
    def start(self) -> None: ...
    def finish(self) -> None: ...


class Report(Protocol):
    """The value of ``report`` in an event of several facts, which contain no secret."""

    def fields(self) -> dict[str, Any]:
        """Return the facts as fields of a JSON event."""

    def pairs(self) -> dict[str, str]:
        """Return the facts for one line of text."""

    def banner(self) -> str:
        """Return the facts as lines for a terminal."""


class OpenedLog(NamedTuple):
    """The writer of the lines, and whether it writes to a terminal."""

    writer: LineWriter
    is_terminal: bool


def json_lines(documents: Sequence[object]) -> bytes:
    """Return *documents* as lines of JSON: printable ASCII."""
    try:
        encoded = _encode_lines(documents)
        if is_printable(encoded):
            return encoded
    except UnicodeEncodeError:  # a lone surrogate
        pass
    return b"".join([json_bytes(document) + b"\n" for document in documents])


def _as_text(line: RequestLine) -> str:
    optional = {
        "code": line.code,
        "detail": line.detail,
        "request_id": line.request_id,
        "upstream_request_id": line.upstream_request_id,
        "client_subject": line.client_subject,
        "slow": str(line.slow) if line.slow else "",
        "sample": "" if line.sample is None else str(line.sample),
    }
    more = "".join([f" {name}={_value(text)}" for name, text in optional.items() if text])
    if line.tokens is not None:
        tokens = line.tokens
        more += f" model={_value(tokens.model)} tokens={tokens.prompt}+{tokens.completion}"
    ended = "" if line.ended is Ending.COMPLETE else f" ({line.ended})"
    return (
        f"{line.time} {_value(line.method)} {_value(line.path)} {line.status} "
        f"{_value(line.cache)} {line.ms.total:.1f}ms {_value(line.client)} "
        f"in={line.bytes_in} out={line.bytes_out}{ended}{more}\n"
    )


def _value(text: str) -> str:
    """Return *text* as one word: as it is, quoted if it is not plain ASCII, or ``-`` if empty.

    Clients and upstreams choose some values, and must not be able to write another field or line.
    """
    if _WORD.fullmatch(text) is not None:
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_printable(escaped)}"' if text else "-"


def _printable(text: str) -> str:
    """Return *text* with escapes for characters that control a terminal or the text's direction."""
    if text.isprintable():
        return text
    return "".join([each if each.isprintable() else ascii(each)[1:-1] for each in text])


def _indented(text: str) -> str:
    """Return a message of several lines, in which only the first line begins in column 0."""
    return "\n    ".join([_printable(line) for line in text.expandtabs().split("\n")])


@implementer(ILogObserver)
class LogOutput:
    """Writes events of *level* and above, one line each.

    :param opened: opens the log; called once, when Twisted starts to log. Its argument makes the
        line that reports dropped lines.
    :ivar on_rotated: called after a rotation of the log file, in the writer's thread.
    :param as_json: ``None``: text if the log is a terminal, else JSON.
    """

    def __init__(
        self,
        opened: Callable[[Callable[[int], bytes]], OpenedLog],
        as_json: bool | None,
        level: str,
    ) -> None:
        self._opened = opened
        self._writer: LineWriter | None = None
        self.on_rotated: Callable[[], None] = lambda: None
        self._as_json = as_json
        self._has_banner = False
        self._is_terminal = False
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Write only events of *level* and above from now on."""
        self._level = LogLevel.levelWithName(level)
        self.wants_requests = self._level <= LogLevel.info

    def open(self) -> LogOutput:
        """Open the log, and choose the format if none is configured."""
        self._writer, self._is_terminal = self._opened(self._dropped_line)
        if self._as_json is None:
            self._as_json = not self._is_terminal
        return self

    def start(self) -> None:
        """Start the thread that writes; to be called after the process has forked."""
        if self._writer is not None:
            self._writer.start()

    def reopen(self) -> None:
        """Reopen the log file; may be called by a signal handler."""
        if self._writer is not None:
            self._writer.reopen()

    def check_size(self) -> None:
        """Rotate the log file if it is large."""
        if self._writer is not None:
            self._writer.check_size()

    def rotated(self) -> None:
        """Call :attr:`on_rotated`, which may be assigned later."""
        self.on_rotated()

    def finish(self) -> None:
        """Wait, for a limited time, until all lines are written; see :class:`.LogWriter`."""
        if self._writer is not None:
            self._writer.finish()

    @property
    def dropped(self) -> int:
        """Lines that were dropped since the start."""
        return 0 if self._writer is None else self._writer.dropped

    def _write(self, data: bytes) -> None:
        if self._writer is not None:
            self._writer.write(data)

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        source = str(event.get("log_namespace", "-"))
        if source == _LEGACY:
            source = "twisted"
            level = LogLevel.debug if level is LogLevel.info else level
        if level < self._level or (self._has_banner and _is_in_banner(event, source)):
            return
        text = mask_credentials(eventAsText(event, includeTimestamp=False, includeSystem=False))
        when = event.get("log_time", time.time())
        report = event.get("report")
        if report is not None:
            self._write(self._report(when, level.name, source, text, report))
        else:
            self._write(self._line(when, level.name, source, text))

    def _line(self, when: float, level: str, source: str, text: str) -> bytes:
        stamp = timestamp(when)
        if self._as_json:
            fields = {"time": stamp, "level": level, "event": "log", "source": source}
            return json_lines([fields | {"message": text}])
        return _encode(f"{stamp} {level} [{_printable(source)}] {_indented(text)}\n")

    def _report(self, when: float, level: str, source: str, text: str, report: Report) -> bytes:
        if self._as_json:
            fields = {"time": timestamp(when), "level": level, "event": "start", "source": source}
            return json_lines([fields | {"message": text} | report.fields()])
        if self._is_terminal:
            self._has_banner = True
            return _encode("\n".join([*map(_printable, report.banner().split("\n")), "", ""]))
        more = [f" {name}={_value(value)}" for name, value in report.pairs().items() if value]
        return self._line(when, level, source, text + "".join(more))

    def _dropped_line(self, count: int) -> bytes:
        text = f"{count} log lines were dropped: the log's reader or disk did not accept them"
        return self._line(time.time(), "warn", "goproxyai.log", text)

    def requests(self, events: list[Event], batch: Batch) -> None:
        """Write the events of requests: a :data:`~.events.Write`."""
        if self._as_json:
            self._write(json_lines(request_lines(events, batch)))
        else:
            self._write(_encode("".join(map(_as_text, request_lines(events, batch)))))


def _is_in_banner(event: LogEvent, source: str) -> bool:
    """Whether a banner has the facts of *event*, or leaves them out."""
    return bool(event.get("is_reported")) or (
        source.startswith(_TWISTD) and event.get("log_level") is LogLevel.info
    )


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
