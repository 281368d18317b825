"""The installed wheel, used from outside of the checkout: ``python -I smoke.py``.

Nothing of the checkout may be importable here; that is the point. ``tox run -e smoke`` runs it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
TWISTD = Path(sys.executable).with_name("twistd")
PATIENCE = 30.0


def say(what: str) -> None:
    print(f"smoke: {what}", flush=True)


def environment() -> dict[str, str]:
    """What twistd needs to run, and nothing that leads to the checkout or configures us."""
    passed = ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT")
    return {name: os.environ[name] for name in passed if name in os.environ} | {"PORT": "0"}


def output_of(*arguments: str) -> str:
    done = subprocess.run(
        [str(TWISTD), *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def check_where_it_comes_from() -> None:
    for name in ("goproxyai", "twisted.plugins.goproxyai_plugin"):
        spec = find_spec(name)
        assert spec is not None, f"{name} is not installed"
        assert spec.origin is not None, f"{name} has no file"
        assert CHECKOUT / "goproxyai" not in Path(spec.origin).resolve().parents, spec.origin
        assert CHECKOUT / "twisted" not in Path(spec.origin).resolve().parents, spec.origin
    say(f"goproxyai {version('goproxyai')} is installed, outside of the checkout")


def check_help() -> None:
    plugins = output_of("--help")
    assert re.search(r"^ +goproxyai +A caching relay", plugins, re.MULTILINE), plugins
    say("twistd --help lists goproxyai")
    manual = output_of("goproxyai", "--help")
    assert "--rate-limit=" in manual, manual
    say("twistd goproxyai --help explains its options")


def port_of(daemon: subprocess.Popen[bytes], log: Path) -> int:
    """The port that the daemon says it listens on."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = re.search(r"listening on [^\n]*?port=(\d+)", log.read_text())
        if found:
            return int(found[1])
        assert daemon.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"it does not listen: {log.read_text()}")


def check_health(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/health")
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    assert (answer.status, document["status"]) == (200, "healthy"), document
    say(f"/health on port {port} says {document['status']}")


def got(port: int, path: str) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    assert answer.status == 200, (path, answer.status, body)
    return body


def check_dashboard(port: int) -> None:
    """The page, and every file that it or a file of it names, are in the wheel."""
    found = {"/dashboard": got(port, "/dashboard")}
    while missing := {name for text in found.values() for name in named(text)} - {*found}:
        found |= {name: got(port, name) for name in missing}
    assert len(found) > 3, found.keys()
    say(f"/dashboard is there, with {len(found) - 1} files")


def named(text: str) -> list[str]:
    """The addresses of files in a page, or in a script's imports."""
    names = re.findall(r'"/dashboard/([\w.]+\.\w+)"|from "\./([\w.]+)"', text)
    return [f"/dashboard/{one or other}" for one, other in names]


def check_daemon(directory: Path) -> None:
    log = directory / "log"
    with log.open("wb") as out:
        daemon = subprocess.Popen(
            [str(TWISTD), "--nodaemon", "--pidfile=", "goproxyai"],
            env=environment(),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        port = port_of(daemon, log)
        check_health(port)
        check_dashboard(port)
        daemon.send_signal(signal.SIGTERM)
        status = daemon.wait(PATIENCE)
        assert status in (0, -signal.SIGTERM), (status, log.read_text())
        assert "Traceback" not in log.read_text(), log.read_text()
        say(f"SIGTERM ended it with status {status}")
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait(PATIENCE)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        check_where_it_comes_from()
        check_help()
        check_daemon(Path(directory))


if __name__ == "__main__":
    main()
