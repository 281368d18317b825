"""The daemon as a process: ``twistd goproxyai``, its options, its signals, its log."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from goproxyai import plugin as tap
from goproxyai.config.settings import VARIABLES
from tests.support.answers import chunk, head
from tests.support.harness import ProxyHarness, RawClient, request
from tests.support.serving import loopback
from tests.support.steps import Pause

pytestmark = pytest.mark.process

CHECKOUT = Path(__file__).resolve().parents[2]
TWISTD = Path(sys.executable).with_name("twistd")
PATIENCE = 20.0

ON_LOOPBACK = "tcp:0:interface=127.0.0.1"
FEW = "100"
"""Connections for which there are files on every machine, so that none needs a line in the log."""

SECRET = "hunter2"


def environment(**settings: str) -> dict[str, str]:
    """Ours without stray settings, the checkout's plugin, and *settings*."""
    ours = {variable.name for variable in VARIABLES}
    passed = {name: value for name, value in os.environ.items() if name not in ours}
    return {**passed, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}.", **settings}


def command(*options: str, twistd: tuple[str, ...] = ()) -> list[str]:
    return [str(TWISTD), "--nodaemon", "--pidfile=", *twistd, "goproxyai", *options]


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class Process:
    """A running daemon; what it writes goes to files beside it."""

    def __init__(
        self,
        directory: Path,
        arguments: list[str],
        settings: dict[str, str],
        pass_descriptors: tuple[int, ...] = (),
    ) -> None:
        self.directory = directory
        self._out, self._err = directory / "stdout", directory / "stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                arguments,
                env=environment(**settings),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=pass_descriptors,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its standard output, every line of which is JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds, or the process is gone."""

        def looked() -> bool:
            held = bool(condition())
            assert held or self._process.poll() is None, (self.out, self.err)
            return held

        eventually(looked)

    def listening(self, count: int = 1, text: Callable[[], str] | None = None) -> list[int]:
        """The TCP ports that it listens on, once it says so *count* times."""
        read = text or (lambda: self.out)
        self.until(lambda: read().count("listening on") >= count)
        return [int(port) for port in re.findall(r"listening on [^\n]*?port=(\d+)", read())]

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def ended(self) -> int:
        """Its exit status, negative for a signal."""
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE)


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a daemon, with options and settings; ended with the test."""
    running: list[Process] = []

    def started(*options: str, twistd: tuple[str, ...] = (), **settings: str) -> Process:
        settings = {"LISTEN": ON_LOOPBACK, "MAX_CONNECTIONS": FEW, **settings}
        process = Process(tmp_path, command(*options, twistd=twistd), settings)
        running.append(process)
        return process

    yield started
    for process in running:
        process.kill()


def get(port: int, path: str) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def assert_clean(process: Process) -> None:
    """Nothing went wrong, as far as the log tells."""
    assert process.err == ""
    assert [line for line in process.log if line["level"] not in ("debug", "info")] == []


# From start to end.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_answers_and_ends_by_the_signal(start: Start, number: int) -> None:
    process = start()
    (port,) = process.listening()
    status, document = get(port, "/health")
    assert (status, document["status"]) == (200, "healthy")
    process.send(number)
    assert process.ended() in (0, -number)
    assert_clean(process)
    requests = [line for line in process.log if line["event"] == "request"]
    assert [line["path"] for line in requests] == ["/health"]
    assert not (process.directory / "twistd.pid").exists()


def test_port_is_where_it_listens_and_options_win_over_variables(start: Start) -> None:
    port, wrong = free_port(), free_port()
    process = start(
        "--rate-limit", "7", f"--port={port}",
        LISTEN="", PORT=str(wrong), RATE_LIMIT="5", CACHE_TTL="90s",
    )  # fmt: skip
    assert process.listening() == [port]
    status, document = get(port, "/stats")
    assert status == 200
    assert (document["rate_limit"], document["cache"]["ttl"]) == (7, "1m30s")
    with pytest.raises(ConnectionRefusedError):
        get(wrong, "/health")


