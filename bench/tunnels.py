"""Round trips in WebSocket tunnels, through goproxyai and through nginx, in one run.

``python -m bench.tunnels`` opens tunnels to an echoing upstream, sends a frame in each of them, and
sends the next one as soon as the frame is back. The proxy has core 0; the clients and the upstream
share core 1. Both are Python, so that the rate of a fast proxy is a lower bound: the CPU time of
the proxy for each round trip has no such bound. The rounds of the two proxies are interleaved, and
the median counts. It also prints goproxyai's memory for each of :data:`IDLE_TUNNELS` idle tunnels.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.daemons import Command, Placement, daemon, nginx_command
from bench.machine import (
    CHECKOUT,
    DAEMON_CORE,
    HERE,
    LOAD_CORE,
    Failed,
    allow_connections,
    cpu_seconds,
    environment,
    free_port,
    pinned,
    resident_bytes,
)
from bench.peers import Role, goproxyai

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


def echo(port: int) -> None:
    """Be the upstream: answer each handshake, and send all other bytes back."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    poller = select.epoll()
    open_sockets: dict[int, socket.socket] = {}
    poller.register(listener, select.EPOLLIN)
    while True:
        for descriptor, _ in poller.poll():
            peer = open_sockets.get(descriptor)
            if peer is None:
                peer, _ = listener.accept()
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                open_sockets[peer.fileno()] = peer
                poller.register(peer, select.EPOLLIN)
                continue
            data = b""
            with contextlib.suppress(OSError):
                data = peer.recv(65536)
            if not data:
                del open_sockets[descriptor]
                peer.close()
            elif data.startswith(b"GET "):
                peer.sendall(SWITCHED)
            else:
                peer.sendall(data)


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
    values = {"PORT": str(placement.port), "UPSTREAM": str(placement.upstream)}
    return nginx_command(HERE / "conf" / "websocket.conf", values, placement.directory)


def ours(placement: Placement) -> Command:
    return goproxyai(placement, Role.RELAYING)


PROXIES: dict[str, Callable[[Placement], Command]] = {"nginx": nginx, "goproxyai": ours}


@contextlib.contextmanager
def upstream() -> Iterator[int]:
    """Run the echoing upstream; yields its port."""
    port = free_port()
    argv = [sys.executable, "-m", "bench.tunnels", "--echo", str(port)]
    process = subprocess.Popen(pinned(LOAD_CORE, *argv), env=environment(), cwd=CHECKOUT)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                connected(port).close()
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


def report(given: argparse.Namespace) -> None:
    """Measure both proxies, and print one line for each and their ratio."""
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goproxyai-tunnels-")))
        upstream_port = stack.enter_context(upstream())
        running: dict[str, tuple[int, int]] = {}
        for name, command in PROXIES.items():
            placement = Placement(free_port(), upstream_port, root / name)
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
    parser.add_argument("--echo", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.echo is not None:
        echo(given.echo)
        return
    allow_connections()
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    report(given)


if __name__ == "__main__":
    main()
