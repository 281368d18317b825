"""The daemon as a process: ``twistd goproxyai``, its endpoints, its log, its signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.process.daemon_process import (
    FEW_CONNECTIONS,
    ON_LOOPBACK,
    SECRET,
    TIMEOUT_SECONDS,
    TWISTD,
    DaemonProcess,
    Start,
    assert_clean,
    eventually,
    get,
    start,
    start_stream,
)
from tests.support.harness import ProxyHarness
from tests.support.ports import free_port
from tests.support.serving import loopback

__all__ = ["start"]  # the fixture

pytestmark = pytest.mark.process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_daemon_starts_answers_and_ends_by_signal(start: Start, number: int) -> None:
    process = start()
    (port,) = process.listening()
    status, document = get(port, "/health")
    assert (status, document["status"]) == (200, "healthy")
    process.send(number)
    assert process.ended() in (0, -number)
    assert_clean(process)
    assert [line["path"] for line in process.requests] == ["/health"]
    assert not (process.directory / "twistd.pid").exists()


# Endpoints.


def test_port_sets_the_listener_and_options_override_variables(start: Start) -> None:
    port, wrong = free_port(), free_port()
    process = start(
        "--rate-limit", "7", f"--port={port}",
        LISTEN="", PORT=str(wrong), RATE_LIMIT="5", CACHE_TTL="90s",
    )  # fmt: skip
    assert process.listening() == [port]
    status, document = get(port, "/stats")
    assert status == 200
    assert (document["rate_limit"], document["cache"]["ttl"]) == (7, "1m30s")
    with pytest.raises(ConnectionRefusedError):
        get(wrong, "/health")


def test_operators_have_a_listener_of_their_own(start: Start) -> None:
    process = start(f"--admin-listen={ON_LOOPBACK}", f"--admin-listen={ON_LOOPBACK}")
    public, *operators = process.listening(3)
    assert get(public, "/stats")[0] == 404
    assert [get(port, "/stats")[0] for port in operators] == [200, 200]
    assert [get(port, "/")[1]["name"] for port in operators] == ["goproxyai"] * 2
    assert get(operators[0], "/v1/models")[0] == 404


def test_daemon_listens_on_every_endpoint(start: Start) -> None:
    process = start(LISTEN=f"{ON_LOOPBACK} unix:daemon.sock {ON_LOOPBACK}")
    ports = process.listening(3)
    assert len(set(ports)) == 2
    assert [get(port, "/health")[0] for port in ports] == [200, 200]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT_SECONDS)
        client.connect(os.path.relpath(process.directory / "daemon.sock"))
        client.sendall(b"GET /health HTTP/1.0\r\nHost: a\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    process.send(signal.SIGTERM)
    process.ended()
    assert_clean(process)


def test_listen_option_may_be_repeated(start: Start) -> None:
    process = start("--listen", ON_LOOPBACK, "--listen", ON_LOOPBACK, LISTEN="tcp:1")
    ports = process.listening(2)
    assert [get(port, "/health")[0] for port in ports] == [200, 200]


# The log.


def test_logfile_option_of_twistd_gets_json_lines(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "own.log"
    process = start(twistd=(f"--logfile={log}",))
    (port,) = process.listening(text=lambda: log.read_text() if log.exists() else "")
    get(port, "/health?secret=1")
    process.send(signal.SIGTERM)
    process.ended()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["path"] for line in lines if line["event"] == "request"] == ["/health?secret"]
    assert {line["level"] for line in lines} == {"info"}
    assert process.out == process.err == ""


OBSERVER = """
from twisted.logger import eventAsText

def to_file():
    own = open("own.log", "w", buffering=1)
    return lambda event: print(event["log_level"].name, eventAsText(event), file=own)