def test_it_listens_on_every_endpoint(start: Start) -> None:
    process = start(LISTEN=f"{ON_LOOPBACK} unix:daemon.sock {ON_LOOPBACK}")
    ports = process.listening(3)
    assert len(set(ports)) == 2
    assert [get(port, "/health")[0] for port in ports] == [200, 200]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(os.path.relpath(process.directory / "daemon.sock"))
        client.sendall(b"GET /health HTTP/1.0\r\nHost: a\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    process.send(signal.SIGTERM)
    process.ended()
    assert_clean(process)


def test_listen_may_be_given_as_several_options(start: Start) -> None:
    process = start("--listen", ON_LOOPBACK, "--listen", ON_LOOPBACK, LISTEN="tcp:1")
    ports = process.listening(2)
    assert [get(port, "/health")[0] for port in ports] == [200, 200]


def test_logfile_takes_the_log_as_json(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "own.log"
    process = start(twistd=(f"--logfile={log}",))
    (port,) = process.listening(text=lambda: log.read_text() if log.exists() else "")
    get(port, "/health?secret=1")
    process.send(signal.SIGTERM)
    process.ended()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["path"] for line in lines if line["event"] == "request"] == ["/health?secret"]
    assert {line["level"] for line in lines} == {"info"}
    assert process.out == process.err == ""


OBSERVER = """
from twisted.logger import eventAsText

def to_file():
    own = open("own.log", "w", buffering=1)
    return lambda event: print(event["log_level"].name, eventAsText(event), file=own)
"""


def test_a_logger_of_the_operators_own_gets_everything(start: Start, tmp_path: Path) -> None:
    (tmp_path / "observer.py").write_text(OBSERVER)
    log = tmp_path / "own.log"
    process = start(twistd=("--logger=observer.to_file",))
    (port,) = process.listening(text=lambda: log.read_text() if log.exists() else "")
    get(port, "/health?secret=1")
    process.send(signal.SIGTERM)
    process.ended()
    assert re.search(
        r"^info .*GET /health\?secret 200 - 127\.0\.0\.1$", log.read_text(), re.MULTILINE
    )
    assert process.out == process.err == ""


def test_in_the_background_it_writes_a_file_and_ends_as_well(tmp_path: Path) -> None:
    pid, log = tmp_path / "it.pid", tmp_path / "twistd.log"
    arguments = [str(TWISTD), f"--pidfile={pid}", "goproxyai"]
    process = Process(tmp_path, arguments, {"LISTEN": ON_LOOPBACK, "MAX_CONNECTIONS": FEW})
    assert process.ended() == 0  # the one in front; what it left behind serves
    number = int(pid.read_text())
    try:
        eventually(lambda: "listening on" in log.read_text())
        (port,) = re.findall(r"listening on [^\n]*?port=(\d+)", log.read_text())
        assert get(int(port), "/health")[0] == 200
    finally:
        os.kill(number, signal.SIGTERM)
        eventually(lambda: not pid.exists())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["level"] for line in lines} == {"info"}
    assert process.out == process.err == ""


def test_text_and_levels_are_as_chosen(start: Start) -> None:
    process = start(LOG_FORMAT="text")
    (port,) = process.listening()
    get(port, "/health")
    process.send(signal.SIGTERM)
    process.ended()
    assert re.search(r"^\S+Z GET /health 200 - \d+\.\dms 127\.0\.0\.1 ", process.out, re.MULTILINE)
    assert "{" not in process.out


def test_a_quiet_daemon_says_nothing_while_all_is_well(start: Start) -> None:
    port = free_port()
    process = start("--log-level=error", LISTEN=f"tcp:{port}:interface=127.0.0.1")

    def answers() -> bool:
        try:
            return get(port, "/health")[0] == 200
        except ConnectionRefusedError:
            return False

    process.until(answers)
    process.send(signal.SIGTERM)
    process.ended()
    assert process.out == process.err == ""


# Signals, with something in flight.


@attrs.define(eq=False)
class Streaming:
    """A daemon that relays a stream which waits to go on.

    :ivar wire: the client's.
    """

    process: Process
    wire: RawClient
    pause: Pause
    port: int


async def streaming(harness: ProxyHarness, start: Start) -> Streaming:
    """Of *stand*, the upstream is used; the daemon is a process of its own."""
    reactor, upstream = harness.reactor, harness.upstream
    upstream_port = await upstream.listen(loopback(reactor))
    pause = Pause()
    stream = [head(200, [(b"Transfer-Encoding", b"chunked")]), chunk(b"one"), pause]
    upstream.script("/v1/stream", [*stream, chunk(b"two"), chunk(b"")])
    process = start(OPENAI_API_URL=f"http://127.0.0.1:{upstream_port}")
    (port,) = await deferToThread(process.listening)
    wire = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), RawClient(reactor))
    wire.send(request("/v1/stream"))
    await wire.until(lambda: b"one" in wire.received)
    return Streaming(process, wire, pause, port)


