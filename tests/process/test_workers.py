"""``WORKERS``: several processes that behave as one."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.process.daemon_process import (
    CHECKOUT,
    TIMEOUT_SECONDS,
    TWISTD,
    DaemonProcess,
    command,
    environment,
    eventually,
    start,
)
from tests.process.test_restart import SocketUnit
from tests.process.worker_service import (
    Serve,
    Service,
    Upstream,
    close_connections,
    has_ended,
    serve,
    upstream,
    upstream_server,
)
from tests.support.authority import Authority

__all__ = ["close_connections", "serve", "start", "upstream"]  # the fixtures

pytestmark = pytest.mark.process


def test_each_worker_serves_and_their_numbers_add_up(serve: Serve) -> None:
    service = serve()
    connections = service.connection_to_each()
    workers = {each.ask(f"/v1/of-{pid}").worker for pid, each in connections.items()}
    assert len(workers) == 2
    stats = service.stats()
    assert stats["cache"]["misses"] == 2
    assert stats["cache"]["max_bytes"] == 100 * 1024 * 1024
    assert stats["workers"]["count"] == 2
    assert stats["config"]["WORKERS"] == {"value": "2", "source": "environment"}
    assert b'goproxyai_cache_requests_total{outcome="miss"} 2.0' in service.ask("/metrics").body
    assert service.process.err == ""


def test_dashboard_shows_the_numbers_of_all_workers(serve: Serve) -> None:
    service = serve()
    one, other = service.connection_to_each().values()
    one.ask("/v1/a")
    stream = other._http
    stream.request("GET", "/dashboard/events")
    answer = stream.getresponse()
    names = []
    for line in iter(answer.readline, b""):
        if line.startswith(b"event: "):
            names.append(line.split()[1])
        elif line.startswith(b"data: ") and names[-1] == b"state":
            state = json.loads(line[6:])
            if state["cache"]["misses"] == 1:
                break
    assert names[:2] == [b"slots", b"state"]


def test_client_gets_its_limit_whichever_workers_it_uses(serve: Serve) -> None:
    limit, workers = 40, 4
    service = serve(workers, RATE_LIMIT=str(limit))
    lease = service.stats()["workers"]["lease"]
    assert lease == limit // 8
    connections = list(service.connection_to_each().values())
    began = time.monotonic()
    answers = [each.ask(f"/v1/{n}") for n in range(2 * limit // workers) for each in connections]
    refilled = limit * (time.monotonic() - began) / 60 + 1
    admitted = sum(answer.status == 200 for answer in answers)
    assert limit - workers * lease <= admitted <= limit + workers * lease + refilled
    assert {answer.status for answer in answers} == {200, 429}
    assert service.stats()["requests"]["limited"] == len(answers) - admitted


def test_clearing_and_writes_reach_the_caches_of_all_workers(serve: Serve) -> None:
    service = serve()
    one, other = service.connection_to_each().values()

    def outcomes() -> list[str | None]:
        return [each.ask("/v1/files").cache for each in (one, other)]

    assert outcomes() == ["MISS", "HIT"]  # the second level has it
    assert outcomes() == ["HIT", "HIT"]
    assert one.ask("/cache", "DELETE").status == 200
    assert outcomes() == ["MISS", "HIT"]
    old = one.ask("/v1/files").body
    assert other.ask("/v1/files", "POST").status == 200
    assert other.ask("/v1/files").cache == "MISS"
    eventually(lambda: one.ask("/v1/files").body != old)


def test_killed_worker_is_replaced_and_its_numbers_stay(serve: Serve, upstream: Upstream) -> None:
    service = serve()
    connections = service.connection_to_each()
    victim, survivor = connections
    for number in range(5):
        connections[victim].ask(f"/v1/{number}")
    before = service.stats()
    assert before["cache"]["misses"] == 5
    broken: list[BaseException] = []
    asked = threading.Event()

    def load() -> None:
        try:
            while not stop.is_set():
                assert connections[survivor].ask("/v1/a").status == 200
                asked.set()
        except BaseException as error:
            broken.append(error)

    stop = threading.Event()
    thread = threading.Thread(target=load)
    thread.start()
    try:
        asked.wait(TIMEOUT_SECONDS)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in service.pids())
        pids = service.wait_for_workers(2)
    finally:
        stop.set()
        thread.join()
    assert broken == []
    assert survivor in pids
    after = service.stats()
    assert after["workers"]["restarts"] == 1
    assert after["workers"]["lost_reports"] == 1
    assert after["cache"]["misses"] == 6
    assert after["requests"]["total"] >= before["requests"]["total"]
    (line,) = [line for line in service.process.messages("warn") if "ended" in line]
    assert f"process {victim}, ended by signal 9; it is replaced" in line
    assert service.connection_to(pids[0]).ask("/v1/b").status == 200


def test_killed_worker_leaves_nothing_in_flight(serve: Serve, upstream: Upstream) -> None:
    service = serve()
    victim = service.pids()[0]
    connection = service.connection_to(victim)
    connection._http.request("GET", "/v1/slow")
    eventually(lambda: upstream.waiting)
    assert service.stats()["requests"]["in_flight"] == 2
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: service.stats()["requests"]["in_flight"] == 1)


def test_workers_end_when_the_parent_is_killed(serve: Serve) -> None:
    service = serve()
    pids = service.pids()
    service.process.kill()
    eventually(lambda: all(has_ended(pid) for pid in pids))


@pytest.mark.parametrize("whole_group", [False, True])
def test_sigterm_drains_all_workers(serve: Serve, upstream: Upstream, whole_group: bool) -> None:
    service = serve()
    pids = service.pids()
    connections = service.connection_to_each()
    for each in connections.values():
        each._http.request("GET", "/v1/slow", headers={"Cache-Control": "no-store"})
    eventually(lambda: upstream.waiting == 2)
    for pid in [*pids, service.process.pid] if whole_group else [service.process.pid]:
        os.kill(pid, signal.SIGTERM)

    def refused() -> bool:
        try:
            service.ask("/health")
        except OSError:
            return True
        return False

    eventually(refused)
    assert not any(has_ended(pid) for pid in pids)
    upstream.released.set()
    for each in connections.values():
        assert each._http.getresponse().status == 200
    assert service.process.ended() in (0, -signal.SIGTERM)
    assert all(has_ended(pid) for pid in pids)
    assert service.process.messages("error") == []
    assert service.process.err == ""


def test_second_sigterm_ends_at_once(serve: Serve, upstream: Upstream) -> None:
    service = serve(DRAIN_TIMEOUT="1h")
    pids = service.pids()
    service.connection_to(pids[0])._http.request("GET", "/v1/slow")
    eventually(lambda: upstream.waiting)
    service.process.send(signal.SIGTERM)
    service.process.until(lambda: "draining" in service.process.out)
    service.process.send(signal.SIGTERM)
    assert service.process.ended() == -signal.SIGTERM
    eventually(lambda: all(has_ended(pid) for pid in pids))


def test_readiness_fails_on_all_workers_during_the_drain_delay(serve: Serve) -> None:
    service = serve(DRAIN_DELAY="1h")
    connections = service.connection_to_each()
    assert {each.ask("/health/ready").status for each in connections.values()} == {200}
    service.process.send(signal.SIGTERM)
    for each in connections.values():
        eventually(lambda each=each: each.ask("/health/ready").status == 503)
        assert each.ask("/v1/a").status == 200


def test_sighup_reloads_all_workers(serve: Serve, tmp_path: Path) -> None:
    config = tmp_path / "own.env"
    config.write_text("CACHE_TTL=5m\n")
    service = serve(CONFIG=str(config))
    connections = service.connection_to_each()
    assert service.ask("/v1/stored").cache == "MISS"
    assert service.stats()["workers"]["second_level"]["item_count"] == 1
    config.write_text("CACHE_TTL=0\nMAX_CACHE_SIZE=10\nRATE_LIMIT=8\n")
    service.process.send(signal.SIGHUP)
    for each in connections.values():
        eventually(
            lambda each=each: (
                "off" in str(each.ask("/v1/a").cache) or each.ask("/v1/a").cache == "MISS"
            )
        )
    eventually(lambda: service.stats()["cache"]["ttl"] == "0s")
    reloaded = [each for each in service.process.messages("info") if "reloaded" in each]
    assert reloaded == ["configuration reloaded, changed: CACHE_TTL, MAX_CACHE_SIZE"]
    eventually(lambda: service.stats()["cache"]["max_bytes"] == 10 * 1024 * 1024)
    numbers = service.stats()["workers"]["second_level"]
    assert (numbers["item_count"], numbers["max_bytes"]) == (0, 5 * 1024 * 1024)


def test_log_lines_of_all_workers_are_whole(upstream: Upstream, tmp_path: Path) -> None:
    """Through a pipe, which takes at most 4 KiB in one piece."""
    process = subprocess.Popen(
        command(),
        env=environment(
            OPENAI_API_URL=f"http://127.0.0.1:{upstream.server_port}",
            LISTEN="tcp:0:interface=127.0.0.1",
            WORKERS="3",
            RATE_LIMIT="0",
            MAX_CONNECTIONS="300",
        ),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    )
    lines: list[bytes] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lines.extend, args=(process.stdout,))
    reader.start()
    try:
        eventually(lambda: any(b"listening on" in line for line in lines))
        (line,) = [line for line in lines if b"listening on" in line]
        port = int(re.findall(rb"listening on \S*:(\d+)", line)[0])
        service = Service(None, port)  # type: ignore[arg-type]
        connections = service.connection_to_each().values()

        def load(connection: object) -> None:
            for number in range(300):
                connection.ask(f"/v1/models/{'x' * 500}{number % 3}")  # type: ignore[attr-defined]

        threads = [threading.Thread(target=load, args=(each,)) for each in connections]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        process.terminate()
        process.wait(TIMEOUT_SECONDS)
        reader.join()
        process.stdout.close()
    documents = [json.loads(line) for line in lines]
    assert sum("/v1/models/" in str(each.get("path")) for each in documents) == 900


def test_sigusr1_reopens_the_log_of_all_processes(serve: Serve, tmp_path: Path) -> None:
    log, moved = tmp_path / "own.log", tmp_path / "own.log.1"
    process = None

    def text() -> str:
        return log.read_text() if log.exists() else ""

    with upstream_server() as upstream:
        process = DaemonProcess(
            tmp_path,
            command(twistd=("--logfile", str(log))),
            {
                "LISTEN": "tcp:0:interface=127.0.0.1",
                "MAX_CONNECTIONS": "100",
                "WORKERS": "2",
                "OPENAI_API_URL": f"http://127.0.0.1:{upstream.server_port}",
            },
        )
        try:
            (port,) = process.listening(text=text)
            service = Service(process, port)
            connections = service.connection_to_each()
            log.rename(moved)
            process.send(signal.SIGUSR1)
            process.until(log.exists)
            for pid, connection in connections.items():

                def logged(pid: int = pid, connection: object = connection) -> bool:
                    connection.ask(f"/v1/by-{pid}")  # type: ignore[attr-defined]
                    return f"/v1/by-{pid}" in text()

                process.until(logged)
        finally:
            process.terminate()
    assert "Server Shut Down" in log.read_text()


def test_background_start_writes_the_pid_of_the_parent(upstream: Upstream, tmp_path: Path) -> None:
    pid_file, log = tmp_path / "own.pid", tmp_path / "own.log"
    done = subprocess.run(
        [str(TWISTD), "--pidfile", str(pid_file), "--logfile", str(log), "goproxyai"],
        env=environment(LISTEN="unix:own.sock", WORKERS="2", MAX_CONNECTIONS="100"),
        cwd=tmp_path,
        capture_output=True,
        timeout=TIMEOUT_SECONDS * 2,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    parent = int(pid_file.read_text())
    try:
        eventually(lambda: "2 workers serve" in log.read_text())
        service = Service(None, str(tmp_path / "own.sock"))  # type: ignore[arg-type]
        assert service.ask("/health").status == 200
    finally:
        os.kill(parent, signal.SIGTERM)
        eventually(lambda: has_ended(parent))
    assert not (tmp_path / "own.sock").exists()
    assert not pid_file.exists()


FAILING_WORKER = """
import os, sys
if "goproxyai.worker" in sys.orig_argv:
    os._exit(3)
