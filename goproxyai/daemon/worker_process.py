"""A worker as its parent sees it: a process, and the socket pair to it."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
import msgspec
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

import goproxyai
from goproxyai.admin.summed_sources import ReportDocument
from goproxyai.reactor.socket_write import write_through
from goproxyai.state.channel import Channel, OneProtocolFactory
from goproxyai.state.messages import (
    Failed,
    FrameReader,
    Message,
    PassedSocket,
    Started,
    Welcome,
    frame,
)

CHANNEL_DESCRIPTOR: Final = 3
"""Of the socket to the parent, in the worker."""

MODULE: Final = "goproxyai.worker"

_READ_BYTES = 65536


class WorkerState(Enum):
    """The life of a worker."""

    STARTING = "starting"
    SERVING = "serving"
    ENDED = "ended"


class WorkerEvents(Protocol):
    """What happens to a worker; see :class:`.Supervisor`."""

    def received(self, worker: WorkerProcess, message: Message) -> None:
        """The worker has sent *message*."""

    def started(self, worker: WorkerProcess) -> None:
        """The worker accepts connections."""

    def ended(self, worker: WorkerProcess, clean: bool, how: str) -> None:
        """The process has ended.

        :param clean: whether it ended by itself, after its last report.
        :param how: for the log.
        """


@attrs.frozen
class WorkerSetup:
    """What every worker is started with.

    :ivar welcome: the first message; its descriptors are those of this process.
    """

    welcome: Welcome

    def spawn(self, reactor: Any, worker: WorkerProcess) -> tuple[socket.socket, Any]:
        """Start a process; return the socket to it and its process transport."""
        ours, theirs = socket.socketpair()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            descriptors = {
                0: null,
                1: _open_or(1, null),
                2: _open_or(2, null),
                CHANNEL_DESCRIPTOR: theirs.fileno(),
            }
            welcome = self._passing(descriptors, worker.index)
            process = reactor.spawnProcess(
                worker,
                sys.executable,
                [sys.executable, "-P", "-m", MODULE],
                env=_environment(),
                childFDs=descriptors,
            )
        finally:
            theirs.close()
            os.close(null)
        with suppress(OSError):  # the end of the process is noticed later
            ours.sendall(frame(welcome))
        return ours, process

    def _passing(self, descriptors: dict[int, int], index: int) -> Welcome:
        """Return the welcome with the descriptors of the worker, and add these to *descriptors*."""

        def passed(descriptor: int) -> int:
            number = len(descriptors)
            descriptors[number] = descriptor
            return number

        def passed_sockets(sockets: list[PassedSocket]) -> list[PassedSocket]:
            return [PassedSocket(each.description, passed(each.descriptor)) for each in sockets]

        welcome = self.welcome
        return msgspec.structs.replace(
            welcome,
            shared=passed(welcome.shared),
            index=index,
            sockets=passed_sockets(welcome.sockets),
            admin_sockets=passed_sockets(welcome.admin_sockets),
        )


def _open_or(descriptor: int, other: int) -> int:
    """Return *descriptor* if it is open, else *other*."""
    try:
        os.fstat(descriptor)
    except OSError:
        return other
    return descriptor


def _environment() -> dict[str, str]:
    """Return the environment, in which the worker finds the package of this process."""
    package = str(Path(goproxyai.__file__).resolve().parents[1])
    paths = [package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([path for path in paths if path])}


class WorkerProcess(ProcessProtocol):
    """One worker.

    :ivar number: its place from 1, which its replacement gets too.
    :ivar index: its place from 0.
    :ivar started_at: monotonic seconds.
    :ivar report: its last report. :ivar reachable: whether it may reach an upstream.
    :ivar silent_ticks: ticks of the supervisor since its last message.
    """

    def __init__(self, number: int, setup: WorkerSetup, events: WorkerEvents, now: float) -> None:
        self.number = number
        self.index = number - 1
        self._setup = setup
        self._events = events
        self.started_at = now
        self.state = WorkerState.STARTING
        self.report: ReportDocument | None = None
        self.reachable = True
        self.silent_ticks = 0
        self.pid = 0
        self._process: Any = None
        self._socket: socket.socket | None = None
        self._channel = Channel(self, write_through)
        self._is_connected = False
        self._end: tuple[bool, str] | None = None

    def spawn(self, reactor: Any) -> None:
        """Start the process; to be followed by :meth:`connect`."""
        self._socket, self._process = self._setup.spawn(reactor, self)
        self.pid = self._process.pid

    def wait_until_started(self, deadline: float) -> str:
        """Block until the worker has started; only before the reactor runs.

        :param deadline: of ``time.monotonic()``.
        :returns: why it has not, or an empty string.
        """
        assert self._socket is not None, "the process is spawned, and not connected"
        reader = FrameReader()
        while True:
            timeout = deadline - time.monotonic()
            if timeout <= 0 or not select.select([self._socket], [], [], timeout)[0]:
                return "the worker process did not start in time"
            data = b""
            with suppress(OSError):  # the worker has not read the welcome
                data = self._socket.recv(_READ_BYTES)
            if not data:
                return "the worker process ended during its start"
            for message in reader.feed(data):
                if isinstance(message, Failed):
                    return message.problem
                if isinstance(message, Started):
                    self.state = WorkerState.SERVING
                    return ""

    def connect(self, reactor: Any) -> None:
        """Exchange messages from now on."""
        assert self._socket is not None, "the process is spawned"
        with self._socket as ours:
            ours.setblocking(False)
            reactor.adoptStreamConnection(
                ours.fileno(), socket.AF_UNIX, OneProtocolFactory(self._channel)
            )
        self._socket = None
        self._is_connected = True

    def send(self, message: Message) -> None:
        self._channel.send(message)

    def kill(self) -> None:
        """End the process at once."""
        if self.state is not WorkerState.ENDED:
            self._process.signalProcess(signal.SIGKILL)

    # Peer of the channel

    def message_received(self, message: Message) -> None:
        self.silent_ticks = 0
        if isinstance(message, Started):
            self.state = WorkerState.SERVING
            self._events.started(self)
        else:
            self._events.received(self, message)

    def peer_lost(self) -> None:
        """The worker's last message has been read; the end of the process precedes or follows."""
        self._is_connected = False
        self._tell_end()

    # ProcessProtocol

    def processEnded(self, reason: Failure) -> None:
        self.state = WorkerState.ENDED
        ended: Any = reason.value
        clean = isinstance(ended, ProcessDone)
        how = f"by signal {ended.signal}" if ended.signal else f"with status {ended.exitCode}"
        self._end = clean, how
        self._tell_end()

    def _tell_end(self) -> None:
        """Tell the end after the last message, which may be a report."""
        if self._end is not None and not self._is_connected:
            self._events.ended(self, *self._end)


def listening_sockets(descriptions: Sequence[str], ports: Sequence[Any]) -> list[PassedSocket]:
    """Return the sockets of *ports*, in the order of their descriptions."""
    pairs = zip(descriptions, ports, strict=True)
    return [PassedSocket(description, port.fileno()) for description, port in pairs]
