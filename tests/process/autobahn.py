"""``python -m tests.process.autobahn PYTHON2``: Autobahn's test suite, directly and in a tunnel.

The suite is a client that sends valid and invalid frames, here to an echo server of the library
``websockets``. Each case must end alike with and without the daemon in between. *PYTHON2* is a
Python 2.7 that has the package ``autobahntestsuite`` 0.8.2, which does not support Python 3; so no
test runs this. The cases of compression take half an hour; ``--cases`` selects, such as ``5.*``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.process.daemon_process import ON_LOOPBACK, DaemonProcess, command

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

DIRECT, TUNNEL = "direct", "tunnel"

RUN_SUITE = "from autobahntestsuite.wstest import run; run()"


class EchoServer:
    """An echo server in a thread.

    :ivar port: of TCP.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.port = 0
        threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(),), daemon=True
        ).start()
        self._ready.wait()

    async def _serve(self) -> None:
        async with serve(
            self._echo, "127.0.0.1", 0, max_size=MAX_MESSAGE_BYTES, ping_interval=None
        ) as server:
            (socket,) = server.sockets
            self.port = socket.getsockname()[1]
            self._ready.set()
            await asyncio.Future()

    @staticmethod
    async def _echo(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):  # most cases break the protocol
            async for message in connection:
                await connection.send(message)


def run_suite(python: str, ports: dict[str, int], cases: list[str], directory: Path) -> Any:
    """Run *cases* against the servers; return the suite's results by server and case."""
    servers = [
        {"agent": name, "url": f"ws://127.0.0.1:{port}/v1/realtime", "options": {"version": 18}}
        for name, port in ports.items()
    ]
    spec = {
        "options": {"failByDrop": False}, "outdir": str(directory / "reports"), "servers": servers,
        "cases": cases, "exclude-cases": [], "exclude-agent-cases": {},
    }  # fmt: skip
    file = directory / "spec.json"
    file.write_text(json.dumps(spec))
    arguments = ["wstest", "-m", "fuzzingclient", "-s", str(file)]
    code = f"import sys; sys.argv = {arguments!r}; {RUN_SUITE}"
    subprocess.run(
        [python, "-W", "ignore", "-c", code], check=True, cwd=directory, stdout=subprocess.DEVNULL
    )
    return json.loads((directory / "reports" / "index.json").read_text())


def differences(results: Any) -> list[str]:
    """Return a line for each case that ended otherwise in the tunnel.

    ``OK`` and ``NON-STRICT`` are alike: in cases that are sent octet by octet, the order of the
    echo and of the close depends on timing, and direct runs differ among themselves.
    """
    found = []
    for case, direct in results[DIRECT].items():
        tunnel = results[TUNNEL][case]
        for key in ("behavior", "behaviorClose", "remoteCloseCode"):
            if _alike(direct[key]) != _alike(tunnel[key]):
                found.append(
                    f"{case}: {key} is {tunnel[key]} in the tunnel, {direct[key]} directly"
                )
    return found


def _alike(result: Any) -> Any:
    return "OK" if result == "NON-STRICT" else result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("python")
    parser.add_argument("--cases", nargs="*", default=["*"])
    given = parser.parse_args()
    echo = EchoServer()
    settings = {
        "LISTEN": ON_LOOPBACK, "OPENAI_API_URL": f"http://127.0.0.1:{echo.port}", "RATE_LIMIT": "0",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        daemon = DaemonProcess(directory, command(), settings)
        try:
            (port,) = daemon.listening()
            ports = {DIRECT: echo.port, TUNNEL: port}
            results = run_suite(given.python, ports, given.cases, directory)
        finally:
            daemon.terminate()
    found = differences(results)
    print(f"{len(results[DIRECT])} cases, {len(found)} differences")
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