"""


def test_logger_option_of_twistd_gets_all_events(start: Start, tmp_path: Path) -> None:
    (tmp_path / "observer.py").write_text(OBSERVER)
    log = tmp_path / "own.log"
    process = start(twistd=("--logger=observer.to_file",))
    (port,) = process.listening(text=lambda: log.read_text() if log.exists() else "")
    get(port, "/health?secret=1")
    process.send(signal.SIGTERM)
    process.ended()
    assert re.search(
        r"^info .*GET /health\?secret 200 - 127\.0\.0\.1$", log.read_text(), re.MULTILINE
    )
    assert process.out == process.err == ""


def test_background_daemon_logs_to_a_file_and_ends_by_sigterm(tmp_path: Path) -> None:
    pid, log = tmp_path / "it.pid", tmp_path / "twistd.log"
    arguments = [str(TWISTD), f"--pidfile={pid}", "goproxyai"]
    settings = {"LISTEN": ON_LOOPBACK, "MAX_CONNECTIONS": FEW_CONNECTIONS}
    process = DaemonProcess(tmp_path, arguments, settings)
    assert process.ended() == 0  # the process in the foreground; the daemon is its child
    number = int(pid.read_text())
    try:
        eventually(lambda: "listening on" in log.read_text())
        (port,) = re.findall(r"listening on \S*:(\d+)", log.read_text())
        assert get(int(port), "/health")[0] == 200
    finally:
        os.kill(number, signal.SIGTERM)
        eventually(lambda: not pid.exists())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["level"] for line in lines} == {"info"}
    assert process.out == process.err == ""


MISTAKES = {
    "OPENAI_API_URL": "http://127.0.0.1:9/v1",
    "NO_PROXY": "localhost,a..b",
    "HTTPS_PROXY": f"http://me:{SECRET}@proxy:1",
    "RATELIMIT": "7",
}
"""Likely mistakes, one warning each."""


def warned_names(log: str) -> list[str]:
    lines = [json.loads(line) for line in log.splitlines()]
    return [line["message"].split()[0] for line in lines if line["level"] == "warn"]


def test_likely_mistakes_are_logged_as_warnings(start: Start) -> None:
    process = start(**MISTAKES)
    (port,) = process.listening()
    document = get(port, "/stats")[1]
    assert document["openai_url"] == "http://127.0.0.1:9"
    assert document["config"]["OPENAI_API_URL"]["source"] == "environment"
    assert warned_names(process.out) == list(MISTAKES)
    assert process.err == ""
    assert SECRET not in process.out


def test_background_daemon_logs_likely_mistakes_as_warnings(tmp_path: Path) -> None:
    pid, log = tmp_path / "it.pid", tmp_path / "twistd.log"
    arguments = [str(TWISTD), f"--pidfile={pid}", "goproxyai"]
    settings = {"LISTEN": ON_LOOPBACK, "MAX_CONNECTIONS": FEW_CONNECTIONS, **MISTAKES}
    process = DaemonProcess(tmp_path, arguments, settings)
    assert process.ended() == 0
    number = int(pid.read_text())
    try:
        eventually(lambda: "listening on" in log.read_text())
        assert warned_names(log.read_text()) == list(MISTAKES)
    finally:
        os.kill(number, signal.SIGTERM)
        eventually(lambda: not pid.exists())
    assert process.out == process.err == ""


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_log_of_start_and_stop_is_without_the_names_of_twisted_classes(
    start: Start, form: str, workers: str
) -> None:
    process = start(LOG_FORMAT=form, WORKERS=workers)
    process.listening()
    process.send(signal.SIGTERM)
    process.ended()
    assert "http://127.0.0.1:" in process.out.splitlines()[0]
    assert "draining" in process.out
    for unwanted in ("log_legacy", "Address(", "Factory", "(TCP Port"):
        assert unwanted not in process.out


def test_first_event_has_the_facts_of_the_service(start: Start) -> None:
    process = start(PROXY_URL=f"http://me:{SECRET}@proxy.test:3128", CACHE_TTL="90s")
    (port,) = process.listening()
    first = process.log[0]
    assert (first["event"], first["level"]) == ("start", "info")
    assert first["api"] == [f"http://127.0.0.1:{port}/v1"]
    assert first["dashboard"] == f"http://127.0.0.1:{port}/dashboard"
    assert first["upstreams"] == [
        {"url": "https://api.openai.com", "proxy": "http://***:***@proxy.test:3128"}
    ]
    assert (first["cache_ttl"], first["rate_limit"]) == ("1m30s", 60)
    assert SECRET not in process.out


def test_log_format_text_logs_readable_lines(start: Start) -> None:
    process = start(LOG_FORMAT="text")
    (port,) = process.listening()
    get(port, "/health")
    process.send(signal.SIGTERM)
    process.ended()
    assert re.search(r"^\S+Z GET /health 200 - \d+\.\dms 127\.0\.0\.1 ", process.out, re.MULTILINE)
    assert "{" not in process.out


def test_log_level_error_logs_nothing_without_errors(start: Start) -> None:
    port = free_port()
    process = start("--log-level=error", LISTEN=f"tcp:{port}:interface=127.0.0.1")

    def answers() -> bool:
        try:
            return get(port, "/health")[0] == 200
        except ConnectionRefusedError:
            return False

    process.until(answers)
    process.send(signal.SIGTERM)
    process.ended()
    assert process.out == process.err == ""


# Signals with a request in progress.


@pytest_twisted.ensureDeferred
async def test_sigterm_lets_a_stream_finish(harness: ProxyHarness, start: Start) -> None:
    stream = await start_stream(harness, start)
    process = stream.process
    process.send(signal.SIGTERM)
    await deferToThread(process.until, lambda: "draining" in process.out)
    with pytest.raises(ConnectionRefusedError):
        await deferToThread(get, stream.port, "/health")
    stream.pause.release()
    answer = await stream.wire.answer()
    assert (answer.body, answer.cut) == (b"onetwo", False)
    assert await deferToThread(process.ended) in (0, -signal.SIGTERM)
    await stream.wire.wait_closed()
    assert_clean(process)
    (line,) = process.requests
    assert (line["path"], line["ended"], line["bytes_out"]) == ("/v1/stream", "ok", 6)


@pytest_twisted.ensureDeferred
async def test_second_sigterm_ends_the_process_at_once(harness: ProxyHarness, start: Start) -> None:
    stream = await start_stream(harness, start)
    process = stream.process
    process.send(signal.SIGTERM)
    await deferToThread(process.until, lambda: "draining" in process.out)
    process.send(signal.SIGTERM)
    assert await deferToThread(process.ended) == -signal.SIGTERM  # DRAIN_TIMEOUT is longer
    await stream.wire.wait_closed()
    assert (await stream.wire.answer()).cut


def test_second_sigterm_during_drain_delay_ends_the_process_at_once(start: Start) -> None:
    process = start(DRAIN_DELAY="1h")
    (port,) = process.listening()
    assert get(port, "/health/ready")[0] == 200
    process.send(signal.SIGTERM)
    process.until(lambda: get(port, "/health/ready")[0] == 503)
    assert get(port, "/stats")[0] == 200
    process.send(signal.SIGTERM)
    assert process.ended() == -signal.SIGTERM


def test_listening_ends_after_drain_delay(start: Start) -> None:
    process = start(DRAIN_DELAY="100ms")
    (port,) = process.listening()
    process.send(signal.SIGTERM)
    assert process.ended() in (0, -signal.SIGTERM)
    assert_clean(process)
    assert process.messages("info").index("draining 0 connections") > process.messages(
        "info"
    ).index("stopping: /health/ready answers 503, listening ends in 100ms")
    with pytest.raises(ConnectionRefusedError):
        get(port, "/health")


# The cache snapshot.


@pytest_twisted.ensureDeferred
async def test_cache_survives_a_restart(harness: ProxyHarness, start: Start) -> None:
    port = await harness.upstream.listen(loopback(harness.reactor))
    settings = {
        "OPENAI_API_URL": f"http://127.0.0.1:{port}",
        "CACHE_SNAPSHOT": "cache.sealed",
        "CACHE_SNAPSHOT_KEY": SECRET * 3,
        "CACHE_ERROR_TTL": "1h",  # the answer is a 401, and the restart may be slow
    }
    answers = []
    for _ in range(2):
        process = start(**settings)
        (daemon_port,) = await deferToThread(process.listening)
        assert not (process.directory / "cache.sealed").exists()
        answers.append(await deferToThread(get, daemon_port, "/v1/models"))
        process.send(signal.SIGTERM)
        assert await deferToThread(process.ended) in (0, -signal.SIGTERM)
        assert_clean(process)
        assert SECRET * 3 not in process.out
        assert (process.directory / "cache.sealed").stat().st_mode & 0o777 == 0o600
    assert answers[0] == answers[1]
    assert len(harness.upstream.requests) == 1
