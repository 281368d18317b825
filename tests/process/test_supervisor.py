"""The daemon under a real supervisord, with the file of ``deploy/``."""

from __future__ import annotations

import getpass
import json
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.process.daemon_process import (
    FEW_CONNECTIONS,
    ON_LOOPBACK,
    TIMEOUT_SECONDS,
    TWISTD,
    DaemonProcess,
    get,
)
from tests.process.programs import Run, deployed, find, needs, run

__all__ = ["run"]  # the fixture

pytestmark = [pytest.mark.process, needs("supervisord", "supervisorctl")]

MAIN = """
[supervisord]
nodaemon=true
logfile={directory}/supervisord.log
pidfile={directory}/supervisord.pid
minfds=256
[unix_http_server]
file={directory}/ctl.sock
[supervisorctl]
serverurl=unix://{directory}/ctl.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""


@attrs.frozen
class Supervised:
    """A supervisord that runs one daemon.

    :ivar log: the file with the daemon's standard output.
    """

    process: DaemonProcess
    configuration: Path
    log: Path

    def control(self, *arguments: str) -> str:
        """Return the output of ``supervisorctl``."""
        done = subprocess.run(
            [str(find("supervisorctl")), "-c", str(self.configuration), *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        return done.stdout

    def messages(self) -> list[Any]:
        return [json.loads(line).get("message") for line in self.text().splitlines()]

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def supervised(run: Run, tmp_path: Path) -> Supervised:
    settings, log, file = tmp_path / "own.env", tmp_path / "own.log", tmp_path / "supervisor.conf"
    settings.write_text(f"LISTEN={ON_LOOPBACK}\nMAX_CONNECTIONS={FEW_CONNECTIONS}\n")
    program = deployed(
        "supervisor.conf",
        {
            "/opt/goproxyai/bin/twistd": str(TWISTD),
            "/etc/goproxyai/goproxyai.env": str(settings),
            "/var/log/goproxyai.log": str(log),
            "user=goproxyai": f"user={getpass.getuser()}",
            "startsecs=3": "startsecs=1",
        },
    )
    file.write_text(MAIN.format(directory=tmp_path) + program)
    return Supervised(run("supervisord", "-c", str(file)), file, log)


def test_daemon_starts_reloads_and_stops(supervised: Supervised) -> None:
    (port,) = supervised.process.listening(text=supervised.text)
    assert get(port, "/health")[0] == 200
    supervised.process.until(lambda: "RUNNING" in supervised.control("status"))
    assert "signalled" in supervised.control("signal", "HUP", "goproxyai")
    supervised.process.until(lambda: "configuration reloaded" in supervised.text())
    assert "stopped" in supervised.control("stop", "goproxyai")
    assert supervised.messages()[-1] == "Server Shut Down."
    assert "SIGKILL" not in supervised.process.out