@pytest_twisted.ensureDeferred
async def test_sigterm_lets_a_stream_finish(harness: ProxyHarness, start: Start) -> None:
    it = await streaming(harness, start)
    it.process.send(signal.SIGTERM)
    await deferToThread(it.process.until, lambda: "draining" in it.process.out)
    with pytest.raises(ConnectionRefusedError):
        await deferToThread(get, it.port, "/health")
    it.pause.release()
    answer = await it.wire.answer()
    assert (answer.body, answer.cut) == (b"onetwo", False)
    assert await deferToThread(it.process.ended) in (0, -signal.SIGTERM)
    await it.wire.wait_closed()
    assert_clean(it.process)
    (line,) = [line for line in it.process.log if line["event"] == "request"]
    assert (line["path"], line["ended"], line["bytes_out"]) == ("/v1/stream", "ok", 6)


@pytest_twisted.ensureDeferred
async def test_a_second_sigterm_ends_it_at_once(harness: ProxyHarness, start: Start) -> None:
    it = await streaming(harness, start)
    it.process.send(signal.SIGTERM)
    await deferToThread(it.process.until, lambda: "draining" in it.process.out)
    began = time.monotonic()
    it.process.send(signal.SIGTERM)
    assert await deferToThread(it.process.ended) == -signal.SIGTERM
    assert time.monotonic() - began < 2
    await it.wire.wait_closed()
    assert (await it.wire.answer()).cut


@pytest_twisted.ensureDeferred
async def test_the_cache_is_there_again_after_a_restart(
    harness: ProxyHarness, start: Start
) -> None:
    port = await harness.upstream.listen(loopback(harness.reactor))
    kept = {
        "OPENAI_API_URL": f"http://127.0.0.1:{port}",
        "CACHE_SNAPSHOT": "cache.sealed",
        "CACHE_SNAPSHOT_KEY": SECRET * 3,
    }
    seen = []
    for _ in range(2):
        process = start(**kept)
        (here,) = await deferToThread(process.listening)
        assert not (process.directory / "cache.sealed").exists()
        seen.append(await deferToThread(get, here, "/v1/models"))
        process.send(signal.SIGTERM)
        assert await deferToThread(process.ended) in (0, -signal.SIGTERM)
        assert_clean(process)
        assert SECRET * 3 not in process.out
        assert (process.directory / "cache.sealed").stat().st_mode & 0o777 == 0o600
    assert seen[0] == seen[1]
    assert len(harness.upstream.requests) == 1


# What stops the start.


@attrs.frozen
class Bad:
    """A value that is not one.

    :ivar shown: what the line repeats of it.
    :ivar expected: what the line says besides.
    """

    variable: str
    given: str
    shown: str
    expected: str
    as_option: bool = False

    def __str__(self) -> str:
        return f"{self.variable}={self.given}"

    @property
    def arguments(self) -> list[str]:
        """Of the command that is refused."""
        option = f"--{self.variable.lower().replace('_', '-')}={self.given}"
        return command(*([option] if self.as_option else []))

    @property
    def settings(self) -> dict[str, str]:
        """Its environment, besides what is there anyhow."""
        return {"LISTEN": ON_LOOPBACK} | ({} if self.as_option else {self.variable: self.given})


BAD = [
    Bad("PORT", "70000", "'70000'", "a port from 0 to 65535"),
    Bad("LISTEN", "8080", "'8080'", "Twisted endpoint"),
    Bad("LISTEN", "quic:80", "'quic:80'", "Twisted endpoint"),
    Bad("OPENAI_API_URL", "api.test", "'api.test'", "a URL such as https://api.openai.com"),
    Bad("OPENAI_API_URL", f"https://me:{SECRET}@api.test", "***", "without credentials"),
    Bad("PROXY_URL", f"ftp://me:{SECRET}@proxy", "'ftp://***", "http://user:password@proxy:8080"),
    Bad("NO_PROXY", "ho st/x", "'ho st/x'", "hosts"),
    Bad("RATE_LIMIT", "-1", "'-1'", "a whole number", as_option=True),
    Bad("CACHE_TTL", "5 minutes", "'5 minutes'", "a duration such as 30s"),
    Bad("REQUEST_TIMEOUT", "0", "'0'", "longer than 0"),
    Bad("MAX_CACHE_SIZE", "1G", "'1G'", "a number of megabytes"),
    Bad("TRUSTED_PROXIES", "10.0.0.0/33", "'10.0.0.0/33'", "networks such as 10.0.0.0/8"),
    Bad("ADMIN_TOKEN", f"two {SECRET}", "***", "visible ASCII", as_option=True),
    Bad("CACHE_SHARED", "/v1/models", "'/v1/models'", "paths under /v1/ such as embeddings"),
    Bad("CACHE_SNAPSHOT_KEY", SECRET, "***", "at least 16 visible ASCII"),
    Bad("COALESCE", "some", "'some'", "off, deterministic or all"),
    Bad("LOG_LEVEL", "loud\nand clear", "'loud\\nand clear'", "debug, info, warn or error"),
]


