"""The twistd plugin: command-line options, and ``makeService``, which uses the global reactor."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python import usage

from goproxyai import __version__
from goproxyai.config.settings import Settings
from goproxyai.config.sources import LoadedConfig
from goproxyai.config.variable import SettingError
from goproxyai.daemon.build import make_daemon
from goproxyai.daemon.log_setup import choose_output, request_writer
from goproxyai.daemon.memory import configure_memory
from goproxyai.daemon.process_setup import prepare_to_serve, use_monotonic_clock
from goproxyai.daemon.reload import Reload, overridden_line
from goproxyai.daemon.service import Daemon
from goproxyai.daemon.setting_options import SettingOptions
from goproxyai.daemon.shared_memory import make_shared_memory
from goproxyai.daemon.signals import call_on_hangup, call_on_usr1, end_on_next_signal
from goproxyai.daemon.start_failures import check_process_options, release_waiting_process
from goproxyai.daemon.start_report import start_report
from goproxyai.daemon.worker_count import worker_count
from goproxyai.egress.trust_roots import prepare_trust_roots
from goproxyai.reactor.lean_loop import install_lean_poll
from goproxyai.telemetry.log_output import LogOutput

if TYPE_CHECKING:
    from goproxyai.daemon.supervisor import Supervisor

_log = Logger(namespace="goproxyai")


class Options(SettingOptions):
    """The options of ``twistd goproxyai``."""

    synopsis = "[options]"
    longdesc = (
        "A caching, limiting, byte-exact relay in front of the OpenAI API. Every option can also "
        "be given as the environment variable in parentheses."
    )
    parent: usage.Options | None

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        super().__init__(environ)
        self.config: LoadedConfig
        self.output: LogOutput | None = None
        self.workers = 1
        self.shared_memory: int | None = None

    def postOptions(self) -> None:
        """Read the configuration.

        :raises SystemExit: with one line and status 1, where a value is invalid.
        """
        super().postOptions()
        try:
            self.config = self.sources.read()
            prepare_trust_roots(self.environ, self.sources.directory)
            self._choose_output()
        except SettingError as error:
            raise SystemExit(f"goproxyai: {error}") from None

    def _choose_output(self) -> None:
        """Choose the log's output.

        :raises SettingError: if the workers could not write to it.
        """
        self.workers = worker_count(self.settings)
        if self.workers > 1:
            try:
                self.shared_memory = make_shared_memory(self.workers)
            except OSError as error:
                raise SettingError(
                    "WORKERS is more than 1, but the memory that the processes share cannot be "
                    f"made: {error.strerror}; a limit of file sizes (ulimit -f) applies to it"
                ) from None
        self.output = choose_output(self.parent, self.settings, self.shared_memory)
        if self.workers > 1:
            from goproxyai.daemon.workers import check_log_options  # as in _parent

            check_log_options(self.output)

    @property
    def settings(self) -> Settings:
        """The settings at the start."""
        return self.config.settings


def makeService(options: Options) -> IService:
    """Return the daemon's service for twistd."""
    from twisted.internet import reactor  # noqa: TID251  # the only use of the global reactor

    check_process_options(options.parent)
    release_waiting_process(reactor, options.parent)
    return _parent(reactor, options) if options.workers > 1 else _daemon(reactor, options)


def _begin_log(reactor: Any, options: Options, addresses: list[Any]) -> None:
    """Connect the log, and log what the service is and likely mistakes.

    :param addresses: of the listeners.
    """
    _connect_output(reactor, options.output)
    config, settings = options.config, options.settings
    warnings = config.warnings
    if config.overridden:
        warnings += (overridden_line(config.overridden),)
    _log.info(
        "goproxyai {version}, upstream {upstream}",
        version=__version__,
        upstream=settings.openai_url,
        report=start_report(
            __version__, settings, config.shown, addresses, warnings, options.workers
        ),
    )
    for line in warnings:
        _log.warn("{line}", line=line, is_reported=True)


def _daemon(reactor: Any, options: Options) -> Daemon:
    """Return the service of a single process."""
    tracer = prepare_to_serve(reactor, options.settings)
    daemon = make_daemon(
        reactor,
        options.settings,
        request_writer(options.output),
        end_on_next_signal,
        prices=options.config.prices,
        tracer=tracer,
        dropped_log_lines=lambda: 0 if options.output is None else options.output.dropped,
    )
    daemon.listeners.listen()
    _begin_log(reactor, options, daemon.listeners.addresses)
    daemon.admin.stats.config = options.config.shown
    _reload_on_hangup(reactor, daemon, options)
    return daemon


def _parent(reactor: Any, options: Options) -> Supervisor:
    """Return the service of the parent process of several."""
    # Imported late: the modules of the parent take 0.7 MB, which a single process does not need.
    from goproxyai.daemon.supervisor import apply_to_parent
    from goproxyai.daemon.workers import make_parent

    output, shared, twistd_options = options.output, options.shared_memory, options.parent
    assert output is not None, "check_log_options"
    assert shared is not None, "made for more than one worker"
    assert twistd_options is not None, "the log is chosen with twistd's options"
    use_monotonic_clock(reactor)
    install_lean_poll(reactor)  # look-ups of the workers wait for this process
    reactor.callWhenRunning(configure_memory, reactor)  # a full collection would delay answers
    supervisor = make_parent(
        reactor,
        twistd_options,
        options.sources,
        options.config,
        output,
        shared,
        options.workers,
        end_on_next_signal,
    )
    _begin_log(reactor, options, supervisor.listeners.addresses)
    output.on_rotated = supervisor.reopen_logs
    reload = Reload(supervisor, options.sources.read, output.set_level, apply_to_parent)

    def reopen_and_reload() -> None:
        output.reopen()
        supervisor.reopen_logs()
        reload.run()
        supervisor.reload_workers()

    def reopen() -> None:
        output.reopen()
        supervisor.reopen_logs()

    call_on_hangup(reactor, reopen_and_reload)
    call_on_usr1(reopen)
    return supervisor


def _connect_output(reactor: Any, output: LogOutput | None) -> None:
    """Start the log's thread after twistd's fork, reopen the log on SIGUSR1, write its end.

    :param output: ``None`` where twistd or the operator's own logger writes the log. SIGUSR1 then
        has no effect, unless that logger handles the signal.
    """
    if output is None:
        call_on_usr1(lambda: None)
        return
    reactor.callWhenRunning(output.start)
    reactor.addSystemEventTrigger("after", "shutdown", output.finish)
    call_on_usr1(output.reopen)


def _reload_on_hangup(reactor: Any, daemon: Daemon, options: Options) -> None:
    def set_log_level(level: str) -> None:
        if options.output is not None:
            options.output.set_level(level)
            daemon.write_requests(request_writer(options.output))

    reload = Reload(daemon, options.sources.read, set_log_level)

    def reopen_and_reload() -> None:
        if options.output is not None:
            options.output.reopen()
        daemon.listeners.renew_certificates()
        reload.run()

    call_on_hangup(reactor, reopen_and_reload)
