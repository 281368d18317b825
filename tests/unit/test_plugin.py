"""What ``twistd`` is given, piece by piece, in this process; ``test_twistd`` has it whole."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import twisted.internet
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, LogLevel, capturedLogs
from twisted.python.usage import UsageError

from goproxyai import __version__
from goproxyai import plugin as tap
from goproxyai.daemon.service import Daemon
from goproxyai.plugin import Options, makeService
from goproxyai.telemetry.access_log import Batch, Event
from tests.support.harness import lines

EVENT = Event(
    began=1.0, method=b"GET", target=b"/v1/models?key=secret", status=200, cache="HIT",
    client="192.0.2.1", bytes_in=0, bytes_out=2, seconds=0.001, upstream_seconds=-1.0, code="",
    detail="", ended="ok", upstream_request_id=b"", first_seconds=-1.0, bill=None, name=b"id-1",
    trace=None,
)  # fmt: skip


def parsed(*arguments: str, parent: dict[str, Any] | None = None, **environ: str) -> Options:
    """Options as twistd reads them, behind its own, *parent*."""
    options = Options(environ)
    options.parent = parent  # type: ignore[assignment]  # all that is asked of it
    options.parseOptions(list(arguments))
    return options


@pytest.fixture(autouse=True)
def none_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget which output was chosen, as a process does that ends."""
    monkeypatch.setattr(tap, "_chosen", [])


# Options.


def test_an_option_wins_over_its_variable() -> None:
    settings = parsed("--rate-limit=7", RATE_LIMIT="5", CACHE_TTL="90s").settings
    assert (settings.rate_limit, settings.cache_ttl) == (7, 90.0)


def test_every_listen_counts_and_the_variable_then_does_not() -> None:
    options = parsed("--listen", "tcp:1", "--listen=tcp:2", LISTEN="tcp:3")
    assert options.settings.listen == ("tcp:1", "tcp:2")
    assert parsed(LISTEN="tcp:3").settings.listen == ("tcp:3",)


def test_what_is_no_value_ends_the_start_with_one_line() -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(PORT="70000")
    assert str(caught.value) == "goproxyai: PORT is '70000', expected a port from 0 to 65535"
    assert caught.value.__suppress_context__


def test_what_is_no_option_is_told_to_twistd() -> None:
    with pytest.raises(UsageError):
        parsed("--rate-limits=7")


def test_the_version_is_shown_and_nothing_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"goproxyai {__version__}\n"


# Where the log goes.


@pytest.mark.parametrize("parent", [None, {"logger": "own.observer"}, {"syslog": True}])
def test_a_logger_of_the_operators_own_stays(parent: dict[str, Any] | None) -> None:
    before = dict(parent or {})
    options = parsed(parent=parent)
    assert options.output is None
    assert (parent or {}) == before


@pytest.mark.parametrize("name", [None, "", "-"])
def test_the_one_in_front_writes_to_standard_output(
    name: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = {"nodaemon": True, "logfile": name}
    options = parsed(parent=parent, LOG_FORMAT="text")
    assert parent["logger"] == "goproxyai.plugin.open_output"
    assert tap.open_output() is options.output
    assert options.output is not None
    options.output.requests([EVENT], Batch(0.0))
    assert "GET /v1/models?key 200 HIT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "nodaemon", "expected"),
    [("own.log", True, "own.log"), ("own.log", False, "own.log"), (None, False, "twistd.log")],
)
def test_another_writes_to_a_file(
    name: str | None,
    nodaemon: bool,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = parsed(parent={"nodaemon": nodaemon, "logfile": name}, LOG_FORMAT="json")
    assert options.output is not None
    assert not (tmp_path / expected).exists()  # twistd has not gone where it goes yet
    output: Any = tap.open_output()
    output.requests([EVENT], Batch(0.0))
    output._stream.close()
    assert '"path":"/v1/models?key","status":200' in (tmp_path / expected).read_text()


def test_a_log_file_is_put_aside_when_it_is_large_and_so_many_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tap, "LOG_BYTES", 1000)
    parsed(parent={"nodaemon": True, "logfile": str(tmp_path / "own.log")}, LOG_FORMAT="json")
    output: Any = tap.open_output()
    for _ in range(100):
        output.requests([EVENT] * 10, Batch(0.0))
    output._stream.close()
    kept = {f"own.log.{number}" for number in range(1, tap.OLD_LOGS + 1)}
    assert {path.name for path in tmp_path.iterdir()} == {"own.log", *kept}


def test_what_is_no_file_is_written_to_and_never_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tap, "LOG_BYTES", 1000)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    parsed(parent={"nodaemon": True, "logfile": str(pipe)}, LOG_FORMAT="json")
    output: Any = tap.open_output()
    for _ in range(10):
        output.requests([EVENT], Batch(0.0))
    output._stream.close()
    with open(reading, "rb") as file:
        assert file.read().count(b'"event":"request"') == 10
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_log_of_twistds_own_gets_an_event_a_request_without_its_secrets() -> None:
    with capturedLogs() as events:
        tap._request_events([EVENT, EVENT], Batch(100.0))
    assert lines(events) == ["info: GET /v1/models?key 200 HIT 192.0.2.1"] * 2
    assert events[0]["at"] == 101.0


