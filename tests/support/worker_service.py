"""A parent and its workers in this process: real sockets between them, no child processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
import pytest
from twisted.internet.error import ProcessDone
from twisted.internet.task import deferLater
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from goproxyai import worker as worker_module
from goproxyai.config.sources import ConfigSources
from goproxyai.daemon.shared_memory import make_shared_memory
from goproxyai.daemon.supervisor import Supervisor
from goproxyai.daemon.worker_process import CHANNEL_DESCRIPTOR, WorkerProcess
from goproxyai.daemon.workers import make_parent
from goproxyai.state.messages import PassedSocket, Started, Welcome, frame
from goproxyai.worker import Worker, receive_welcome


class Output:
    """Has the methods of a log output; what is logged is lost."""

    dropped = 0
    wants_requests = False

    def finish(self) -> None: ...
    def reopen(self) -> None: ...
    def check_size(self) -> None: ...
    def set_level(self, level: str) -> None: ...


class ParentReactor:
    """Spawns workers that :class:`WorkerService` starts in this process."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.inherited: dict[Any, dict[int, int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def spawnProcess(self, protocol: Any, *_: Any, childFDs: dict[int, int], **__: Any) -> Any:
        self.inherited[protocol] = {child: os.dup(each) for child, each in childFDs.items()}
        return self

    @property
    def pid(self) -> int:
        return os.getpid()

    def callWhenRunning(self, call: Callable[..., Any], *arguments: Any) -> None:
        call(*arguments)


class WorkerReactor:
    """Keeps what the worker wants to be called at its end."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.triggers: list[Callable[[], Any]] = []
        self.stopped = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def addSystemEventTrigger(self, phase: str, event: str, call: Callable[[], Any]) -> None:
        self.triggers.append(call)

    def stop(self) -> None:
        self.stopped = True


@attrs.define(eq=False)
class WorkerService:
    """A service of two workers.

    :ivar workers: each with its reactor.
    """

    reactor: Any
    settings: dict[str, str]
    supervisor: Supervisor = attrs.field(init=False)
    workers: list[tuple[Worker, WorkerReactor, WorkerProcess]] = attrs.field(factory=list)
    _parent_reactor: ParentReactor = attrs.field(init=False)
    _feed: Any = None
    _descriptors: list[int] = attrs.field(factory=list)  # stay open until the end

    def start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker_module, "worker_output", lambda *_: Output())
        monkeypatch.setattr(worker_module, "prepare_to_serve", lambda *_: None)
        monkeypatch.setattr(globalLogBeginner, "beginLoggingTo", lambda _: None)
        for name, text in self.settings.items():
            monkeypatch.setenv(name, text)
        monkeypatch.setattr(
            WorkerProcess, "wait_until_started", lambda process, _: self._start_worker(process)
        )
        self._parent_reactor = ParentReactor(self.reactor)
        sources = ConfigSources({}, dict(os.environ), os.getcwd())
        shared = make_shared_memory(2)
        self.supervisor = make_parent(
            self._parent_reactor,
            {"nodaemon": True},
            sources,
            sources.read(),
            Output(),  # type: ignore[arg-type]
            shared,
            2,
            lambda: None,
        )
        self.supervisor.startService()
        self._descriptors.append(shared)

    async def until_serving(self) -> None:
        """Wait until the parent has told all workers to accept connections."""
        for worker, _, _ in self.workers:
            while not set(worker._daemon.listeners._ports) <= set(self.reactor.getReaders()):
                await deferLater(self.reactor, 0)

    def ports(self) -> list[Any]:
        return self.supervisor.listeners._ports

    def _start_worker(self, process: WorkerProcess) -> str:
        inherited = self._parent_reactor.inherited.pop(process)
        with socket.socket(fileno=inherited.pop(CHANNEL_DESCRIPTOR)) as channel:
            welcome = receive_welcome(channel)
            reactor = WorkerReactor(self.reactor)
            worker = worker_module.start(reactor, _renumbered(welcome, inherited))
            channel.sendall(frame(Started()))
            worker.connect(channel)
        self._descriptors += inherited.values()
        self.workers.append((worker, reactor, process))
        process.state = process.state.SERVING
        return ""

    def accept_only(self, index: int) -> None:
        """Let only one worker accept connections from now on."""
        for number, (worker, _, _) in enumerate(self.workers):
            for port in worker._daemon.listeners._ports:
                if number == index:
                    port.startReading()  # type: ignore[attr-defined]
                else:
                    port.stopReading()  # type: ignore[attr-defined]

    async def stop(self) -> None:
        """Stop as after SIGTERM; the processes end when the workers have drained."""
        stopping = self.supervisor.stopService()
        for worker, reactor, process in self.workers:
            worker.stop()
            for call in reactor.triggers:
                ended = call()
                if ended is not None:
                    await ended
            process.processEnded(Failure(ProcessDone(0)))
        await stopping
        self.supervisor.state._summed.refresh()
        while self._descriptors:
            os.close(self._descriptors.pop())


def _renumbered(welcome: Welcome, inherited: dict[int, int]) -> Welcome:
    """Return *welcome* with the descriptors of this process."""

    def renumbered(sockets: list[PassedSocket]) -> list[PassedSocket]:
        return [PassedSocket(each.description, inherited.pop(each.descriptor)) for each in sockets]

    return msgspec.structs.replace(
        welcome,
        shared=inherited[welcome.shared],
        sockets=renumbered(welcome.sockets),
        admin_sockets=renumbered(welcome.admin_sockets),
    )
