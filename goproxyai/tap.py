"""The twistd plugin's other half: options, and the one place that knows the global reactor."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any, ClassVar, TextIO

from twisted.application.service import IService
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.logfile import LogFile

from goproxyai import __version__
from goproxyai.http11.turns import lighten
from goproxyai.output import Output
from goproxyai.pipeline.log import Event, Write
from goproxyai.service import make_daemon
from goproxyai.settings import VARIABLES, SettingError, Settings

_log = Logger(namespace="goproxyai")
_access = Logger(namespace="goproxyai.access")


class Options(usage.Options):
    """``twistd goproxyai``'s options: every variable is one; an option wins over its variable."""

    synopsis = "[options]"
    longdesc = (
        "A caching, limiting, byte-exact relay in front of the OpenAI API. Every option can also "
        "be given as the environment variable in parentheses."
    )
    optParameters: ClassVar = [
        [
            variable.option,
            None,
            None,
            f"{variable.help} ({variable.name}; default: {variable.default or 'none'})",
        ]
        for variable in VARIABLES
        if variable.name != "LISTEN"
    ]
    parent: usage.Options | None

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        super().__init__()
        self._environ = environ
        self._listen: list[str] = []
        self.settings: Settings
        self.output: Output | None = None

    def opt_listen(self, endpoint: str) -> None:
        """A Twisted endpoint to listen on; may be repeated (LISTEN; default: tcp:$PORT)."""
        self._listen.append(endpoint)

    def opt_version(self) -> None:
        """Show the version and exit."""
        print(f"goproxyai {__version__}")
        sys.exit(0)

    def postOptions(self) -> None:
        """Turn texts into settings.

        :raises SystemExit: with one line, status 1, where a value does not parse.
        """
        texts = {v.name: self._environ[v.name] for v in VARIABLES if v.name in self._environ}
        for variable in VARIABLES:
            given = self.get(variable.option)
            if given is not None:
                texts[variable.name] = given
        if self._listen:
            texts["LISTEN"] = " ".join(self._listen)
        try:
            self.settings = Settings.from_texts(texts)
        except SettingError as error:
            raise SystemExit(f"goproxyai: {error}") from None
        self._choose_output()

    def _choose_output(self) -> None:
        """Write the log ourselves, unless the operator chose a logger or syslog of twistd's."""
        parent: Any = self.parent
        if parent is None or parent.get("logger") or parent.get("syslog"):
            return
        settings = self.settings
        as_json = None if not settings.log_format else settings.log_format == "json"
        self.output = Output(lambda: _stream(parent), as_json, settings.log_level)
        _chosen.append(self.output)
        parent["logger"] = "goproxyai.tap.open_output"  # twistd takes a name, not a callable


_chosen: list[Output] = []


def open_output() -> Output:
    """The observer that :class:`Options` chose; twistd asks for it when logging begins."""
    return _chosen[-1].open()


def _stream(parent: Any) -> TextIO:
    """Where twistd itself would log: standard output, or a file that rotates."""
    name, attached = parent.get("logfile"), parent.get("nodaemon")
    if attached and name in (None, "", "-"):
        return sys.stdout
    stream: Any = LogFile.fromFullPath(name or "twistd.log")
    return stream  # type: ignore[no-any-return]  # it has what Output asks of a stream


def _request_events(events: list[Event], offset: float) -> None:
    """For the logs of twistd's own: one event a request."""
    for event in events:
        fields = event.fields(offset)
        fields["at"] = fields.pop("time")
        _access.info("{method} {path} {status} {cache} {client}", **fields)


def _end_at_once() -> None:
    """From now on a signal ends the process the hard way: it was asked once already."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


COLLECTION_SECONDS = 600.0
"""Between two collections of what no younger one could free."""

_NEVER = 1 << 30


def _settle(clock: Any) -> None:
    """What was loaded, and what is cached, stays: keep the garbage collector from walking it.

    Requests leave no cycles behind, and connections only Twisted's own, so the young are looked at
    a few thousand at a time, which takes two milliseconds, and the old, among them every answer in
    the cache, every ten minutes: a walk over a million answers takes a third of a second, in which
    nobody is served.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_500, 3, _NEVER)
    collecting = LoopingCall(gc.collect)
    collecting.clock = clock
    collecting.start(COLLECTION_SECONDS, now=False)


def makeService(options: Options) -> IService:
    """The daemon, for twistd."""
    from twisted.internet import reactor  # noqa: TID251  # the one place

    # Timers must not follow a wall clock that is set: run them by the monotonic one.
    reactor.seconds = time.monotonic  # type: ignore[method-assign]  # it is meant to be called
    lighten(reactor)
    reactor.callWhenRunning(_settle, reactor)
    output = options.output
    write: Write | None = _request_events
    if output is not None:
        write = output.requests if output.wants_requests else None
    daemon = make_daemon(reactor, options.settings, write, _end_at_once)
    _log.info(
        "goproxyai {version} in front of {upstream}",
        version=__version__,
        upstream=options.settings.openai_url,
    )
    return daemon