# The service.


class Reactor(MemoryReactorClock):
    """A reactor of its own for :func:`makeService`, which alone takes the one there is."""

    def callFromThread(self, call: Callable[..., object], *given: Any) -> None:
        self.callLater(0, call, *given)

    def turn(self) -> None:
        """Make the calls that are due."""
        self.advance(0)


@attrs.define
class Made:
    """What there is once :func:`makeService` was called.

    :ivar handlers: of signals, by their numbers.
    """

    reactor: Reactor
    handlers: dict[int, Any]
    logged: list[LogEvent] = attrs.field(factory=list)

    def make(self, options: Options) -> Daemon:
        with capturedLogs() as events:
            daemon = makeService(options)
        self.logged = events
        assert isinstance(daemon, Daemon)
        return daemon

    def hang_up(self) -> list[str]:
        """What the log says of a SIGHUP, once it was seen to."""
        with capturedLogs() as events:
            self.handlers[signal.SIGHUP](signal.SIGHUP, None)
            assert events == []  # it may have come in the middle of anything
            self.reactor.turn()
        return lines(events)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """No reactor and no signal of the tests' own is touched."""
    one = Made(Reactor(), {})
    monkeypatch.setattr(twisted.internet, "reactor", one.reactor)
    monkeypatch.setattr(tap.signal, "signal", one.handlers.__setitem__)
    yield one
    assert one.reactor.getDelayedCalls() == []


def test_timers_go_by_a_clock_that_nobody_sets_and_the_collector_settles_once_it_runs(
    made: Made,
) -> None:
    daemon = made.make(parsed(OPENAI_API_URL="https://up.test"))
    assert daemon.settings.openai_url == "https://up.test"
    assert made.reactor.seconds is time.monotonic  # type: ignore[comparison-overlap]
    assert made.reactor.whenRunningHooks == [(tap._settle, (made.reactor,), {})]
    assert lines(made.logged) == [f"info: goproxyai {__version__} in front of https://up.test"]


def test_a_hangup_is_left_alone_where_there_is_no_file_to_read(made: Made) -> None:
    made.make(parsed())
    assert made.handlers == {}


def configured(directory: Path, file: str, parent: Any = None, **environ: str) -> Options:
    """Options with a file; *parent* are those of twistd."""
    path = directory / "own.env"
    path.write_text(file)
    return parsed(parent=parent, CONFIG=str(path), **environ)


def test_a_hangup_has_the_file_read_in_the_reactors_own_time(made: Made, tmp_path: Path) -> None:
    daemon = made.make(configured(tmp_path, "RATE_LIMIT=5\n"))
    (tmp_path / "own.env").write_text("RATE_LIMIT=7\n")
    assert made.hang_up() == ["info: the configuration has changed: RATE_LIMIT"]
    assert daemon.settings.rate_limit == 7
    assert made.hang_up() == ["info: the configuration has not changed"]


def test_what_the_file_sets_to_no_effect_is_told_at_the_start(made: Made, tmp_path: Path) -> None:
    made.make(configured(tmp_path, "RATE_LIMIT=5\n", RATE_LIMIT="7"))
    assert lines(made.logged)[1:] == [
        "warn: CONFIG sets RATE_LIMIT to no effect: an option or the environment wins"
    ]


def test_requests_are_written_as_long_as_the_level_of_the_log_wants_them(
    made: Made, tmp_path: Path
) -> None:
    parent = {"nodaemon": True}
    options = configured(tmp_path, "LOG_LEVEL=warn\n", parent)
    daemon = made.make(options)
    output = options.output
    assert output is not None
    assert daemon.access_log._write is None
    (tmp_path / "own.env").write_text("LOG_LEVEL=info\n")
    made.hang_up()
    assert (daemon.access_log._write, output._level) == (output.requests, LogLevel.info)
    (tmp_path / "own.env").write_text("LOG_LEVEL=error\n")
    made.hang_up()
    assert (daemon.access_log._write, output._level) == (None, LogLevel.error)


def test_the_level_is_the_operators_business_where_the_logger_is(
    made: Made, tmp_path: Path
) -> None:
    daemon = made.make(configured(tmp_path, ""))
    assert daemon.access_log._write is tap._request_events
    (tmp_path / "own.env").write_text("LOG_LEVEL=error\n")
    made.hang_up()
    assert daemon.access_log._write is tap._request_events


def test_stopping_has_the_next_signal_end_the_process(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = made.make(parsed())
    assert made.handlers == {}
    daemon._on_drain()
    assert set(made.handlers) == {signal.SIGTERM, signal.SIGINT}


def test_the_first_process_ends_as_a_shell_tells_of_one_that_a_signal_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    tap._exit(signal.SIGINT, None)
    assert ended == [130]
