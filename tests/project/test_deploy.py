"""What lies in deploy/ fits the daemon, as far as that can be told without the ones it is for."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import attrs
import pytest

from goproxyai import plugin as tap
from goproxyai.config import env_file as envfile
from goproxyai.config.settings import Settings
from goproxyai.config.sources import CONFIG, NAMES
from goproxyai.daemon.service import FIRST_SECONDS
from tests.process.test_restart import SocketUnit, serving, unit
from tests.process.test_twistd import PATIENCE, Start, environment, free_port, start

__all__ = ["start", "unit"]  # fixtures

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
TWISTD = "/opt/goproxyai/bin/twistd"
DEFAULTS = Settings.from_texts({})
LONGEST_STOP = DEFAULTS.drain_timeout + FIRST_SECONDS + 1


def assignments(name: str, key: str) -> list[str]:
    """What *key* is set to in a unit, in order."""
    return re.findall(rf"(?m)^{key}=(.*)$", (DEPLOY / name).read_text())


@attrs.frozen
class Instruction:
    """A line of a Dockerfile."""

    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        """Of an instruction in exec form."""
        return list(json.loads(self.rest[self.rest.index("[") :]))


def last_stage() -> dict[str, Instruction]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    instructions = [Instruction(*line.split(maxsplit=1)) for line in lines]
    begin = max(n for n, each in enumerate(instructions) if each.name == "FROM")
    return {each.name: each for each in instructions[begin:]}


def test_the_service_listens_on_the_socket_of_the_socket_unit(unit: SocketUnit) -> None:
    (named,) = assignments("goproxyai.socket", "FileDescriptorName")
    (listen,) = [
        text.removeprefix("LISTEN=")
        for text in assignments("goproxyai.service", "Environment")
        if text.startswith("LISTEN=")
    ]
    assert listen == f"systemd:domain=INET6:name={named}"
    process = unit.start(f"systemd:domain=INET:name={named}")
    serving(process)


def test_everybody_waits_longer_than_stopping_takes() -> None:
    (timeout,) = assignments("goproxyai.service", "TimeoutStopSec")
    assert int(timeout) > LONGEST_STOP
    supervisor = ConfigParser(interpolation=None)
    supervisor.read(DEPLOY / "supervisor.conf")
    program = supervisor["program:goproxyai"]
    assert int(program["stopwaitsecs"]) > LONGEST_STOP
    assert program["stopsignal"] == "TERM"
    (told,) = set(re.findall(r"--stop-timeout (\d+)", (DEPLOY / "Dockerfile").read_text()))
    assert int(told) > LONGEST_STOP


def test_the_configuration_to_begin_with_is_that_of_the_defaults() -> None:
    content = (DEPLOY / "goproxyai.env").read_bytes()
    texts = envfile.parse(content, NAMES - {CONFIG})
    assert Settings.from_texts(texts) == DEFAULTS
    uncommented = re.sub(rb"(?m)^#(?=[A-Z_]+=)", b"", content)
    Settings.from_texts(envfile.parse(uncommented, NAMES - {CONFIG}))


def test_all_start_the_same_command() -> None:
    commands = [
        *assignments("goproxyai.service", "ExecStart"),
        *assignments("supervisor.conf", "command"),
        " ".join(last_stage()["ENTRYPOINT"].words),
    ]
    assert set(commands) == {f"{TWISTD} --nodaemon --pidfile= goproxyai"}


def test_the_image_is_run_by_nobody_in_particular_and_stopped_by_what_drains() -> None:
    stage = last_stage()
    assert stage["FROM"].rest.endswith("-slim")
    assert stage["USER"].rest == "10001:10001"
    assert stage["STOPSIGNAL"].rest == "SIGTERM"


def test_the_image_knows_whether_it_is_healthy(start: Start) -> None:
    port = free_port()
    process = start(LISTEN=f"tcp:{port}:interface=127.0.0.1")
    serving(process)
    _, *arguments = last_stage()["HEALTHCHECK"].words

    def healthy(where: int) -> bool:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment(PORT=str(where)),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode == 0

    assert healthy(port)
    assert not healthy(free_port())


def test_the_first_process_of_a_container_ends_at_once_when_asked_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers, exits = {}, []
    monkeypatch.setattr(tap.signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(tap.os, "_exit", exits.append)
    monkeypatch.setattr(tap.os, "getpid", lambda: 1)
    tap._end_at_once()
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert exits == [143]
    monkeypatch.setattr(tap.os, "getpid", lambda: 2)
    tap._end_at_once()
    assert set(handlers.values()) == {signal.SIG_DFL}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    names = ("goproxyai.service", "goproxyai.socket")
    for name in names:
        text = (DEPLOY / name).read_text().replace(TWISTD, shutil.which("true") or "/bin/true")
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
