"""Checks the installed wheel from outside of the checkout: ``python -I smoke.py``.

No module of the checkout may be importable. ``tox run -e smoke`` runs this script.
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
TIMEOUT_SECONDS = 30.0


def report(result: str) -> None:
    print(f"smoke: {result}", flush=True)


def environment() -> dict[str, str]:
    """Return what twistd needs to run, without Python paths and settings."""
    passed = ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT")
    return {name: os.environ[name] for name in passed if name in os.environ} | {"PORT": "0"}


def output_of(*arguments: str, program: Path = TWISTD) -> str:
    done = subprocess.run(
        [str(program), *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def check_origin() -> None:
    for name in ("goproxyai", "twisted.plugins.goproxyai_plugin"):
        spec = find_spec(name)
        assert spec is not None, f"{name} is not installed"
        assert spec.origin is not None, f"{name} has no file"
        assert CHECKOUT / "goproxyai" not in Path(spec.origin).resolve().parents, spec.origin
        assert CHECKOUT / "twisted" not in Path(spec.origin).resolve().parents, spec.origin
    report(f"goproxyai {version('goproxyai')} is installed, outside of the checkout")


def check_help() -> None:
    plugins = output_of("--help")
    assert re.search(r"^ +goproxyai +A caching relay", plugins, re.MULTILINE), plugins
    report("twistd --help lists goproxyai")
    manual = output_of("goproxyai", "--help")
    assert "--rate-limit=" in manual, manual
    report("twistd goproxyai --help explains its options")


def port_of(
    daemon: subprocess.Popen[bytes], log: Path, pattern: str = r"listening on \S*:(\d+)"
) -> int:
    """Return the port that the daemon logs."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        found = re.search(pattern, log.read_text())
        if found:
            return int(found[1])
        assert daemon.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"the daemon does not listen: {log.read_text()}")


def check_health(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    connection.request("GET", "/health")
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    assert (answer.status, document["status"]) == (200, "healthy"), document
    report(f"/health on port {port} answers {document['status']}")


def get(port: int, path: str) -> str:
    """Return the body of a response with status 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    assert answer.status == 200, (path, answer.status, body)
    return body


def check_dashboard(port: int) -> None:
    """Check that the page, and all files that the page or its files name, are in the wheel."""
    found = {"/dashboard": get(port, "/dashboard")}
    while missing := {name for text in found.values() for name in file_paths(text)} - {*found}:
        found |= {name: get(port, name) for name in missing}
    assert len(found) > 3, found.keys()
    report(f"/dashboard has {len(found) - 1} files")


def file_paths(text: str) -> list[str]:
    """Return the paths of the files that a page or the imports of a script name."""
    names = re.findall(r'"/dashboard/([\w.]+\.\w+)"|from "\./([\w.]+)"', text)
    return [f"/dashboard/{one or other}" for one, other in names]


def check_command(directory: Path) -> None:
    """Check the console script: settings, manual page, and the demo with a request."""
    command = Path(sys.executable).with_name("goproxyai")
    assert output_of("config", program=command).startswith("Listeners\n")
    page = Path(sys.prefix) / "share" / "man" / "man1" / "goproxyai.1"
    assert page.read_text().startswith(".TH GOPROXYAI 1")
    log = directory / "demo"
    with log.open("wb") as out:
        demo = subprocess.Popen(
            [str(command), "demo", "--port=0"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        port = port_of(demo, log, r"http://127\.0\.0\.1:(\d+)/dashboard")
        assert json.loads(get(port, "/v1/models"))["data"]
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(TIMEOUT_SECONDS) == 0, log.read_text()
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait(TIMEOUT_SECONDS)
    report("goproxyai demo answers without a key")


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
        status = daemon.wait(TIMEOUT_SECONDS)
        assert status in (0, -signal.SIGTERM), (status, log.read_text())
        assert "Traceback" not in log.read_text(), log.read_text()
        report(f"SIGTERM ended the daemon with status {status}")
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait(TIMEOUT_SECONDS)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        check_origin()
        check_help()
        check_command(Path(directory))
        check_daemon(Path(directory))


if __name__ == "__main__":
    main()
