"""The command ``goproxyai`` as a process: ``run`` is the service of twistd."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from goproxyai import __version__
from goproxyai.config.variables import VARIABLES
from tests.process.daemon_process import (
    COMMAND,
    FEW_CONNECTIONS,
    ON_LOOPBACK,
    TIMEOUT_SECONDS,
    DaemonProcess,
    assert_clean,
    environment,
    get,
)
from tests.support.harness import ProxyHarness
from tests.support.ports import free_port

pytestmark = pytest.mark.process

SETTINGS = {"LISTEN": ON_LOOPBACK, "MAX_CONNECTIONS": FEW_CONNECTIONS}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with tempfile.TemporaryDirectory() as directory:
        process = DaemonProcess(Path(directory), [*COMMAND, *arguments], settings)
        try:
            status = process.ended()
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, status, process.out, process.err)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_run_serves_and_ends_by_signal(tmp_path: Path, number: int, workers: str) -> None:
    process = DaemonProcess(
        tmp_path, [*COMMAND, "run", "--rate-limit=7", f"--workers={workers}"], SETTINGS
    )
    try:
        (port,) = process.listening()
        assert get(port, "/stats")[1]["rate_limit"] == 7
        process.send(number)
        assert process.ended() == -number  # as twistd ends
        assert_clean(process)
    finally:
        process.kill()


def test_run_reloads_and_logs_to_a_file(tmp_path: Path) -> None:
    log, config = tmp_path / "own.log", tmp_path / "own.env"
    config.write_text("RATE_LIMIT=5\n")
    arguments = [*COMMAND, "run", "--logfile", str(log), f"--config={config}"]
    process = DaemonProcess(tmp_path, arguments, SETTINGS)
    try:
        (port,) = process.listening(text=lambda: log.read_text() if log.exists() else "")
        config.write_text("RATE_LIMIT=6\n")
        process.send(signal.SIGHUP)
        process.until(lambda: get(port, "/stats")[1]["rate_limit"] == 6)
        assert "changed: RATE_LIMIT" in log.read_text()
        assert process.out == process.err == ""
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("arguments", "settings", "status", "line"),
    [
        (["run", "--rate-limits=7"], {}, 2,
         "goproxyai run: unknown option --rate-limits; did you mean --rate-limit?\n"),
        (["run"], {"RATE_LIMIT": "x"}, 1,
         "goproxyai: RATE_LIMIT is 'x', expected a whole number of requests a minute up to "
         "1000000000, 0 for no limit\n"),
        (["run", "--listen=tcp:1:interface=192.0.2.1"], {}, 1,
         "goproxyai: cannot listen on tcp:1:interface=192.0.2.1: Cannot assign requested "
         "address\n"),
    ],
)  # fmt: skip
def test_start_that_fails_is_one_line_with_a_status(
    arguments: list[str], settings: dict[str, str], status: int, line: str
) -> None:
    done = run(*arguments, **settings)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", line)


def test_version_and_settings_are_printed() -> None:
    assert run("--version").stdout == f"goproxyai {__version__}\n"
    document = json.loads(run("config", "--json", CACHE_TTL="90s").stdout)
    assert list(document["config"]) == [variable.name for variable in VARIABLES]
    assert document["config"]["CACHE_TTL"] == {"value": "90s", "source": "environment"}


def test_reader_of_the_output_that_ends_causes_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "config"],
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def read_terminal(descriptor: int, end: bytes) -> str:
    """Return what is written to a terminal, up to *end*."""
    data = b""
    while end not in data:
        data += os.read(descriptor, 4096)
    return data.decode().replace("\r\n", "\n")


def test_banner_is_shown_on_a_terminal() -> None:
    master, slave = pty.openpty()
    port = free_port()
    listen = f"tcp:{port}:interface=127.0.0.1"
    process = subprocess.Popen(
        [*COMMAND, "run"],
        env=environment(**{**SETTINGS, "LISTEN": listen}, RATELIMIT="7"),
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    try:
        banner = read_terminal(master, b"RATE_LIMIT?\r\n").partition("\n\n")[0]
        first, *rest = banner.splitlines()
        assert first == f"goproxyai {__version__}"
        assert [line[2:12].strip() for line in rest] == [
            "API", "upstream", "dashboard", "", "cache", "rate limit", "timeouts", "warning",
        ]  # fmt: skip
        assert get(port, "/health")[0] == 200  # signals are handled
        process.send_signal(signal.SIGTERM)
        assert "draining" in read_terminal(master, b"draining")
        assert process.wait(TIMEOUT_SECONDS) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait(TIMEOUT_SECONDS)
        os.close(master)


def test_check_reports_the_way_to_upstream_with_a_status() -> None:
    done = run("check", "--json", OPENAI_API_URL=f"http://127.0.0.1:{free_port()}")
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr, document["ok"]) == (1, "", False)
    assert [each["result"] for each in document["findings"] if each["upstream"]] == [
        "ok", "failed", "not reached",
    ]  # fmt: skip


def test_check_with_an_invalid_setting_is_one_line_of_its_report() -> None:
    done = run("check", PORT="x")
    assert (done.returncode, done.stderr) == (1, "")
    assert " ".join(done.stdout.split()) == (
        "configuration failed PORT is 'x', expected a port from 0 to 65535"
    )


@pytest_twisted.ensureDeferred
async def test_check_succeeds_with_a_reachable_upstream(harness: ProxyHarness) -> None:
    port = await harness.upstream.listen(harness.loopback())
    settings = {"OPENAI_API_URL": f"http://localhost:{port}"}
    done = await deferToThread(run, "check", **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert "GET /v1/models: " in done.stdout
