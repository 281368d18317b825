"""The daemon (or nginx in its place) as a process, measured from outside.

Its log goes to a file a process, rotated as ``--logfile`` does. Names are looked up in a file, and
SIGUSR2 has it write down what it holds (:mod:`.inside`).
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

CHECKOUT = Path(__file__).resolve().parents[2]
INSIDE = Path(__file__).with_name("inside")
TWISTD = Path(sys.executable).with_name("twistd")
NGINX = Path("/usr/sbin/nginx")

STARTING, STOPPING = 30.0, 15.0
"""Seconds that each may take."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@attrs.frozen
class Measured:
    """A process that has nothing to do.

    :ivar rss: bytes of resident memory. :ivar descriptors: open ones.
    :ivar blocks: of memory that live objects take, by Python's own allocator.
    :ivar objects: that belong to a request or a connection. :ivar calls: the reactor's.
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


class Process:
    """A program that listens on :attr:`port`, again and again.

    :ivar number: how many were started.
    """

    def __init__(self, reactor: Any, directory: Path) -> None:
        self.port = free_port()
        self.number = 0
        self.complaints: list[str] = []
        self._reactor = reactor
        self._directory = directory
        self._running: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """What is run."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """With which environment."""
        return os.environ

    async def start(self) -> None:
        """Start one, and wait until it listens."""
        self.number += 1
        with (self._directory / "said").open("ab") as said:
            self._running = subprocess.Popen(
                self.command(), env=dict(self.environment()), cwd=self._directory,
                stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            )  # fmt: skip
        deadline = self._reactor.seconds() + STARTING
        while not self._listens():
            assert self._running.poll() is None, (self._directory / "said").read_text()
            assert self._reactor.seconds() < deadline, "it does not listen"
            await deferLater(self._reactor, 0.02)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    async def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        running, self._running = self._running, None
        if running is None:
            return
        running.send_signal(signal.SIGTERM)
        deadline = self._reactor.seconds() + STOPPING
        while running.poll() is None:
            if self._reactor.seconds() > deadline:
                self.complaints.append("it does not end")
                running.kill()
            await deferLater(self._reactor, 0.02)
        if running.returncode not in (0, -signal.SIGTERM):
            self.complaints.append(f"it ended with status {running.returncode}")

    def kill(self) -> None:
        """Make sure that nothing is left."""
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


class Daemon(Process):
    """``twistd goproxyai`` with *settings*.

    :param names: the file in which it looks names up.
    """

    def __init__(
        self, reactor: Any, directory: Path, names: Path, settings: Mapping[str, str]
    ) -> None:
        super().__init__(reactor, directory)
        self._names = names
        self._settings = settings
        self._look = directory / "look"

    def command(self) -> list[str]:
        log = self._directory / f"log-{self.number}"
        return [str(TWISTD), "--nodaemon", "--pidfile=", f"--logfile={log}", "goproxyai"]

    def environment(self) -> Mapping[str, str]:
        ours = {variable.name for variable in VARIABLES}
        passed = {name: value for name, value in os.environ.items() if name not in ours}
        return {
            **passed,
            "PYTHONPATH": os.pathsep.join((str(INSIDE), str(CHECKOUT))),
            "FAULTS_NAMES": str(self._names),
            "FAULTS_LOOK": str(self._look),
            "LISTEN": f"tcp:{self.port}:interface=127.0.0.1:backlog=1024",
            **self._settings,
        }

    async def measure(self) -> Measured:
        """What it holds now."""
        self._look.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR2)
        deadline = self._reactor.seconds() + STARTING
        while not self._look.exists():
            assert self._reactor.seconds() < deadline, "it does not tell"
            await deferLater(self._reactor, 0.01)
        found = json.loads(self._look.read_text())
        return Measured(
            self.number, self.rss, self.descriptors, found["blocks"], found["objects"],
            found["calls"],
        )  # fmt: skip

    def lines(self, number: int) -> list[dict[str, Any]]:
        """The log of the process *number*, oldest line first."""
        name = f"log-{number}"
        rotated = [path for path in self._directory.glob(f"{name}.*") if path.suffix[1:].isdigit()]
        rotated.sort(key=lambda path: -int(path.suffix[1:]))
        found = []
        for path in (*rotated, self._directory / name):
            found += [json.loads(line) for line in path.read_text().splitlines()]
        return found

    def said(self) -> str:
        """What came on its standard output and error, where nothing should."""
        return (self._directory / "said").read_text()


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
            proxy_read_timeout {silence}s;
            proxy_send_timeout {silence}s;
        }}
    }}
}}
"""


class Nginx(Process):
    """nginx as a bare reverse proxy, for scale."""

    def __init__(self, reactor: Any, directory: Path, upstream: int, silence: int) -> None:
        super().__init__(reactor, directory)
        text = NGINX_CONF.format(upstream=upstream, port=self.port, connect=1, silence=silence)
        (directory / "nginx.conf").write_text(text)

    def command(self) -> list[str]:
        return [str(NGINX), "-p", str(self._directory), "-c", "nginx.conf"]
