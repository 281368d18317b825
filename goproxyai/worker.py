"""The entry of a worker process: ``python -m goproxyai.worker``, started by the parent.

1. The first message of the parent has what the worker needs to start.
2. The worker builds the daemon, listens on the sockets that it has inherited, and says so. It
   accepts connections when the parent answers questions.
3. It ends after a drain, which the parent, SIGTERM or SIGINT begins. It ends at once after a second
   signal, and when the socket to the parent is closed, because the parent has been killed.
"""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, globalLogBeginner

from goproxyai import __version__
from goproxyai.admin.summed_sources import report_document
from goproxyai.config.sources import ConfigSources, LoadedConfig
from goproxyai.config.variable import SettingError
from goproxyai.daemon.build import make_daemon
from goproxyai.daemon.log_setup import request_writer, worker_output
from goproxyai.daemon.passed_sockets import WorkerParts
from goproxyai.daemon.process_setup import prepare_to_serve
from goproxyai.daemon.proxy_options import caching_enabled
from goproxyai.daemon.reload import Reload
from goproxyai.daemon.service import Daemon
from goproxyai.daemon.shared_memory import map_counts, map_marks, map_records
from goproxyai.daemon.signals import stop_on_signals
from goproxyai.daemon.worker_count import ring_size, share_of
from goproxyai.daemon.worker_process import CHANNEL_DESCRIPTOR
from goproxyai.egress.trust_roots import prepare_trust_roots
from goproxyai.reactor.lean_loop import end_of_turn_scheduler
from goproxyai.reactor.socket_write import write_through
from goproxyai.state.cache_client import CacheClient
from goproxyai.state.channel import OneProtocolFactory
from goproxyai.state.messages import Failed, FrameReader, Started, Welcome, frame
from goproxyai.state.parent_link import ParentLink, WorkerActions
from goproxyai.telemetry.log_output import LogOutput

REPORT_SECONDS = 1.0
"""Between two reports to the parent."""

EXPIRY_SECONDS = 1.0
"""Between two searches for expired records of the second level."""

_log = Logger(namespace="goproxyai.worker")


def main() -> None:
    """Run the worker."""
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the parent passes them on as messages
    from twisted.internet import reactor  # noqa: TID251  # the entry of the process

    with socket.socket(fileno=CHANNEL_DESCRIPTOR) as channel:
        welcome = receive_welcome(channel)
        try:
            worker = start(reactor, welcome)
        except (SettingError, SystemExit, OSError) as error:
            channel.sendall(frame(Failed(str(error))))
            raise SystemExit(1) from None
        except Exception as error:
            channel.sendall(frame(Failed(f"a worker process failed to start: {error!r}")))
            raise
        channel.sendall(frame(Started()))
        worker.connect(channel)
    stop_on_signals(worker.stop)
    reactor.run(installSignalHandlers=False)  # type: ignore[call-arg]  # of POSIX reactors


def receive_welcome(channel: socket.socket) -> Welcome:
    """Return the first message of the parent.

    :raises SystemExit: where the parent has ended.
    """
    reader = FrameReader()
    while True:
        data = channel.recv(1)  # and no byte of a second message
        if not data:
            raise SystemExit(1)
        for message in reader.feed(data):
            assert isinstance(message, Welcome), message
            return message


