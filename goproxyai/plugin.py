"""The twistd plugin's other half: options, and the one place that knows the global reactor."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TextIO

from twisted.application.service import IService
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.logfile import LogFile

from goproxyai import __version__
from goproxyai.config.settings import Settings
from goproxyai.config.sources import ConfigSources, LoadedConfig
from goproxyai.config.variables import VARIABLES, SettingError
from goproxyai.daemon.reload import Reload, hidden_line
from goproxyai.daemon.service import Daemon, make_daemon
from goproxyai.reactor.lean_loop import install_lean_poll
from goproxyai.telemetry.events import Batch, Event, Write
from goproxyai.telemetry.log_output import LogOutput
from goproxyai.telemetry.trace_protocol import Tracer

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
        self.sources: ConfigSources
        self.reading: LoadedConfig
        self.output: LogOutput | None = None

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
        options = {
            variable.name: self[variable.option]
            for variable in VARIABLES
            if self.get(variable.option) is not None
        }
        if self._listen:
            options["LISTEN"] = " ".join(self._listen)
        self.sources = ConfigSources(options, dict(self._environ), os.getcwd())
        try:
            self.reading = self.sources.read()
        except SettingError as error:
            raise SystemExit(f"goproxyai: {error}") from None
        self._choose_output()

    @property
    def settings(self) -> Settings:
        """Those at the start."""
        return self.reading.settings

    def _choose_output(self) -> None:
        """Write the log ourselves, unless the operator chose a logger or syslog of twistd's."""
        parent: Any = self.parent
        if parent is None or parent.get("logger") or parent.get("syslog"):
            return
        settings = self.settings
        as_json = None if not settings.log_format else settings.log_format == "json"
        self.output = LogOutput(lambda: _stream(parent), as_json, settings.log_level)
        _chosen.append(self.output)
        parent["logger"] = "goproxyai.plugin.open_output"  # twistd takes a name, not a callable


LOG_BYTES = 100 * 1024 * 1024
"""At which a log file is put aside, and another begun."""

OLD_LOGS = 9
"""That are kept."""

_chosen: list[LogOutput] = []


def open_output() -> LogOutput:
    """The observer that :class:`Options` chose; twistd asks for it when logging begins."""
    return _chosen[-1].open()


def _stream(parent: Any) -> TextIO:
    """Where twistd itself would log: standard output, or a file that rotates.

    Rotating renames, which would take ``/dev/null`` from the whole machine.
    """
    name, attached = parent.get("logfile"), parent.get("nodaemon")
    if attached and name in (None, "", "-"):
        return sys.stdout
    path = name or "twistd.log"
    if os.path.exists(path) and not os.path.isfile(path):
        return open(path, "a", encoding="utf-8")
    stream: Any = LogFile.fromFullPath(path, rotateLength=LOG_BYTES, maxRotatedFiles=OLD_LOGS)
    return stream  # type: ignore[no-any-return]  # it has what Output asks of a stream


def _request_events(events: list[Event], batch: Batch) -> None:
    """For the logs of twistd's own: one event a request."""
    for event in events:
        fields = event.fields(batch)
        fields["at"] = fields.pop("time")
        _access.info("{method} {path} {status} {cache} {client}", **fields)


def _end_at_once() -> None:
    """From now on a signal ends the process the hard way: it was asked once already.

    The kernel spares the first process of a container what it did not ask for, such as that.
    """
    first = os.getpid() == 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit if first else signal.SIG_DFL)


def _exit(number: int, _: object) -> None:
    """End as a shell tells of one that a signal ended."""
    os._exit(128 + number)


COLLECTION_SECONDS = 600.0
"""Between two calls of :func:`tidy`."""

_NEVER = 1 << 30

SWITCH_SECONDS = 0.0005
"""For which a thread that sends spans may keep the reactor's waiting, each time that that has read
or written something: a tenth of Python's own, with which one request in a thousand took 20 ms."""

_DISABLED = "OTEL_SDK_DISABLED"  # for all that a machine runs, whatever each is told


_trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
_malloc_trim: Callable[[int], int] = _trim or (lambda _: 0)


def tidy() -> None:
    """Collect what no younger collection could free, and give unused memory back to the system.

    What was a full cache once stays the process's else, in holes between what is left: glibc gives
    back no more than the end of its heap by itself. Takes some ten milliseconds for a cache of
    100 MB.
    """
    gc.collect()
    _malloc_trim(0)


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
    collecting = LoopingCall(tidy)
    collecting.clock = clock
    collecting.start(COLLECTION_SECONDS, now=False)


def makeService(options: Options) -> IService:
    """The daemon, for twistd."""
    from twisted.internet import reactor  # noqa: TID251  # the one place

    # Timers must not follow a wall clock that is set: run them by the monotonic one.
    reactor.seconds = time.monotonic  # type: ignore[method-assign]  # it is meant to be called
    install_lean_poll(reactor)
    reactor.callWhenRunning(_settle, reactor)
    tracer = _tracer_of(reactor, options.settings)
    if tracer is not None:
        sys.setswitchinterval(SWITCH_SECONDS)
    daemon = make_daemon(
        reactor,
        options.settings,
        _write_of(options.output),
        _end_at_once,
        prices=options.reading.prices,
        tracer=tracer,
    )
    _log.info(
        "goproxyai {version} in front of {upstream}",
        version=__version__,
        upstream=options.settings.openai_url,
    )
    if options.reading.overridden:
        _log.warn("{line}", line=hidden_line(options.reading.overridden))
    if options.sources.path is not None:
        _reload_on_hangup(reactor, daemon, options)
    return daemon


def _write_of(output: LogOutput | None) -> Write | None:
    """Who gets the events of requests."""
    if output is None:
        return _request_events
    return output.requests if output.wants_requests else None


def _tracer_of(reactor: Any, settings: Settings) -> Tracer | None:
    """Who follows requests, if anybody does; nothing of OpenTelemetry is imported else.

    :raises SystemExit: with one line, where it is not installed.
    """
    if settings.tracing == "off" or os.environ.get(_DISABLED, "").strip().lower() == "true":
        return None
    try:
        from goproxyai.telemetry.tracing import Tracing
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("goproxyai"):
            raise
    else:
        return Tracing(reactor)
    line = f"TRACING is {settings.tracing}, expected goproxyai[otel] to be installed"
    raise SystemExit(f"goproxyai: {line}")


def _reload_on_hangup(reactor: Any, daemon: Daemon, options: Options) -> None:
    """Read the configuration again whenever SIGHUP comes, in the reactor's own time.

    Twisted and twistd leave that signal alone. Where there is no file to read, it ends the process
    as ever, which is what a terminal that is closed sends it for.
    """

    def write(level: str) -> None:
        if options.output is not None:
            options.output.limit(level)
            daemon.write_requests(_write_of(options.output))

    reload = Reload(daemon, options.sources.read, write)
    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(reload.now))
