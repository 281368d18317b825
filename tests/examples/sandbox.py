"""A shell in a network namespace of its own, in which the commands of a page are run.

The page's ports are free there, whatever else the machine does, and nothing outside can be reached.
The directory has the entries of the checkout.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from goproxyai.config.likely_mistakes import PROXY_NAMES
from goproxyai.config.variables import VARIABLES
from tests.examples.servers import API_PORT, PROXY_PORT

CHECKOUT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 90.0
OTHERS = 2
"""Listening sockets of :mod:`.servers`."""

LISTENING = "0A"
"""The state in /proc/net/tcp."""

LOOPBACK_UP_AND_SHELL = """
import fcntl, os, socket, struct
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
os.execvp("bash", ["bash", "--noprofile", "--norc"])
"""

SERVER = re.compile(
    r"(?:^|\s)(?:goproxyai (?:run|(?P<demo>demo))|twistd\b.*\bgoproxyai)\b"
    r"(?!.*--(?:help|version))"
)
"""A command that starts a server."""

SUBSTITUTES = {
    "make demo": "goproxyai demo",
    "make run": "goproxyai run",
    "https://example.openai.azure.com": f"http://127.0.0.1:{API_PORT}",
    "http://proxy.example:3128": f"http://127.0.0.1:{PROXY_PORT}",
}
"""What the commands of the pages name and the sandbox does not have."""


def unshare() -> list[str]:
    """Return the command that runs another one in a network namespace, or nothing."""
    command = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return command


class Sandbox:
    """The shell of one page. Commands share its environment and directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        home, programs = directory / "home", directory / "programs"
        self.cwd = directory / "checkout"
        for each in (home, programs, self.cwd):
            each.mkdir()
        for entry in CHECKOUT.iterdir():
            if entry.name not in {"build", "dist", ".git", ".venv", ".tox"}:
                (self.cwd / entry.name).symlink_to(entry)
        etc = directory / "etc-goproxyai"
        etc.mkdir()
        for name in ("goproxyai.env", "prices.json"):
            shutil.copy(CHECKOUT / "deploy" / name, etc)
        self._substitutes = {**SUBSTITUTES, "/etc/goproxyai/": f"{etc}/"}
        (programs / "goproxyai").write_text(f'#!/bin/sh\nexec {sys.executable} -m goproxyai "$@"\n')
        (programs / "goproxyai").chmod(0o755)
        self._shell = subprocess.Popen(
            [*unshare(), sys.executable, "-c", LOOPBACK_UP_AND_SHELL],
            cwd=self.cwd,
            env=self._environment(home, programs),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._commands = 0
        self._run("set -m")  # a server is a process group of its own
        self._background(f"{sys.executable} -m tests.examples.servers", "servers", OTHERS)

    def _environment(self, home: Path, programs: Path) -> dict[str, str]:
        removed = {*(variable.name for variable in VARIABLES), *PROXY_NAMES, "PYTHONPATH"}
        kept = {name: value for name, value in os.environ.items() if name not in removed}
        path = [str(programs), str(Path(sys.executable).parent), kept.get("PATH", "")]
        return {
            **kept,
            "HOME": str(home),
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": str(CHECKOUT),
            "OPENAI_API_KEY": "sk-example",
            "OPENAI_API_URL": f"http://127.0.0.1:{API_PORT}",
            "MAX_CONNECTIONS": "100",
        }

    def substituted(self, text: str) -> str:
        for shown, used in self._substitutes.items():
            text = text.replace(shown, used)
        return text

    def save(self, name: str, content: str) -> None:
        (self.cwd / name).write_text(self.substituted(content))

    def run(self, command: str) -> tuple[int, str]:
        """Run a command; a server goes on in the background, in place of the one before.

        :return: the exit status and the output.
        """
        command = self.substituted(command)
        server = SERVER.search(command)
        if server:
            # Bash reports the end of the server, at the latest when it has waited for it.
            self._run('[ -z "$SERVER" ] || { kill -- -$SERVER; wait $SERVER; }')
            self._await_listeners(command, lambda count: count <= OTHERS)
            # The demo has a made-up API of its own.
            self._background(command, "server", OTHERS + (2 if server["demo"] else 1))
            self._run("SERVER=$!")
            return 0, ""
        return self._run(command)

    def _background(self, command: str, name: str, listeners: int) -> None:
        """Start *command*, and wait until *listeners* sockets listen in the namespace."""
        log = self.directory / f"{name}.log"
        self._run(f"{{ {command}\n}} >{log} 2>&1 </dev/null &")
        self._await_listeners(command, lambda count: count >= listeners)

    def _await_listeners(self, command: str, condition: Callable[[int], bool]) -> None:
        """Poll until the number of listening sockets in the namespace meets *condition*."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition(self._listeners()):
            assert time.monotonic() < deadline, f"{command} does not listen: {self.log()}"
            time.sleep(0.05)

    def _listeners(self) -> int:
        count = 0
        for name in ("tcp", "tcp6"):
            table = Path(f"/proc/{self._shell.pid}/net/{name}").read_text().splitlines()[1:]
            count += sum(line.split()[3] == LISTENING for line in table)
        return count

    def _run(self, command: str) -> tuple[int, str]:
        self._commands += 1
        end = f"--- end of command {self._commands}, status "
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{command}\nprintf '\\n%s%s\\n' '{end}' $?\n")
        self._shell.stdin.flush()
        output = ""
        with selectors.DefaultSelector() as selector:
            assert self._shell.stdout is not None
            descriptor = self._shell.stdout.fileno()
            selector.register(descriptor, selectors.EVENT_READ)
            while end not in output or not output.endswith("\n"):
                ready = selector.select(TIMEOUT_SECONDS)
                assert ready, f"{command} does not end: {output}"
                piece = os.read(descriptor, 65536)
                assert piece, f"{command} has ended the shell: {output}"
                output += piece.decode()
        text, _, rest = output.rpartition(f"\n{end}")
        status, _, _ = rest.partition("\n")
        return int(status), text

    def log(self) -> str:
        """Return the output of the page's server."""
        log = self.directory / "server.log"
        return log.read_text() if log.exists() else ""

    def close(self) -> None:
        """Kill every process of the namespace."""
        namespace = os.readlink(f"/proc/{self._shell.pid}/ns/net")
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    inside = os.readlink(process / "ns/net") == namespace
                except OSError:
                    continue
                if inside:
                    os.kill(int(process.name), signal.SIGKILL)
        self._shell.communicate()  # closes the pipes
