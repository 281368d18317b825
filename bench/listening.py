"""How two workers should listen: on one socket that both inherit, or on one each (SO_REUSEPORT).

``python -m bench.listening`` starts the service with ``WORKERS=2``, and as two single processes
whose sockets share a port. It prints, for both:

1. The largest share of a process, of connections that are opened at once.
2. Connections that failed when one process was killed, and when one was told to stop, under a
   steady load of new connections. A connection that a process had accepted before it was killed is
   lost in any case.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.cores import descriptors
from bench.daemons import Command, Placement, daemon
from bench.machine import BOTH_CORES, Failed, allow_connections, family, free_port
from bench.peers import Role, goproxyai

REQUEST = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
BURSTS = (32, 1000)
ROUNDS = 10
CLIENTS = 8
"""Threads that open one connection after the other."""
LOAD_SECONDS = 3.0
KILLED_AFTER_SECONDS = 1.0

LAUNCHER = """
import os, socket, sys
port, *command = sys.argv[1:]
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listening.bind(("127.0.0.1", int(port)))
listening.listen(4096)
os.dup2(os.dup(listening.fileno()), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(command[0], command)
"""
"""Starts a command as systemd does, with a socket of its own."""


@dataclasses.dataclass(frozen=True)
class Service:
    """Two processes that serve one port.

    ``processes`` returns their IDs at present.
    """

    port: int
    processes: Callable[[], list[int]]


def exchange(port: int) -> bool:
    """Whether a new connection is served."""
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(REQUEST)
            return client.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


@contextlib.contextmanager
def one_socket(directory: Path) -> Iterator[Service]:
    placement = Placement(free_port(), free_port(), directory)
    command = goproxyai(placement, Role.RELAYING, WORKERS="2", RATE_LIMIT="0")
    with daemon(command, BOTH_CORES, placement, exchange) as pid:
        yield Service(placement.port, lambda: family(pid)[1:])


@contextlib.contextmanager
def one_socket_each(directory: Path) -> Iterator[Service]:
    port, pids = free_port(), []
    with contextlib.ExitStack() as stack:
        for number in range(2):
            own = directory / str(number)
            own.mkdir()
            placement = Placement(port, free_port(), own)
            command = goproxyai(
                placement,
                Role.RELAYING,
                RATE_LIMIT="0",
                LISTEN="systemd:domain=INET:index=0",
                ADMIN_LISTEN=f"unix:{own / 'admin'}",
            )
            script = directory / "launcher.py"
            script.write_text(LAUNCHER)
            argv = [sys.executable, str(script), str(port), *command.argv]
            start = Command(argv, command.env)
            pids.append(
                stack.enter_context(daemon(start, BOTH_CORES, placement, _has_started(own)))
            )
        yield Service(port, lambda: [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()])


def _has_started(directory: Path) -> Callable[[int], bool]:
    """Return what tells whether a process has started: the other one may answer in its place."""
    return lambda _: (directory / "admin").exists()


def largest_share(service: Service, count: int) -> float:
    """The largest share of a process, of *count* connections that are opened at once."""
    before = settled(service)
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", service.port))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            opened = [descriptors(pid) - number for pid, number in before.items()]
            if sum(opened) >= count:
                return max(opened) / sum(opened)
            time.sleep(0.01)
    raise Failed(f"{sum(opened)} of {count} connections were accepted")


def settled(service: Service) -> dict[int, int]:
    """The numbers of open files of the processes, once no connection is opened or closed."""
    previous: dict[int, int] = {}
    while True:
        numbers = {pid: descriptors(pid) for pid in service.processes()}
        if numbers == previous:
            return numbers
        previous = numbers
        time.sleep(0.5)


def failures(service: Service, number: signal.Signals) -> tuple[int, int]:
    """Send a signal to one process under load; return the numbers of failures and connections."""
    outcomes: list[bool] = []
    ends_at = time.monotonic() + LOAD_SECONDS

    def load() -> None:
        while time.monotonic() < ends_at:
            outcomes.append(exchange(service.port))

    threads = [threading.Thread(target=load) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    time.sleep(KILLED_AFTER_SECONDS)
    os.kill(service.processes()[0], number)
    for thread in threads:
        thread.join()
    return outcomes.count(False), len(outcomes)


def measure(rounds: int) -> None:
    allow_connections()
    for name, start in (("one socket", one_socket), ("one socket each", one_socket_each)):
        for number in (signal.SIGKILL, signal.SIGTERM):
            with tempfile.TemporaryDirectory() as directory, start(Path(directory)) as service:
                if number is signal.SIGKILL:
                    for count in BURSTS:
                        shares = [largest_share(service, count) for _ in range(rounds)]
                        print(
                            f"{name}: {count} connections, largest share "
                            f"{statistics.median(shares):.0%} (at most {max(shares):.0%})",
                            flush=True,
                        )
                failed, total = failures(service, number)
                print(f"{name}: {number.name}: {failed} of {total} connections failed", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    measure(parser.parse_args().rounds)
