"""``goproxyai demo`` as a process: it serves, and ends on a signal with nothing left."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.process.daemon_process import COMMAND, DaemonProcess, get
from tests.process.test_command import run
from tests.support.ports import free_port

pytestmark = pytest.mark.process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_serves_made_up_traffic_and_ends_on_a_signal(tmp_path: Path, number: int) -> None:
    settings = {"RATE_LIMIT": "x", "PORT": "x"}  # without effect
    process = DaemonProcess(tmp_path, [*COMMAND, "demo", "--port=0"], settings)
    try:
        process.until(lambda: "/dashboard\n" in process.out)
        (port,) = map(int, re.findall(r"dashboard +http://127\.0\.0\.1:(\d+)/", process.out))
        assert get(port, "/v1/models")[0] == 200  # without a key

        def complete() -> bool:
            document = get(port, "/stats")[1]
            cache, requests = document["cache"], document["requests"]
            return bool(
                cache["hits"]
                and cache["misses"]
                and requests["limited"]
                and requests["by_status"]["4xx"] > requests["limited"]
                and requests["stream_gap"]["max_ms"]
            )

        process.until(complete)
        process.send(number)
        assert process.ended() == 0
        assert process.err == ""
        with pytest.raises(ConnectionRefusedError):
            get(port, "/health")
        assert {path.name for path in tmp_path.iterdir()} == {"stdout", "stderr"}
    finally:
        process.kill()


def test_port_that_is_in_use_or_invalid_is_one_line(tmp_path: Path) -> None:
    first = DaemonProcess(tmp_path, [*COMMAND, "demo", f"--port={free_port()}"], {})
    try:
        first.until(lambda: "/dashboard\n" in first.out)
        (port,) = re.findall(r"dashboard +http://127\.0\.0\.1:(\d+)/", first.out)
        done = run("demo", "--port", port)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"goproxyai: cannot listen on tcp:{port}:interface=127.0.0.1: Address already in use\n"
        )
    finally:
        first.kill()
    done = run("demo", "--port=x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "goproxyai demo: --port is 'x', expected a port from 0 to 65535\n"
