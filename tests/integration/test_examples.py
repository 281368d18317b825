"""The client examples run against the daemon."""

from __future__ import annotations

import gc
import io
import os
import re
import runpy
import shutil
import subprocess
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.support.harness import ProxyHarness

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CLIENTS = EXAMPLES / "clients"

INTERPRETERS = {
    "chat.py": "",
    "chat_async.py": "",
    "chat_stream.py": "",
    "chat.sh": "sh",
    "chat.mjs": "node",
}
"""Those in Python run in this process: the import of openai takes longer than the test."""

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def environment(port: int) -> dict[str, str]:
    """The environment of the clients of a proxy on *port*."""
    kept = {
        variable: value
        for variable, value in os.environ.items()
        if variable.upper() not in PROXY_VARIABLES
    }
    return {
        **kept,
        "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
        "OPENAI_API_KEY": "sk-good",
    }


def run(name: str, port: int) -> str:
    """The output of an example, which must succeed."""
    if not INTERPRETERS[name]:
        output = io.StringIO()
        with mock.patch.dict(os.environ, environment(port), clear=True), redirect_stdout(output):
            runpy.run_path(str(CLIENTS / name), run_name="__main__")
        gc.collect()  # closes the connections of the client
        return output.getvalue()
    done = subprocess.run(
        [INTERPRETERS[name], str(CLIENTS / name)],
        env=environment(port),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    text = done.stdout.decode()
    if "Cannot find package 'openai'" in text:
        pytest.skip("the npm package openai is not installed")
    assert done.returncode == 0, text
    return text


@pytest.mark.parametrize("name", INTERPRETERS)
@pytest_twisted.ensureDeferred
async def test_example_gets_a_miss_then_a_hit(harness: ProxyHarness, name: str) -> None:
    program = "curl" if name == "chat.sh" else INTERPRETERS[name]
    if program and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    await harness.start()
    outputs = [await deferToThread(run, name, harness.port) for _ in range(2)]
    statuses = [re.findall(r"(?i)x-cache: (\w+)", output) for output in outputs]
    assert statuses[0][0] == "MISS"
    assert set(statuses[1]) == {"HIT"}
    assert len(harness.upstream.requests) == 1


def test_readme_lists_every_example() -> None:
    listed = re.findall(r"\]\(clients/([\w.]+)\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == sorted(INTERPRETERS)
    assert sorted(listed) == sorted(path.name for path in CLIENTS.iterdir() if path.suffix)
