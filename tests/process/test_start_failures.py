"""A start that fails ends with one line and status 1, in the foreground and in the background."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.process.daemon_process import ON_LOOPBACK, SECRET, TIMEOUT_SECONDS, TWISTD, environment
from tests.process.start_outcomes import Outcome, outcomes_of
from tests.support.authority import Authority

pytestmark = pytest.mark.process


@attrs.frozen
class Failing:
    """A start that fails.

    :ivar settings: in the environment.
    :ivar line: the beginning of the expected line.
    :ivar problem: the expected cause in the line.
    :ivar twistd: options of twistd.
    """

    subject: str
    settings: tuple[tuple[str, str], ...]
    line: str
    problem: str
    twistd: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.subject


def listen_failure(subject: str, endpoint: str, problem: str) -> Failing:
    return Failing(subject, (("LISTEN", endpoint),), f"cannot listen on {endpoint}: ", problem)


def tls_failure(subject: str, key: str, certificate: str, problem: str) -> Failing:
    endpoint = f"ssl:0:privateKey={key}:certKey={certificate}"
    return Failing(
        subject,
        (("LISTEN", endpoint),),
        f"LISTEN is '{endpoint}', expected a Twisted endpoint such as ssl:8443:privateKey=key.pem",
        problem,
    )


def file_failure(variable: str, path: str, problem: str, **settings: str) -> Failing:
    return Failing(
        f"{variable}={path}",
        ((variable, path), *settings.items()),
        f"{variable} is ",
        problem,
    )


def option_failure(option: str, line: str, problem: str) -> Failing:
    return Failing(option, (), line, problem, (option,))


PEM_BLOCK = re.compile(rb"-----BEGIN .*?-----END [^\n]*\n", re.DOTALL)

TAKEN_PORT = "tcp:{taken}:interface=127.0.0.1"

FAILING = [
    listen_failure("taken port", TAKEN_PORT, "Address already in use"),
    listen_failure("missing directory", "unix:absent/web.sock", "No such file or directory: "),
    listen_failure("taken socket", "unix:live.sock", "Another process listens on this socket"),
    listen_failure("file that is no socket", "unix:file", "The file exists and is not a socket"),
    tls_failure("missing certificate", "good.key", "absent.pem", "No such file or directory: "),
    tls_failure("unreadable key", "directory", "good.crt", "Is a directory: "),
    tls_failure("invalid certificate", "good.key", "file", "OpenSSL: "),
    tls_failure("key of another certificate", "good.key", "other.crt", "do not match"),
    file_failure("PRICES", "absent", "No such file or directory"),
    file_failure("CONFIG", "absent", "No such file or directory"),
    file_failure("CACHE_SNAPSHOT_KEY", SECRET, "16", CACHE_SNAPSHOT="snapshot"),
    option_failure("--logfile=absent/log", "--logfile is 'absent/log', ", "No such file"),
    option_failure("--pidfile=absent/pid", "--pidfile is ", "/absent/pid', expected a file that"),
    option_failure("--rundir=absent", "--rundir is 'absent', ", "expected a directory"),
]


def command(failing: Failing, background: bool) -> list[str]:
    mode = [] if background else ["--nodaemon"]
    # The last one of a repeated option is used.
    return [str(TWISTD), "--pidfile=", "--logfile=log", *mode, *failing.twistd, "goproxyai"]


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A working directory with the files of :data:`FAILING`, and a port that is in use."""
    directory = tmp_path_factory.mktemp("failing")
    authority = Authority(directory)
    for name in ("good", "other"):
        key, *certificates = PEM_BLOCK.findall(authority.good().pem)
        (directory / f"{name}.key").write_bytes(key)
        (directory / f"{name}.crt").write_bytes(b"".join(certificates))
    (directory / "file").write_text("text")
    (directory / "directory").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket(socket.AF_UNIX) as live:
        live.bind(os.path.relpath(directory / "live.sock"))
        live.listen()
        yield directory, taken.getsockname()[1]


@pytest.fixture(scope="module")
def outcomes(surroundings: tuple[Path, int]) -> dict[tuple[Failing, bool], Outcome]:
    """Start the daemon in all ways of :data:`FAILING`, in the foreground and in the background."""
    directory, taken = surroundings
    starts = [(failing, background) for failing in FAILING for background in (False, True)]
    arguments = [
        (
            command(failing, background),
            {"LISTEN": ON_LOOPBACK}
            | {name: text.replace("{taken}", str(taken)) for name, text in failing.settings},
        )
        for failing, background in starts
    ]
    return dict(zip(starts, outcomes_of(directory, arguments), strict=True))


@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
@pytest.mark.parametrize("failing", FAILING, ids=str)
def test_failed_start_ends_with_one_line_and_status_1(
    outcomes: dict[tuple[Failing, bool], Outcome],
    surroundings: tuple[Path, int],
    failing: Failing,
    background: bool,
) -> None:
    outcome = outcomes[failing, background]
    (line,) = outcome.err.splitlines()
    expected = failing.line.replace("{taken}", str(surroundings[1]))
    assert line.startswith(f"goproxyai: {expected}")
    assert failing.problem in line
    assert SECRET not in line
    assert (outcome.status, outcome.out) == (1, "")


FAIL_AFTER_THE_FORK = """
import sys
from twisted.application.service import Service
from twisted.scripts import twistd
from goproxyai import plugin

class Failing(Service):
    def privilegedStartService(self):
        sys.exit(1)

made = plugin.makeService

def make_service(options):
    made(options)
    return Failing()

plugin.makeService = make_service
twistd.run()
"""


def test_background_start_that_exits_after_the_fork_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAIL_AFTER_THE_FORK, "--pidfile=", "goproxyai"],
        env=environment(LISTEN=ON_LOOPBACK),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "the process ended during its start" in done.stderr
    assert "Traceback" not in done.stderr
