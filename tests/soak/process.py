"""The daemon (or nginx instead) as a process, measured from the outside.

Each process has a log file of its own, rotated by ``--logfile``. A file resolves its names, and on
SIGUSR2 it writes its object counts to a file (:mod:`.instrumentation`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.task import deferLater

from goproxyai.config.variables import VARIABLES
from tests.support.ports import free_port

CHECKOUT = Path(__file__).resolve().parents[2]
INSTRUMENTATION = Path(__file__).with_name("instrumentation")
TWISTD = Path(sys.executable).with_name("twistd")
NGINX = Path("/usr/sbin/nginx")

MAX_START_SECONDS, MAX_STOP_SECONDS = 30.0, 15.0


@attrs.frozen
class Measurement:
    """A measurement of an idle process.

    :ivar process: number of the process.
    :ivar rss: bytes of resident memory.
    :ivar descriptors: open file descriptors.
    :ivar blocks: memory blocks of live objects, by Python's allocator.
    :ivar objects: number of objects that belong to a request or a connection, by class.
    :ivar calls: names of the reactor's delayed calls.
    """

    process: int
    rss: int
    descriptors: int
    blocks: int
    objects: dict[str, int]
    calls: list[str]

    def __str__(self) -> str:
        return (
            f"process {self.process}, {self.rss / 2**20:.1f} MB, {self.descriptors} descriptors, "
            f"{self.blocks} blocks, {len(self.calls)} timers"
        )


class ServerProcess:
    """A program that listens on :attr:`port`, and can be restarted.

    :ivar number: how many processes were started.
    :ivar problems: unexpected ends.
    """

    def __init__(self, reactor: Any, directory: Path) -> None:
        self.port = free_port()
        self.number = 0
        self.problems: list[str] = []
        self._reactor = reactor
        self._directory = directory
        self._running: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return os.environ

    async def start(self) -> None:
        """Start a process and wait until it listens."""
        self.number += 1
        with (self._directory / "output").open("ab") as output:
            self._running = subprocess.Popen(
                self.command(), env=dict(self.environment()), cwd=self._directory,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        deadline = self._reactor.seconds() + MAX_START_SECONDS
        while not self._listens():
            assert self._running.poll() is None, (self._directory / "output").read_text()
            assert self._reactor.seconds() < deadline, "the process does not listen"
            await deferLater(self._reactor, 0.02)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    async def stop(self) -> None:
        """Send SIGTERM and wait for the process to end."""
        running, self._running = self._running, None
        if running is None:
            return
        running.send_signal(signal.SIGTERM)
        deadline = self._reactor.seconds() + MAX_STOP_SECONDS
        while running.poll() is None:
            if self._reactor.seconds() > deadline:
                self.problems.append(f"SIGTERM does not end it within {MAX_STOP_SECONDS:g} s")
                running.kill()
            await deferLater(self._reactor, 0.02)
        if running.returncode not in (0, -signal.SIGTERM):
            self.problems.append(f"exit status {running.returncode}")

    def kill(self) -> None:
        """Kill the process if it runs."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid

    @property
    def rss(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def output(self) -> str:
        """The standard output and error, which should be empty."""
        return (self._directory / "output").read_text()


class DaemonProcess(ServerProcess):
    """``twistd goproxyai`` with *settings*.

    :param names: the file that resolves its names.
    :param identity: the file of the key and the certificate with which it listens as well, if any.
    :ivar tls_port: where it does; 0 without *identity*.
    """

    def __init__(
        self,
        reactor: Any,
        directory: Path,
        names: Path,
        settings: Mapping[str, str],
        identity: Path | None = None,
    ) -> None:
        super().__init__(reactor, directory)
        self.tls_port = 0
        self._listen = f"tcp:{self.port}:interface=127.0.0.1:backlog=1024"
        if identity is not None:
            self.tls_port = free_port()
            self._listen += f" ssl:{self.tls_port}:interface=127.0.0.1:privateKey={identity}"
        self._names = names
        self._settings = settings
        self._counts = directory / "counts"

    def command(self) -> list[str]:
        log = self._directory / f"log-{self.number}"
        return [str(TWISTD), "--nodaemon", "--pidfile=", f"--logfile={log}", "goproxyai"]

    def environment(self) -> Mapping[str, str]:
        ours = {variable.name for variable in VARIABLES}
        passed = {name: value for name, value in os.environ.items() if name not in ours}
        return {
            **passed,
            "PYTHONPATH": os.pathsep.join((str(INSTRUMENTATION), str(CHECKOUT))),
            "SOAK_NAMES": str(self._names),
            "SOAK_COUNTS": str(self._counts),
            "LISTEN": self._listen,
            **self._settings,
        }

    async def measure(self) -> Measurement:
        self._counts.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR2)
        deadline = self._reactor.seconds() + MAX_START_SECONDS
        while not self._counts.exists():
            assert self._reactor.seconds() < deadline, "the process does not write its counts"
            await deferLater(self._reactor, 0.01)
        found = json.loads(self._counts.read_text())
        return Measurement(
            self.number, self.rss, self.descriptors, found["blocks"], found["objects"],
            found["calls"],
        )  # fmt: skip

    def log_lines(self, number: int) -> list[dict[str, Any]]:
        """The log of process *number*, oldest line first."""
        name = f"log-{number}"
        rotated = [path for path in self._directory.glob(f"{name}.*") if path.suffix[1:].isdigit()]
        rotated.sort(key=lambda path: -int(path.suffix[1:]))
        lines = []
        for path in (*rotated, self._directory / name):
            lines += [json.loads(line) for line in path.read_text().splitlines()]
        return lines


NGINX_CONF = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream openai {{ server 127.0.0.1:{upstream}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://openai;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_connect_timeout {connect}s;
            proxy_read_timeout {read}s;
            proxy_send_timeout {read}s;
        }}
    }}
}}
"""


class NginxProcess(ServerProcess):
    """nginx as a plain reverse proxy, for comparison."""

    def __init__(self, reactor: Any, directory: Path, upstream: int, read_seconds: int) -> None:
        super().__init__(reactor, directory)
        text = NGINX_CONF.format(upstream=upstream, port=self.port, connect=1, read=read_seconds)
        (directory / "nginx.conf").write_text(text)

    def command(self) -> list[str]:
        return [str(NGINX), "-p", str(self._directory), "-c", "nginx.conf"]
