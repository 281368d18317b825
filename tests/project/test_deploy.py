"""The files in deploy/ agree with the daemon; neither systemd nor Docker is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import attrs
import pytest

from goproxyai.config import env_file
from goproxyai.config.settings import Settings
from goproxyai.config.sources import CONFIG, VARIABLE_NAMES
from goproxyai.daemon.service import CLOSE_TIMEOUT_SECONDS
from tests.process.daemon_process import TIMEOUT_SECONDS, Start, environment, start
from tests.process.test_restart import SocketUnit, unit, wait_until_listening
from tests.support.ports import free_port

__all__ = ["start", "unit"]  # fixtures

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
TWISTD = "/opt/goproxyai/bin/twistd"
DEFAULTS = Settings.from_texts({})
MAX_STOP_SECONDS = DEFAULTS.drain_timeout + CLOSE_TIMEOUT_SECONDS


def assignments(name: str, key: str) -> list[str]:
    """Return the values that the unit *name* assigns to *key*, in order."""
    return re.findall(rf"(?m)^{key}=(.*)$", (DEPLOY / name).read_text())


@attrs.frozen
class Instruction:
    """An instruction of a Dockerfile.

    :ivar rest: the text after the name.
    """

    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        """The arguments of an instruction in exec form."""
        return list(json.loads(self.rest[self.rest.index("[") :]))


def last_stage() -> dict[str, Instruction]:
    """Return the instructions of the last stage by name."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    instructions = [Instruction(*line.split(maxsplit=1)) for line in lines]
    begin = max(n for n, each in enumerate(instructions) if each.name == "FROM")
    return {each.name: each for each in instructions[begin:]}


def test_service_unit_listens_on_the_socket_of_the_socket_unit(unit: SocketUnit) -> None:
    (name,) = assignments("goproxyai.socket", "FileDescriptorName")
    (listen,) = [
        text.removeprefix("LISTEN=")
        for text in assignments("goproxyai.service", "Environment")
        if text.startswith("LISTEN=")
    ]
    assert listen == f"systemd:domain=INET6:name={name}"
    process = unit.start(f"systemd:domain=INET:name={name}")
    wait_until_listening(process)


def test_stop_timeouts_exceed_the_drain_timeout() -> None:
    (stop_timeout,) = assignments("goproxyai.service", "TimeoutStopSec")
    assert int(stop_timeout) > MAX_STOP_SECONDS
    supervisor = ConfigParser(interpolation=None)
    supervisor.read(DEPLOY / "supervisor.conf")
    program = supervisor["program:goproxyai"]
    assert int(program["stopwaitsecs"]) > MAX_STOP_SECONDS
    assert program["stopsignal"] == "TERM"
    (docker_timeout,) = set(
        re.findall(r"--stop-timeout (\d+)", (DEPLOY / "Dockerfile").read_text())
    )
    assert int(docker_timeout) > MAX_STOP_SECONDS


def test_example_configuration_sets_the_defaults_and_a_listener_for_operators() -> None:
    content = (DEPLOY / "goproxyai.env").read_bytes()
    texts = env_file.parse_env_file(content, VARIABLE_NAMES - {CONFIG})
    settings = Settings.from_texts(texts)
    (admin_listen,) = settings.admin_listen
    assert attrs.evolve(settings, admin_listen=()) == DEFAULTS
    port = re.fullmatch(r"tcp:(\d+):interface=127\.0\.0\.1", admin_listen)
    assert port is not None
    assert f'targets: ["localhost:{port[1]}"]' in (DEPLOY / "prometheus.yml").read_text()
    uncommented = re.sub(rb"(?m)^#(?=[A-Z_]+=)", b"", content)
    Settings.from_texts(env_file.parse_env_file(uncommented, VARIABLE_NAMES - {CONFIG}))


def test_all_files_start_the_same_command() -> None:
    commands = [
        *assignments("goproxyai.service", "ExecStart"),
        *assignments("supervisor.conf", "command"),
        " ".join(last_stage()["ENTRYPOINT"].words),
    ]
    assert set(commands) == {f"{TWISTD} --nodaemon --pidfile= goproxyai"}


def test_image_runs_as_an_unprivileged_user_and_stops_with_sigterm() -> None:
    stage = last_stage()
    assert stage["FROM"].rest == "${PYTHON_IMAGE}"
    assert stage["USER"].rest == "10001:10001"
    assert stage["STOPSIGNAL"].rest == "SIGTERM"


def test_pods_end_in_time_and_serve_operators_on_loopback() -> None:
    text = (DEPLOY / "kubernetes.yaml").read_text()
    values = re.findall(r"(?m)^ +#?- \{name: ([A-Z_]+), value: \"(.*)\"\}$", text)
    texts = {name: value for name, value in values if name in VARIABLE_NAMES}
    settings = Settings.from_texts(texts)
    (grace,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", text)
    stop = settings.drain_delay + settings.drain_timeout + CLOSE_TIMEOUT_SECONDS
    assert int(grace) > stop
    assert dict(values)["ADMIN_LISTEN"].endswith(":interface=127.0.0.1")
    assert re.findall(r"(?m)^ +(\w+)Probe:\n +httpGet: \{path: (\S+),", text) == [
        ("readiness", "/health/ready"), ("liveness", "/health/live"),
    ]  # fmt: skip
    assert f"runAsUser: {last_stage()['USER'].rest.split(':')[0]}" in text


def test_image_health_check_reports_the_health(start: Start) -> None:
    port = free_port()
    process = start(LISTEN=f"tcp:{port}:interface=127.0.0.1")
    wait_until_listening(process)
    command, *arguments = last_stage()["HEALTHCHECK"].words
    assert command == "/opt/goproxyai/bin/goproxyai"

    def healthy(port: int) -> bool:
        done = subprocess.run(
            [sys.executable, "-m", "goproxyai", *arguments],
            env=environment(PORT=str(port)),
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        return done.returncode == 0

    assert healthy(port)
    assert not healthy(free_port())


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
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


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
def test_systemd_accepts_the_drop_in_for_workers(tmp_path: Path) -> None:
    unit = (DEPLOY / "goproxyai.service").read_text()
    (tmp_path / "goproxyai.service").write_text(unit.replace(TWISTD, "/bin/true"))
    shutil.copy(DEPLOY / "goproxyai.socket", tmp_path)
    drop_in = tmp_path / "goproxyai.service.d" / "workers.conf"
    drop_in.parent.mkdir()

    def problems(text: str) -> str:
        drop_in.write_text(text)
        return subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(tmp_path / "goproxyai.service")],
            env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stderr

    text = (DEPLOY / "goproxyai-workers.conf").read_text()
    assert problems(text) == ""
    assert "TaskMax" in problems(text.replace("TasksMax", "TaskMax"))  # the drop-in is read


def test_drop_in_has_room_for_its_workers() -> None:
    name = "goproxyai-workers.conf"
    (setting,) = assignments(name, "Environment")
    variable, _, workers = setting.partition("=")
    assert variable == "WORKERS"
    assert Settings.from_texts({variable: workers}).workers == int(workers)
    tasks, usual_tasks = assignments(name, "TasksMax"), assignments("goproxyai.service", "TasksMax")
    assert int(tasks[0]) >= int(usual_tasks[0]) + 16 * int(workers)
    (memory,) = assignments(name, "MemoryMax")
    assert assignments("goproxyai.service", "MemoryMax") == ["1G"]
    assert int(memory.removesuffix("M")) >= 1000 + 100 * int(workers)
