"""The client examples run against the daemon."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.support.harness import ProxyHarness

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CLIENTS = EXAMPLES / "clients"

COMMANDS = {
    "chat.py": [sys.executable],
    "chat_async.py": [sys.executable],
    "chat_stream.py": [sys.executable],
    "chat.sh": ["sh"],
    "chat.mjs": ["node"],
}
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def run(name: str, port: int) -> str:
    """The output of an example, which must succeed."""
    environment = {
        variable: value
        for variable, value in os.environ.items()
        if variable.upper() not in PROXY_VARIABLES
    }
    environment |= {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
        "OPENAI_API_KEY": "sk-good",
    }
    done = subprocess.run(
        [*COMMANDS[name], str(CLIENTS / name)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    output = done.stdout.decode()
    if "Cannot find package 'openai'" in output:
        pytest.skip("the npm package openai is not installed")
    assert done.returncode == 0, output
    return output


@pytest.mark.parametrize("name", COMMANDS)
@pytest_twisted.ensureDeferred
async def test_example_gets_a_miss_then_a_hit(harness: ProxyHarness, name: str) -> None:
    program = COMMANDS[name][0] if name != "chat.sh" else "curl"
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    await harness.start()
    outputs = [await deferToThread(run, name, harness.port) for _ in range(2)]
    statuses = [re.findall(r"(?i)x-cache: (\w+)", output) for output in outputs]
    assert statuses[0][0] == "MISS"
    assert set(statuses[1]) == {"HIT"}
    assert len(harness.upstream.requests) == 1


def test_readme_lists_every_example() -> None:
    listed = re.findall(r"\]\(clients/([\w.]+)\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == sorted(COMMANDS)
    assert sorted(listed) == sorted(path.name for path in CLIENTS.iterdir() if path.suffix)
