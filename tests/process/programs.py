"""The real programs that operators run with the daemon; tests are skipped without them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.process.daemon_process import CHECKOUT, TIMEOUT_SECONDS, DaemonProcess

DEPLOY = CHECKOUT / "deploy"

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:{Path(sys.executable).parent}"
"""Where programs are.

Debian installs servers where only root looks for programs; pip installs Envoy alongside Python.
"""


def find(name: str) -> str | None:
    """Return the path of the program *name*, or ``None``."""
    return shutil.which(name, path=_PATH)


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip tests where one of the programs *names* is not installed."""
    missing = [name for name in names if find(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


def deployed(name: str, replaced: dict[str, str]) -> str:
    """Return the text of a file in ``deploy/``, with texts that occur in it *replaced*."""
    text = (DEPLOY / name).read_text()
    for old, new in replaced.items():
        assert old in text, (name, old)
        text = text.replace(old, new)
    return text


def check_configuration(name: str, *arguments: str, warning: str) -> None:
    """Run a program's check of its configuration, which must find nothing.

    :param warning: what marks a warning in the program's standard error.
    """
    path = find(name)
    assert path is not None
    done = subprocess.run(
        [path, *arguments], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert warning not in done.stderr


Run = Callable[..., DaemonProcess]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Start programs, each in a directory with its name; end them after the test.

    They get SIGTERM first: a killed master process leaves its workers.
    """
    running: list[DaemonProcess] = []

    def started(name: str, *arguments: str, port: int | None = None) -> DaemonProcess:
        """Start the program; wait until it listens on *port*."""
        path = find(name)
        assert path is not None
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        process = DaemonProcess(directory, [path, *arguments], {})
        running.append(process)
        if port is not None:
            process.until(lambda: accepts(port))
        return process

    yield started
    for process in running:
        process.terminate()


def accepts(port: int) -> bool:
    """Return whether a process listens on *port* of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True
