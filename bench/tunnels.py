"""Round trips in WebSocket tunnels, through goproxyai and through nginx, in one run.

``python -m bench.tunnels`` opens tunnels to an echoing upstream, sends a frame in each of them, and
sends the next one as soon as the frame is back. The proxy has core 0; the clients and the upstream
share core 1. Both are Python, so that the rate of a fast proxy is a lower bound: the CPU time of
the proxy for each round trip has no such bound. The rounds of the two proxies are interleaved, and
the median counts. It also prints goproxyai's memory for each of :data:`IDLE_TUNNELS` idle tunnels.

With ``--tls``, the upstream has TLS. goproxyai then connects through a CONNECT proxy on core 1, and
nginx, which cannot, connects directly.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.certificates import Certificates, certificates_in, issue
from bench.daemons import Command, Placement, daemon, nginx_command
from bench.machine import (
    CHECKOUT,
    DAEMON_CORE,
    HERE,
    LOAD_CORE,
    Failed,
    allow_connections,
    built,
    cpu_seconds,
    environment,
    free_port,
    pinned,
    resident_bytes,
)
from bench.peers import Role, goproxyai, nginx_root

FRAME_BYTES = 128
"""Size of a frame, such as a small event of the Realtime API."""

WARM_SECONDS = 0.5
"""In which round trips are not counted."""

IDLE_TUNNELS = 500
"""Tunnels whose memory is measured."""

HANDSHAKE = (
    b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
KB = 1024


def connected(port: int) -> socket.socket:
    """Open a tunnel through the proxy on *port*."""
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(HANDSHAKE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = client.recv(4096)
        if not piece:
            raise Failed(f"no tunnel: {head[:100]!r}")
        head += piece
    if not head.startswith(b"HTTP/1.1 101 "):
        raise Failed(f"no tunnel: {head[:100]!r}")
    return client


def is_ready(port: int) -> bool:
    """Whether a tunnel can be opened."""
    connected(port).close()
    return True


class Echo:
    """One connection of the upstream.

    :param context: of TLS, or ``None``.
    """

    def __init__(self, peer: socket.socket, context: ssl.SSLContext | None) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setblocking(False)
        self._shakes_hands = context is not None
        if context is not None:
            peer = context.wrap_socket(peer, server_side=True, do_handshake_on_connect=False)
        self.peer = peer

    def receive(self) -> bool:
        """Answer a handshake, or send all other bytes back; return whether the peer is there."""
        try:
            if self._shakes_hands and isinstance(self.peer, ssl.SSLSocket):
                self.peer.do_handshake()
                self._shakes_hands = False
            while data := self.peer.recv(65536):
                self.peer.send(SWITCHED if data.startswith(b"GET ") else data)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False


def echo(port: int, certificates: Certificates | None) -> None:
    """Be the upstream: answer each handshake, and send all other bytes back."""
    context = None
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.certificate, certificates.key)
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    poller = select.epoll()
    connections: dict[int, Echo] = {}
    poller.register(listener, select.EPOLLIN)
    while True:
        for descriptor, _ in poller.poll():
            connection = connections.get(descriptor)
            if connection is None:
                connection = Echo(listener.accept()[0], context)
                connections[connection.peer.fileno()] = connection
                poller.register(connection.peer, select.EPOLLIN)
            elif not connection.receive():
                del connections[descriptor]
                connection.peer.close()


def round_trips(clients: list[socket.socket], seconds: float) -> int:
    """Keep a frame under way in each tunnel; return the number of frames that were back."""
    frame = bytes(FRAME_BYTES)
    poller = select.epoll()
    by_descriptor = {client.fileno(): client for client in clients}
    for client in clients:
        poller.register(client, select.EPOLLIN)
        client.sendall(frame)
    count, ends_at = 0, time.monotonic() + seconds
    while time.monotonic() < ends_at:
        events = poller.poll(1)
        for descriptor, _ in events:
            client = by_descriptor[descriptor]
            if len(client.recv(4096)) != FRAME_BYTES:
                raise Failed("a frame is not whole")
            client.send(frame)
        count += len(events)
    for client in clients:  # the frames that are under way
        if len(client.recv(4096)) != FRAME_BYTES:
            raise Failed("a frame is not whole")
    poller.close()
    return count


def nginx(placement: Placement) -> Command:
    values = {
        "PORT": str(placement.port),
        "UPSTREAM": str(placement.upstream),
        "SCHEME": "https" if placement.tls else "http",
        "ROOT": nginx_root(placement) if placement.tls else "",
    }
    return nginx_command(HERE / "conf" / "websocket.conf", values, placement.directory)


def ours(placement: Placement) -> Command:
    return goproxyai(placement, Role.RELAYING)


PROXIES: dict[str, Callable[[Placement], Command]] = {"nginx": nginx, "goproxyai": ours}


@contextlib.contextmanager
def upstream(certificates: Path | None) -> Iterator[int]:
    """Run the echoing upstream; yields its port.

    :param certificates: the directory of the certificates; ``None`` without TLS.
    """
    port = free_port()
    argv = [sys.executable, "-m", "bench.tunnels", "--echo", str(port)]
    argv += [] if certificates is None else ["--certificates", str(certificates)]
    process = subprocess.Popen(pinned(LOAD_CORE, *argv), env=environment(), cwd=CHECKOUT)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise Failed("the upstream did not start") from None
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def measure(port: int, pid: int, tunnels: int, seconds: float) -> tuple[float, float]:
    """Return round trips per second, and microseconds of the proxy's CPU time for each."""
    clients = [connected(port) for _ in range(tunnels)]
    try:
        round_trips(clients, WARM_SECONDS)
        cpu, began = cpu_seconds(pid), time.monotonic()
        count = round_trips(clients, seconds)
        passed = time.monotonic() - began
        return count / passed, (cpu_seconds(pid) - cpu) / count * 1e6
    finally:
        for client in clients:
            client.close()


