"""Modules that a process does not import before a setting needs them."""

from __future__ import annotations

import subprocess
import sys

import pytest

PARTS_OF_SETTINGS = {
    "h11": "an egress proxy",
    "goproxyai.egress.tunnel_endpoint": "an egress proxy",
    "nacl": "CACHE_SNAPSHOT or STATE_URL",
    "goproxyai.daemon.cache_snapshot": "CACHE_SNAPSHOT",
    "hiredis": "STATE_URL",
    "goproxyai.daemon.shared_redis": "STATE_URL",
    "goproxyai.state.redis.client": "STATE_URL",
    "goproxyai.daemon.supervisor": "WORKERS",
    "goproxyai.daemon.workers": "WORKERS",
    "opentelemetry": "TRACING",
    "goproxyai.demo": "goproxyai demo",
    "goproxyai.cli.completion_command": "goproxyai completion",
    "goproxyai.cli.upstream_check": "goproxyai check",
}
"""Modules of some size, and what needs them."""

SERVICE = """
import sys
from twisted.internet import reactor
import goproxyai.cli.run_command
from goproxyai import plugin
options = plugin.Options({"LISTEN": "tcp:0:interface=127.0.0.1"})
options.parseOptions(sys.argv[1:])
options.output = None
plugin.makeService(options)
print(*sys.modules)
"""


def modules_of(*arguments: str) -> set[str]:
    """Return the modules that are imported when the service with *arguments* is made."""
    command = [sys.executable, "-c", SERVICE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_start_imports_only_what_the_settings_need() -> None:
    assert not modules_of().intersection(PARTS_OF_SETTINGS)


@pytest.mark.parametrize(
    ("module", "option"),
    [
        ("h11", "--proxy-url=http://127.0.0.1:9"),
        ("goproxyai.state.redis.client", "--state-url=redis://127.0.0.1:9"),
    ],
)
def test_setting_imports_its_modules(module: str, option: str) -> None:
    assert module in modules_of(option, "--state-secret=0123456789abcdef0123456789abcdef")