STARTS = """
import json, os, sys
from twisted.scripts import twistd
import goproxyai.plugin

for number, (arguments, settings) in enumerate(json.load(sys.stdin)):
    if not os.fork():
        for descriptor, name in (1, "out"), (2, "err"):
            os.dup2(os.open(f"{number}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
        sys.argv[:] = arguments
        os.environ.update(settings)
        sys.exit(twistd.run())
    _, status = os.wait()
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
"""Does what the script ``twistd`` does, in a process for each; what all import is imported once."""


@attrs.frozen
class Refusal:
    """How a start ended, and what was written by then."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[Bad, Refusal]:
    """What came of each of them."""
    directory = tmp_path_factory.mktemp("bad")
    done = subprocess.run(
        [sys.executable, "-c", STARTS],
        input=json.dumps([(bad.arguments, bad.settings) for bad in BAD]),
        env=environment(),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE * len(BAD),
        check=True,
    )
    assert done.stderr == ""
    found = {}
    for number, (bad, status) in enumerate(zip(BAD, done.stdout.split(), strict=True)):
        out, err = ((directory / f"{number}.{name}").read_text() for name in ("out", "err"))
        found[bad] = Refusal(int(status), out, err)
    return found


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_bad_value_stops_the_start_with_one_line(refusals: dict[Bad, Refusal], bad: Bad) -> None:
    done = refusals[bad]
    assert done.status == 1
    (line,) = done.err.splitlines()
    assert line.startswith(f"goproxyai: {bad.variable} is ")
    assert bad.shown in line
    assert ", expected " in line
    assert bad.expected in line
    assert done.out == ""
    assert SECRET not in line


def test_the_command_as_it_is_given_is_stopped_so_too(start: Start) -> None:
    process = start(PORT="70000", LISTEN="")
    assert process.ended() == 1
    assert process.err == "goproxyai: PORT is '70000', expected a port from 0 to 65535\n"
    assert process.out == ""


def test_a_port_in_use_stops_the_start_with_one_line(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        process = start(LISTEN=endpoint)
        assert process.ended() == 1
    complaints = [line for line in process.log if line["level"] != "info"]
    (complaint,) = [line["message"] for line in complaints] + process.err.splitlines()
    assert complaint.startswith(f"goproxyai: cannot listen on {endpoint}: ")
    assert "in use" in complaint
    assert "Traceback" not in process.out


def test_help_lists_every_option_with_its_variable_and_default(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--help"),
        env={**environment(), "COLUMNS": "80"},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    # One option a piece, its lines joined.
    pieces = [" ".join(piece.split()) for piece in re.split(r"\n +(?=--)", done.stdout)]
    for variable in VARIABLES:
        (piece,) = [piece for piece in pieces if piece.startswith(f"--{variable.option}=")]
        default = "tcp:$PORT" if variable.name == "LISTEN" else variable.default or "none"
        assert f"({variable.name}; default: {default})" in piece


def test_the_collector_leaves_the_old_alone_but_for_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    did: list[object] = []
    for name in ("collect", "freeze", "set_threshold"):
        monkeypatch.setattr(tap.gc, name, lambda *given, name=name: did.append((name, *given)))
    monkeypatch.setattr(tap, "_malloc_trim", lambda pad: did.append(("trim", pad)))
    clock = Clock()
    tap._settle(clock)
    assert did == [("collect",), ("freeze",), ("set_threshold", 2_500, 3, 1 << 30)]
    did.clear()
    clock.advance(tap.COLLECTION_SECONDS - 1)
    assert did == []
    clock.advance(1)
    assert did == [("collect",), ("trim", 0)]
