"""Where events end up: JSON lines for machines, readable lines for a terminal.

An observer for Twisted's log that the access log also writes to, in batches. What others log is
masked (:mod:`goproxyai.messages.redaction`); the events of requests hold nothing to mask.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TextIO

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText
from zope.interface import implementer

from goproxyai.messages.redaction import mask_credentials
from goproxyai.telemetry.events import Batch, Event
from goproxyai.telemetry.outcome import CacheOutcome, Ending
from goproxyai.usage.usage import Usage


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _stamp(seconds: float) -> str:
    whole = int(seconds)
    return _second(whole) + _MILLISECONDS[int((seconds - whole) * 1000)]


_MILLISECONDS = tuple([f".{number:03d}Z" for number in range(1000)])
_encode = json.JSONEncoder(separators=(",", ":")).encode


def json_line(fields: dict[str, Any]) -> str:
    """One event as one line of JSON."""
    return _encode(fields) + "\n"


_quoted = json.encoder.encode_basestring_ascii  # in C, where there is a C


def _as_json(event: Event, batch: Batch) -> str:
    """The line of a request, written out: a third of the encoder's time, for one a request."""
    (
        began, method, path, status, client, bytes_in, bytes_out, seconds, name, _, cache, bypass,
        code, detail, ended, upstream, upstream_request_id, first, usage,
    ) = event  # fmt: skip
    waited = seconds if first < 0 else first
    phases = ""
    if upstream >= 0:
        phases = f',"upstream":{upstream * 1000:.3f},"proxy":{(waited - upstream) * 1000:.3f}'
    if first >= 0:
        phases += f',"first_byte":{first * 1000:.3f}'
    more = ""
    if code:
        more = f',"code":{_quoted(code)}'
    if detail:
        more += f',"detail":{_quoted(detail)}'
    if upstream_request_id:
        more += f',"upstream_request_id":{_quoted(event.upstream_id_text)}'
    if usage is not None:
        more += _known_tokens(usage) if cache is CacheOutcome.HIT else _tokens(usage)
    if waited >= batch.slow:
        more += ',"slow":true'
    if batch.sample < 1 and not event.is_notable(batch.slow):
        more += f',"sample":{batch.sample:g}'
    subject = _known_subject(method, path, status, bypass or cache, client)
    return (
        f'{{"time":"{_stamp(began + batch.offset)}","level":"info","event":"request",'
        f'{subject},"bytes_in":{bytes_in},'
        f'"bytes_out":{bytes_out},"ms":{{"total":{seconds * 1000:.3f}{phases}}},'
        f'"ended":"{ended}","request_id":"{name.decode("ascii")}"{more}}}\n'
    )


def _subject(method: bytes, path: str, status: int, cache: str, client: str) -> str:
    """What was asked by whom, and what became of it."""
    return (
        f'"method":{_quoted(method.decode("latin-1"))},"path":{_quoted(path)},'
        f'"status":{status},"cache":"{cache}","client":{_quoted(client)}'
    )


def _tokens(usage: Usage) -> str:
    """What the answer cost; there is nothing to be quoted in the name of a model."""
    form = ',"tokens":{"model":"%s","prompt":%d,"completion":%d,"cached":%d,"reasoning":%d}'
    return form % usage


_known_tokens = lru_cache(maxsize=1024)(_tokens)  # of answers that are given again and again
_known_subject = lru_cache(maxsize=1024)(_subject)  # most requests are like a recent one


def _as_text(event: Event, batch: Batch) -> str:
    request = event.fields(batch)
    more = "".join(
        f" {name}={request[name]}"
        for name in ("code", "detail", "request_id", "upstream_request_id", "slow", "sample")
        if name in request
    )
    if event.usage is not None:
        more += f" model={event.usage.model} tokens={event.usage.prompt}+{event.usage.completion}"
    ended = "" if event.ending is Ending.COMPLETE else f" ({event.ending})"
    return (
        f"{_stamp(request['time'])} {request['method']} {request['path']} {event.status} "
        f"{event.cache_label} {request['ms']['total']:.1f}ms {event.client} "
        f"in={event.bytes_in} out={event.bytes_out}{ended}{more}\n"
    )


@implementer(ILogObserver)
class LogOutput:
    """Writes events of *level* and above, one line each.

    :param opened: gives the stream; called once, when Twisted begins to log.
    """

    def __init__(self, opened: Callable[[], TextIO], as_json: bool | None, level: str) -> None:
        self._opened = opened
        self._stream: TextIO | None = None
        self._as_json = as_json
        self.limit(level)

    def limit(self, level: str) -> None:
        """Leave out what is below *level* from now on."""
        self._level = LogLevel.levelWithName(level)
        self.wants_requests = self._level <= LogLevel.info

    def open(self) -> LogOutput:
        """Begin to write; the format follows the stream where nobody chose one."""
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
        when = _stamp(event.get("log_time", time.time()))
        source = str(event.get("log_namespace", "-"))
        if self._as_json:
            fields = {"time": when, "level": level.name, "event": "log", "source": source}
            self._write(json_line(fields | {"message": text}))
        else:
            self._write(f"{when} {level.name} [{source}] {text}\n")

    def requests(self, events: list[Event], batch: Batch) -> None:
        """Write the events of requests, see :data:`~.events.Write`."""
        line = _as_json if self._as_json else _as_text
        self._write("".join([line(event, batch) for event in events]))
