"""A real HAProxy in front of two daemons, with the file of ``deploy/``."""

from __future__ import annotations

import csv
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.threads import deferToThread

from tests.integration.infrastructure_headers import headers_behind
from tests.process.daemon_process import (
    FEW_CONNECTIONS,
    DaemonProcess,
    assert_clean,
    command,
)
from tests.process.programs import Run, check_configuration, deployed, needs, run
from tests.process.test_restart import Client, ask, eventually_more, load, wait_until_listening
from tests.support.harness import ProxyHarness, request
from tests.support.ports import free_port
from tests.support.raw_client import RawClient
from tests.support.serving import loopback

__all__ = ["run"]  # the fixture

pytestmark = [pytest.mark.process, needs("haproxy")]

HEAD = """
global
    stats socket {directory}/stats.sock
"""

PATIENT_CHECKS = "timeout check 30s\n    default-server check inter 100ms"
"""Frequent, but a busy machine may take longer to answer one."""

PLAIN_CHECK = f"""
backend plain
    option httpchk GET /health
    {PATIENT_CHECKS} fall 1 rise 1
    server a 127.0.0.1:{{port}}
"""
"""The check that most examples have: HTTP/1.0 without ``Host``."""


@attrs.define(eq=False)
class Balanced:
    """Daemons behind a HAProxy.

    :ivar port: of the frontend.
    :ivar ports: of the daemons, by the names of their servers.
    :ivar settings: of the daemons.
    """

    directory: Path
    port: int
    ports: dict[str, int]
    settings: dict[str, str]
    started: list[DaemonProcess] = attrs.field(factory=list)

    def start(self, name: str) -> DaemonProcess:
        """Start the daemon of server *name*."""
        directory = self.directory / f"{name}{len(self.started)}"
        directory.mkdir()
        listen = f"tcp:{self.ports[name]}:interface=127.0.0.1"
        process = DaemonProcess(directory, command(), {"LISTEN": listen, **self.settings})
        self.started.append(process)
        wait_until_listening(process)
        return process

    def configuration(self) -> str:
        checked = {
            "default-server check inter 1s": PATIENT_CHECKS,
            "bind :80": f"bind 127.0.0.1:{self.port}",
        }
        servers = {
            f"192.0.2.{number}:8080": f"127.0.0.1:{self.ports[name]}"
            for number, name in ((11, "a"), (12, "b"))
        }
        return (
            HEAD.format(directory=self.directory)
            + deployed("haproxy.cfg", checked | servers)
            + PLAIN_CHECK.format(port=self.ports["a"])
        )

    def has_statistics(self) -> bool:
        """Return whether HAProxy listens on its socket for statistics."""
        try:
            self.checks()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def checks(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Return the state and the last check's result of each server, by backend and server."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.directory / "stats.sock"))
            client.sendall(b"show stat\n")
            with client.makefile() as answer:
                rows = list(csv.DictReader(answer.read().removeprefix("# ").splitlines()))
        return {
            (row["pxname"], row["svname"]): (row["status"], row["check_status"]) for row in rows
        }

    def until_up(self, *names: str) -> None:
        """Wait until the last checks of the servers *names* have succeeded."""
        self.started[-1].until(
            lambda: all(self.checks()["goproxyai", name] == ("UP", "L7OK") for name in names)
        )


@pytest.fixture
def balanced(tmp_path: Path) -> Iterator[Balanced]:
    ports = {name: free_port() for name in "ab"}
    settings = {"MAX_CONNECTIONS": FEW_CONNECTIONS, "RATE_LIMIT": "0", "DRAIN_DELAY": "2s"}
    one = Balanced(tmp_path, free_port(), ports, settings)
    yield one
    for process in one.started:
        process.kill()


def start_haproxy(run: Run, balanced: Balanced) -> DaemonProcess:
    file = balanced.directory / "haproxy.cfg"
    file.write_text(balanced.configuration())
    check_configuration("haproxy", "-c", "-f", str(file), warning="WARNING")
    haproxy = run("haproxy", "-db", "-f", str(file), port=balanced.port)
    haproxy.until(balanced.has_statistics)  # their socket may listen later than the frontend
    return haproxy


def test_plain_check_keeps_the_daemon_up(run: Run, balanced: Balanced) -> None:
    process = balanced.start("a")
    haproxy = start_haproxy(run, balanced)
    # A star stands before the previous result while a check is in progress.
    haproxy.until(lambda: balanced.checks()["plain", "a"] == ("UP", "L7OK"))
    assert ask(balanced.port, "/health") == 200
    assert ask(balanced.port, "/stats") == 404
    process.send(signal.SIGTERM)
    process.ended()
    assert_clean(process)


def replace_both(run: Run, balanced: Balanced) -> list[Client]:
    """Restart both daemons in turn, under load."""
    processes = {name: balanced.start(name) for name in "ab"}
    start_haproxy(run, balanced)
    balanced.until_up("a", "b")
    with load(balanced.port, 8) as clients:
        eventually_more(clients, balanced.started[-1])
        for name, process in processes.items():
            process.send(signal.SIGTERM)
            assert process.ended() in (0, -signal.SIGTERM)
            after = balanced.start(name)
            balanced.until_up("a", "b")
            eventually_more(clients, after)
    return clients


@pytest_twisted.ensureDeferred
async def test_rolling_restart_refuses_nothing(
    harness: ProxyHarness, run: Run, balanced: Balanced
) -> None:
    upstream_port = await harness.upstream.listen(loopback(harness.reactor))
    balanced.settings["OPENAI_API_URL"] = f"http://127.0.0.1:{upstream_port}"
    clients = await deferToThread(replace_both, run, balanced)
    assert [each.failures for each in clients] == [[]] * len(clients)
    assert sum(each.reconnected for each in clients) == 0
    for process in balanced.started:
        served = [line for line in process.requests if line["path"].startswith("/v1/")]
        assert served != []
        assert {line["status"] for line in served} == {200}
    for process in balanced.started[:2]:
        assert_clean(process)


def start_one(run: Run, balanced: Balanced) -> None:
    """Start one of the daemons behind HAProxy."""
    balanced.start("a")
    start_haproxy(run, balanced)
    balanced.until_up("a")


@pytest_twisted.ensureDeferred
async def test_second_request_is_a_hit(harness: ProxyHarness, run: Run, balanced: Balanced) -> None:
    upstream_port = await harness.upstream.listen(loopback(harness.reactor))
    balanced.settings["OPENAI_API_URL"] = f"http://127.0.0.1:{upstream_port}"
    await deferToThread(start_one, run, balanced)
    endpoint = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", balanced.port)
    for name in ("haproxy", "cloudflare", "java-http-client", "curl-http2"):
        client = await connectProtocol(endpoint, RawClient(harness.reactor))
        labels = []
        for number in range(2):
            headers = [("X-Cache-Namespace", name), *headers_behind(name, number)]
            client.send(request("/v1/models", headers=headers))
            labels.append((await client.answer()).get("X-Cache"))
        assert (name, labels) == (name, [b"MISS", b"HIT"])
        client.abort()
    for process in balanced.started:
        assert_clean(process)
