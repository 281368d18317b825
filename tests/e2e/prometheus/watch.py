"""Prometheus and promtool, as processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

PATIENCE = 20.0
Labels = dict[str, str]


def is_there(name: str) -> bool:
    """Whether *name* is installed."""
    return shutil.which(name) is not None


def program(name: str) -> str:
    """Where *name* is; skips the test where it is not, or fails it with ``CI_MONITORING=1``."""
    found = shutil.which(name)
    if found is None:
        why = f"{name} is not installed"
        if os.environ.get("CI_MONITORING") == "1":
            pytest.fail(why)
        pytest.skip(why)
    return found


def promtool(*arguments: str | Path, given: bytes = b"") -> str:
    """What it says; it must be content."""
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)],
        input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
    )  # fmt: skip
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return said


class Prometheus:
    """A running one; what it says goes to a file.

    :param config: its configuration.
    """

    def __init__(self, directory: Path, config: Path, port: int) -> None:
        self._port = port
        self._said = directory / "prometheus.log"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={directory / 'series'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--enable-feature=extra-scrape-metrics",
                    "--log.level=warn",
                ],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def end(self) -> None:
        """SIGTERM, and SIGKILL for who does not listen."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def said(self) -> str:
        return self._said.read_text()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds; what has no answer yet holds not."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if condition():
                    return
            except ConnectionError:
                pass
            assert self._process.poll() is None, self.said
            assert time.monotonic() < deadline, f"waited in vain: {self.said}"
            time.sleep(0.05)

    def api(self, path: str, **query: str) -> Any:
        """The ``data`` of an answer of its API."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request("GET", f"/api/v1/{path}?{urlencode(query)}")
            answer = connection.getresponse()
            if answer.status == 503:
                raise ConnectionError("it is not ready")
            document = json.loads(answer.read())
        finally:
            connection.close()
        assert document["status"] == "success", (query, document)
        assert not document.get("warnings"), (query, document)
        return document["data"]

    def query(self, expression: str, at: float | None = None) -> list[tuple[Labels, float]]:
        """Labels and value of each element of an instant vector."""
        query = {"query": expression} if at is None else {"query": expression, "time": repr(at)}
        found = self.api("query", **query)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]