def idle_memory(port: int, pid: int) -> float:
    """Return the bytes of the proxy's memory for each idle tunnel."""
    connected(port).close()
    before = resident_bytes(pid)
    clients = [connected(port) for _ in range(IDLE_TUNNELS)]
    after = resident_bytes(pid)
    for client in clients:
        client.close()
    return (after - before) / IDLE_TUNNELS


def _accepts(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port)).close()
    return True


def report(given: argparse.Namespace) -> None:
    """Measure both proxies, and print one line for each and their ratio."""
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goproxyai-tunnels-")))
        certificates = issue(root) if given.tls else None
        upstream_port = stack.enter_context(upstream(root if given.tls else None))
        egress = 0
        if given.tls:
            egress = free_port()
            argv = [built("gauge"), "connect", "-listen", f"127.0.0.1:{egress}"]
            place = Placement(egress, 0, root)
            stack.enter_context(daemon(Command(argv), LOAD_CORE, place, _accepts))
        running: dict[str, tuple[int, int]] = {}
        for name, command in PROXIES.items():
            placement = Placement(
                free_port(), upstream_port, root / name, certificates, given.tls, egress=egress
            )
            placement.directory.mkdir()
            process = daemon(command(placement), DAEMON_CORE, placement, is_ready)
            running[name] = placement.port, stack.enter_context(process)
        memory = idle_memory(*running["goproxyai"])
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in PROXIES}
        for _ in range(given.rounds):
            for name, (port, pid) in running.items():
                figures[name].append(measure(port, pid, given.tunnels, given.seconds))
    rates = {}
    for name, values in figures.items():
        rates[name] = statistics.median(rate for rate, _ in values)
        cpu = statistics.median(cpu for _, cpu in values)
        print(f"{name:10}{rates[name]:9,.0f} round trips/s, {cpu:5.1f} us of CPU time each")
    print(f"ratio     {rates['goproxyai'] / rates['nginx']:9.2f}, target: at least 0.5")
    print(f"memory    {memory / KB:9.1f} KB per idle tunnel, target: at most 32")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tunnels", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tls", action="store_true", help="TLS to upstream, by a CONNECT proxy")
    parser.add_argument("--echo", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--certificates", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.echo is not None:
        directory = given.certificates
        echo(given.echo, None if directory is None else certificates_in(directory))
        return
    allow_connections()
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    report(given)


if __name__ == "__main__":
    main()
