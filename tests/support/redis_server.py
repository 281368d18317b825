"""A redis-server that a test starts, stops and breaks."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from hiredis import Reader, pack_command

from tests.support.ports import free_port

REDIS_SERVER = shutil.which("redis-server")

needs_redis = pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not installed")

START_SECONDS = 20.0
"""The longest time that a server needs to start, on a busy machine."""

NEVER_EXPIRES = -1
"""What ``PTTL`` returns of a key without a TTL; of no key, -2."""


@attrs.define(eq=False)
class RedisServer:
    """A server on loopback, without persistence.

    :param options: further arguments of ``redis-server``.
    """

    directory: Path
    options: tuple[str, ...] = ()
    port: int = attrs.field(factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert REDIS_SERVER is not None
        port = () if "--port" in self.options else ("--port", str(self.port))
        self.process = subprocess.Popen(
            [
                REDIS_SERVER, *port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                "--unixsocket", str(self.socket), *self.options,
            ],
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(str(self.socket))
                return
            except OSError:
                assert self.process.poll() is None, "redis-server has ended"
                time.sleep(0.01)
        raise AssertionError("redis-server does not start")

    @property
    def socket(self) -> Path:
        return self.directory / f"redis-{self.port}.sock"

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def hang(self) -> None:
        """Stop the process, without closing its connections."""
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a process that hangs go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def command(self, *arguments: Any, login: tuple[str, ...] = ()) -> Any:
        """Send a command on a connection of its own, and return the reply.

        :raises OSError: where the server closes the connection, as it does when its role changes.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_SECONDS)
            connection.connect(str(self.socket))
            reader = Reader()
            for one in ((("AUTH", *login),) if login else ()) + (arguments,):
                connection.sendall(pack_command(one))
                reply = False
                while reply is False:
                    data = connection.recv(65536)
                    if not data:
                        raise ConnectionResetError("closed by the server")
                    reader.feed(data)
                    reply = reader.gets()
            return reply

    def all_keys(self) -> list[bytes]:
        """All keys of the database 0."""
        return list(self.command("KEYS", "*"))


@contextmanager
def redis_server(directory: Path, *options: str) -> Iterator[RedisServer]:
    """Run a server."""
    server = RedisServer(directory, options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for the tests of a module."""
    with redis_server(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    """The server without keys."""
    running.command("FLUSHALL")
    return running