@attrs.define(eq=False)
class Worker:
    """A started worker."""

    _reactor: Any
    _daemon: Daemon
    _link: ParentLink
    _output: LogOutput
    _reports: LoopingCall = attrs.field(init=False)
    _expiry: LoopingCall = attrs.field(init=False)
    _stopping: bool = False
    _link_closed: Deferred[None] = attrs.field(factory=Deferred)

    def __attrs_post_init__(self) -> None:
        self._reports = LoopingCall(self._link.send_report)
        self._expiry = LoopingCall(self._link.second_level.records.remove_expired)
        self._reports.clock = self._expiry.clock = self._reactor

    def connect(self, channel: socket.socket) -> None:
        """Exchange messages with the parent, and report to it."""
        channel.setblocking(False)
        self._reactor.adoptStreamConnection(
            channel.fileno(), socket.AF_UNIX, OneProtocolFactory(self._link.channel)
        )
        self._reports.start(REPORT_SECONDS, now=False)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._shut_down)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._output.finish)

    def serve(self) -> None:
        """Accept connections, and write to the second level: the parent has restored it."""
        if not self._expiry.running:
            self._expiry.start(EXPIRY_SECONDS, now=False)
        self._daemon.serve()

    def stop(self) -> None:
        """Drain and end; may be called by a signal handler."""
        if not self._stopping:
            self._stopping = True
            self._reactor.callFromThread(self._reactor.stop)

    def report(self) -> tuple[dict[str, Any], bool]:
        """Return the document of :class:`.Report`, and whether an upstream may be reached."""
        admin, context = self._daemon.admin, self._daemon.context
        document = report_document(admin.stats.sources, len(admin.events))
        return document, context.upstreams.reachable(context.seconds())

    def parent_lost(self) -> None:
        """End at once, unless the end is under way."""
        if self._link_closed.called:
            return
        if self._reports.running:
            _log.error("the parent process has ended; this worker ends too")
            self._output.finish()
            os._exit(1)
        self._link_closed.callback(None)

    def _shut_down(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        await self._daemon.stopService()
        self._link.send_report()
        self._reports.stop()
        if self._expiry.running:
            self._expiry.stop()
        self._link.channel.close()
        await self._link_closed


def start(reactor: Any, welcome: Welcome) -> Worker:
    """Build the daemon, and start to serve when the reactor runs.

    :raises SettingError: where the configuration has become invalid.
    :raises SystemExit: with one line, where the daemon cannot start.
    :raises OSError: the log cannot be opened.
    """
    if welcome.version != __version__:
        raise SystemExit(
            f"goproxyai {__version__} has been installed while the parent process runs "
            f"{welcome.version}; restart the service"
        )
    sources = ConfigSources(welcome.options, dict(os.environ), welcome.directory)

    def read() -> LoadedConfig:
        config = sources.read()
        return attrs.evolve(config, settings=share_of(config.settings, welcome.workers))

    config = read()
    settings = config.settings
    prepare_trust_roots(os.environ, welcome.directory)
    output = worker_output(welcome.log_file, welcome.shared, settings)
    globalLogBeginner.beginLoggingTo([output])
    tracer = prepare_to_serve(reactor, settings)
    link = ParentLink(
        reactor,
        settings.rate_limit,
        map_records(welcome.shared, welcome.workers, reactor.seconds, welcome.index),
        map_marks(welcome.shared, welcome.workers, welcome.index),
        write_through,
        end_of_turn_scheduler(reactor),
    )
    link.second_level.records.resize(ring_size(settings))
    parts = WorkerParts(
        link,
        welcome.instance,
        tuple(welcome.sockets),
        tuple(welcome.admin_sockets),
        map_counts(welcome.shared, welcome.workers),
        welcome.index,
    )
    daemon = make_daemon(
        reactor,
        settings,
        request_writer(output),
        prices=config.prices,
        tracer=tracer,
        dropped_log_lines=lambda: output.dropped,
        worker=parts,
    )
    worker = Worker(reactor, daemon, link, output)
    link.store = daemon.context.store
    link.actions = WorkerActions(
        worker.report,
        worker.serve,
        partial(
            _reload,
            daemon,
            link.second_level,
            Reload(daemon, read, partial(_set_log_level, daemon, output), in_worker=True),
        ),
        output.reopen,
        worker.stop,
        worker.parent_lost,
    )
    daemon.startService()
    return worker


def _reload(daemon: Daemon, second_level: CacheClient, reload: Reload) -> None:
    daemon.listeners.renew_certificates()
    reload.run()
    second_level.store_all()  # what another size drops
    records = second_level.records
    records.resize(ring_size(daemon.settings))
    if not caching_enabled(daemon.settings):
        records.clear_own()


def _set_log_level(daemon: Daemon, output: LogOutput, level: str) -> None:
    output.set_level(level)
    daemon.write_requests(request_writer(output))


if __name__ == "__main__":
    main()
