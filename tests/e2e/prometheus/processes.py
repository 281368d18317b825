"""Prometheus and promtool as processes."""

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

TIMEOUT_SECONDS = 20.0
Labels = dict[str, str]


def is_installed(name: str) -> bool:
    """Whether *name* is installed."""
    return shutil.which(name) is not None


def require(name: str) -> str:
    """The path of *name*; skips the test without it, or fails it if ``CI_MONITORING=1``."""
    found = shutil.which(name)
    if found is None:
        why = f"{name} is not installed"
        if os.environ.get("CI_MONITORING") == "1":
            pytest.fail(why)
        pytest.skip(why)
    return found


def promtool(*arguments: str | Path, given: bytes = b"") -> str:
    """The output of promtool, which must succeed."""
    completed = subprocess.run(
        [require("promtool"), *map(str, arguments)],
        input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
    )  # fmt: skip
    output = completed.stdout.decode()
    assert completed.returncode == 0, output
    return output


class Prometheus:
    """A running Prometheus that logs to a file.

    :param config: its configuration file.
    """

    def __init__(self, directory: Path, config: Path, port: int) -> None:
        self._port = port
        self._log = directory / "prometheus.log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    require("prometheus"),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={directory / 'series'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--enable-feature=extra-scrape-metrics",
                    "--log.level=warn",
                ],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def end(self) -> None:
        """Send SIGTERM, and SIGKILL if that does not end the process."""
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def output(self) -> str:
        return self._log.read_text()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds; a refused connection counts as false."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                if condition():
                    return
            except ConnectionError:
                pass
            assert self._process.poll() is None, self.output
            assert time.monotonic() < deadline, f"the condition does not hold: {self.output}"
            time.sleep(0.05)

    def api(self, path: str, **query: str) -> Any:
        """The ``data`` of an API answer."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", f"/api/v1/{path}?{urlencode(query)}")
            answer = connection.getresponse()
            if answer.status == 503:
                raise ConnectionError("Prometheus is not ready")
            document = json.loads(answer.read())
        finally:
            connection.close()
        assert document["status"] == "success", (query, document)
        assert not document.get("warnings"), (query, document)
        return document["data"]

    def query(self, expression: str, at: float | None = None) -> list[tuple[Labels, float]]:
        """The labels and value of each element of an instant vector."""
        query = {"query": expression} if at is None else {"query": expression, "time": repr(at)}
        found = self.api("query", **query)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]
