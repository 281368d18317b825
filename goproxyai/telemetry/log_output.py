"""Writes the log: JSON lines for machines, readable lines for a terminal.

:class:`LogOutput` is an observer of Twisted's log that the access log also writes to, in batches.
Credentials are masked in what other code logs (:mod:`goproxyai.messages.redaction`); the events of
requests contain none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TextIO

import msgspec
from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText
from zope.interface import implementer

from goproxyai.errors import is_printable, json_bytes
from goproxyai.messages.redaction import mask_credentials
from goproxyai.telemetry.events import Batch, Event, timestamp
from goproxyai.telemetry.outcome import Ending

_encode_lines = msgspec.json.Encoder().encode_lines


def json_lines(documents: Sequence[object]) -> str:
    """Return *documents* as lines of JSON: printable ASCII."""
    try:
        encoded = _encode_lines(documents)
        if is_printable(encoded):
            return encoded.decode("ascii")
    except UnicodeEncodeError:  # a lone surrogate
        pass
    return "".join([json_bytes(document).decode("ascii") + "\n" for document in documents])


def _as_text(event: Event, batch: Batch) -> str:
    line = event.line(batch)
    optional = {
        "code": line.code,
        "detail": line.detail,
        "request_id": line.request_id,
        "upstream_request_id": line.upstream_request_id,
        "slow": line.slow,
        "sample": line.sample,
    }
    more = "".join([f" {name}={value}" for name, value in optional.items() if value])
    if line.tokens is not None:
        tokens = line.tokens
        more += f" model={tokens.model} tokens={tokens.prompt}+{tokens.completion}"
    ended = "" if event.ending is Ending.COMPLETE else f" ({line.ended})"
    return (
        f"{line.time} {line.method} {line.path} {line.status} {line.cache} "
        f"{line.ms.total:.1f}ms {line.client} in={line.bytes_in} out={line.bytes_out}"
        f"{ended}{more}\n"
    )


@implementer(ILogObserver)
class LogOutput:
    """Writes events of *level* and above, one line each.

    :param opened: returns the stream; called once, when Twisted starts to log.
    :param as_json: ``None``: text if the stream is a terminal, else JSON.
    """

    def __init__(self, opened: Callable[[], TextIO], as_json: bool | None, level: str) -> None:
        self._opened = opened
        self._stream: TextIO | None = None
        self._as_json = as_json
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Write only events of *level* and above from now on."""
        self._level = LogLevel.levelWithName(level)
        self.wants_requests = self._level <= LogLevel.info

    def open(self) -> LogOutput:
        """Open the stream, and choose the format if none is configured."""
        stream = self._stream = self._opened()
        if self._as_json is None:
            self._as_json = not (hasattr(stream, "isatty") and stream.isatty())
        return self

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        if level < self._level:
            return
        text = mask_credentials(eventAsText(event, includeTimestamp=False, includeSystem=False))
        when = timestamp(event.get("log_time", time.time()))
        source = str(event.get("log_namespace", "-"))
        if self._as_json:
            fields = {"time": when, "level": level.name, "event": "log", "source": source}
            self._write(json_lines([fields | {"message": text}]))
        else:
            self._write(f"{when} {level.name} [{source}] {text}\n")

    def requests(self, events: list[Event], batch: Batch) -> None:
        """Write the events of requests: a :data:`~.events.Write`."""
        if self._as_json:
            self._write(json_lines([event.line(batch) for event in events]))
        else:
            self._write("".join([_as_text(event, batch) for event in events]))