"""


@pytest.mark.parametrize("foreground", [True, False])
def test_worker_that_cannot_start_ends_the_start(tmp_path: Path, foreground: bool) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAILING_WORKER)
    done = subprocess.run(
        [
            str(TWISTD), *(["--nodaemon"] if foreground else ["--logfile", "own.log"]),
            "--pidfile=", "goproxyai",
        ],
        env=environment(
            LISTEN="tcp:0:interface=127.0.0.1",
            WORKERS="2",
            PYTHONPATH=f"{tmp_path}{os.pathsep}{CHECKOUT}",
        ),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS * 2,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the worker process ended during its start" in done.stderr
    assert "Traceback" not in done.stderr
    if foreground:
        assert done.stderr == "goproxyai: the worker process ended during its start\n"


def test_worker_that_fails_again_and_again_is_replaced_later_and_later(
    serve: Serve, tmp_path: Path
) -> None:
    service = serve()
    for _ in range(2):
        pids = service.wait_for_workers(2)
        os.kill(pids[0], signal.SIGKILL)
        eventually(lambda pid=pids[0]: pid not in service.pids())
    service.wait_for_workers(2)
    ended = [line for line in service.process.messages("warn") if "ended" in line]
    assert len(ended) == 2
    assert service.stats()["workers"]["restarts"] == 2


def test_socket_of_systemd_is_shared_by_the_workers(upstream: Upstream, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        unit = SocketUnit(
            listening,
            tmp_path,
            {
                "OPENAI_API_URL": f"http://127.0.0.1:{upstream.server_port}",
                "WORKERS": "2",
                "MAX_CONNECTIONS": "100",
            },
        )
        process = unit.start()
        try:
            process.listening()
            service = Service(process, unit.port)
            for connection in service.connection_to_each().values():
                assert connection.ask("/v1/a").status == 200
        finally:
            process.terminate()
        assert "Server Shut Down" in process.out


def test_tls_and_announced_clients_reach_the_workers(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "own.pem").write_bytes(authority.good().pem)
    service = serve(LISTEN="haproxy:ssl:0:interface=127.0.0.1:privateKey=own.pem")
    raw = socket.create_connection(("127.0.0.1", int(service.address)), TIMEOUT_SECONDS)
    raw.sendall(b"PROXY TCP4 198.51.100.9 127.0.0.1 1 2\r\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with raw, context.wrap_socket(raw) as wrapped:
        wrapped.sendall(b"GET /v1/tls HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: wrapped.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 200 ")
    service.process.until(lambda: '"client":"198.51.100.9"' in service.process.out)
