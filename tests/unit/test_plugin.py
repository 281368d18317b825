"""The options and the service of the twistd plugin, within this process."""

from __future__ import annotations

import errno
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
from goproxyai.config.variables import VARIABLES
from goproxyai.daemon import log_setup, signals
from goproxyai.daemon.log_setup import log_request_events
from goproxyai.daemon.memory import configure_memory
from goproxyai.daemon.service import Daemon
from goproxyai.plugin import Options, makeService
from tests.support.harness import lines


@pytest.fixture(autouse=True)
def no_chosen_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_setup, "_chosen", [])


def parse(*arguments: str, parent: dict[str, Any] | None = None, **environ: str) -> Options:
    """Parse as twistd does, with an endpoint that does not open a socket by default.

    :param parent: twistd's own options.
    """
    options = Options({"LISTEN": "tcp:0", **environ})
    options.parent = parent  # type: ignore[assignment]  # a dict has the methods that are called
    options.parseOptions(list(arguments))
    return options


# Options.


def test_option_overrides_its_variable() -> None:
    settings = parse("--rate-limit=7", RATE_LIMIT="5", CACHE_TTL="90s").settings
    assert (settings.rate_limit, settings.cache_ttl) == (7, 90.0)


def test_listen_option_may_be_repeated_and_overrides_the_variable() -> None:
    options = parse("--listen", "tcp:1", "--listen=tcp:2", LISTEN="tcp:3")
    assert options.settings.listen == ("tcp:1", "tcp:2")
    assert parse(LISTEN="tcp:3").settings.listen == ("tcp:3",)


def test_invalid_value_ends_the_start_with_one_line() -> None:
    with pytest.raises(SystemExit) as caught:
        parse(PORT="70000")
    assert str(caught.value) == "goproxyai: PORT is '70000', expected a port from 0 to 65535"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("parent", [None, {"logger": "own.observer"}, {"syslog": True}])
def test_workers_need_the_log_of_goproxyai(parent: dict[str, Any] | None) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--workers=2", parent=parent)
    assert str(caught.value) == (
        "goproxyai: WORKERS is more than 1, expected 1 with twistd's --logger and --syslog, which "
        "write the log of one process"
    )


def test_limit_of_file_sizes_that_refuses_workers_ends_the_start_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_descriptor: int, _size: int) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(SystemExit) as caught:
        parse("--workers=2")
    assert str(caught.value) == (
        "goproxyai: WORKERS is more than 1, but the memory that the processes share cannot be "
        "made: File too large; a limit of file sizes (ulimit -f) applies to it"
    )


def test_unknown_option_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        parse("--rate-limits=7")


def test_version_option_prints_the_version_and_exits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"goproxyai {__version__}\n"


def test_options_choose_the_log_output() -> None:
    parent = {"nodaemon": True}
    options = parse(parent=parent)
    assert options.output is log_setup._chosen[-1]
    assert parent["logger"] == "goproxyai.daemon.log_setup.open_output"
    assert parse().output is None


# The service.


class Reactor(MemoryReactorClock):
    """Takes the place of the global reactor."""

    def callFromThread(self, call: Callable[..., object], *arguments: Any) -> None:
        self.callLater(0, call, *arguments)

    def run_pending_calls(self) -> None:
        self.advance(0)


@attrs.define
class Plugin:
    """Calls :func:`makeService`.

    :ivar handlers: the signal handlers that were installed, by number.
    :ivar logged: the events that were logged meanwhile.
    """

    reactor: Reactor
    handlers: dict[int, Any]
    logged: list[LogEvent] = attrs.field(factory=list)

    def make_service(self, options: Options) -> Daemon:
        with capturedLogs() as events:
            daemon = makeService(options)
        self.logged = events
        assert isinstance(daemon, Daemon)
        return daemon

    def hang_up(self) -> list[str]:
        """Deliver SIGHUP; return the logged lines."""
        with capturedLogs() as events:
            self.handlers[signal.SIGHUP](signal.SIGHUP, None)
            assert events == []  # a handler may run in the middle of any statement
            self.reactor.run_pending_calls()
        return lines(events)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugin]:
    """Replace the global reactor, and record signal handlers instead of installing them.

    Reloads follow each other without an interval, since the reactor's clock is the real one.
    """
    monkeypatch.setattr(signals, "MIN_CALL_INTERVAL_SECONDS", 0.0)
    one = Plugin(Reactor(), {})
    monkeypatch.setattr(twisted.internet, "reactor", one.reactor)
    monkeypatch.setattr(signals.signal, "signal", one.handlers.__setitem__)
    yield one
    assert one.reactor.getDelayedCalls() == []


def test_service_uses_the_monotonic_clock_and_configures_the_collector(plugin: Plugin) -> None:
    daemon = plugin.make_service(parse(OPENAI_API_URL="https://up.test"))
    assert daemon.settings.openai_url == "https://up.test"
    assert plugin.reactor.seconds is time.monotonic  # type: ignore[comparison-overlap]
    assert plugin.reactor.whenRunningHooks == [(configure_memory, (plugin.reactor,), {})]
    assert lines(plugin.logged) == [f"info: goproxyai {__version__}, upstream https://up.test"]


def test_sighup_changes_nothing_without_a_configuration_file(plugin: Plugin) -> None:
    plugin.make_service(parse())
    assert plugin.hang_up() == ["info: configuration reloaded, nothing changed"]


def with_file(directory: Path, content: str, parent: Any = None, **environ: str) -> Options:
    """Parse options with a configuration file.

    :param parent: twistd's own options.
    """
    path = directory / "own.env"
    path.write_text(content)
    return parse(parent=parent, CONFIG=str(path), **environ)


def test_sighup_reloads_the_file_in_the_reactor(plugin: Plugin, tmp_path: Path) -> None:
    daemon = plugin.make_service(with_file(tmp_path, "RATE_LIMIT=5\n"))
    (tmp_path / "own.env").write_text("RATE_LIMIT=7\n")
    assert plugin.hang_up() == ["info: configuration reloaded, changed: RATE_LIMIT"]
    assert daemon.settings.rate_limit == 7
    assert plugin.hang_up() == ["info: configuration reloaded, nothing changed"]


def test_overridden_settings_are_logged_at_the_start(plugin: Plugin, tmp_path: Path) -> None:
    plugin.make_service(with_file(tmp_path, "RATE_LIMIT=5\n", RATE_LIMIT="7"))
    assert lines(plugin.logged)[1:] == [
        "warn: CONFIG sets RATE_LIMIT without effect: an option or the environment takes precedence"
    ]


def test_likely_mistakes_are_logged_at_the_start(plugin: Plugin) -> None:
    plugin.make_service(
        parse(
            OPENAI_API_URL="https://up.test/v1",
            NO_PROXY="localhost,a..b",
            HTTPS_PROXY="http://me:hunter2@proxy:1",
            RATELIMIT="7",
        )
    )
    logged = lines(plugin.logged)
    assert logged[0] == f"info: goproxyai {__version__}, upstream https://up.test"
    assert [line.split()[:2] for line in logged[1:]] == [
        ["warn:", "OPENAI_API_URL"],
        ["warn:", "NO_PROXY"],
        ["warn:", "HTTPS_PROXY"],
        ["warn:", "RATELIMIT"],
    ]
    assert "hunter2" not in "".join(logged)


def shown(daemon: Daemon, name: str) -> tuple[str, str]:
    """Return the value and the source of a setting in the document of ``/stats``."""
    setting = daemon.admin.stats.document()["config"][name]
    return setting["value"], setting["source"]


def test_stats_show_value_and_source_of_every_setting(plugin: Plugin, tmp_path: Path) -> None:
    path = tmp_path / "own.env"
    path.write_text("CACHE_TTL=90s\nADMIN_TOKEN=hunter2\n")
    daemon = plugin.make_service(parse("--rate-limit=7", CONFIG=str(path), LOG_LEVEL="warn"))
    config = daemon.admin.stats.document()["config"]
    assert list(config) == [variable.name for variable in VARIABLES]
    assert shown(daemon, "RATE_LIMIT") == ("7", "option")
    assert shown(daemon, "LOG_LEVEL") == ("warn", "environment")
    assert shown(daemon, "CACHE_TTL") == ("90s", "file")
    assert shown(daemon, "ADMIN_TOKEN") == ("***", "file")
    assert shown(daemon, "REQUEST_TIMEOUT") == ("30s", "default")
    assert "hunter2" not in str(daemon.admin.stats.document())


def test_stats_show_the_settings_in_effect_after_a_reload(plugin: Plugin, tmp_path: Path) -> None:
    daemon = plugin.make_service(with_file(tmp_path, "RATE_LIMIT=5\nPORT=0\nCOALESCE=off\n"))
    (tmp_path / "own.env").write_text("RATE_LIMIT=7\nPORT=1\nCACHE_TTL=5m\n")
    plugin.hang_up()
    assert shown(daemon, "RATE_LIMIT") == ("7", "file")
    assert shown(daemon, "CACHE_TTL") == ("5m", "file")
    assert shown(daemon, "PORT") == ("0", "file")
    assert shown(daemon, "COALESCE") == ("off", "file")
    (tmp_path / "own.env").write_text("RATE_LIMIT=x\n")
    plugin.hang_up()
    assert shown(daemon, "RATE_LIMIT") == ("7", "file")


def test_log_level_decides_whether_requests_are_written(plugin: Plugin, tmp_path: Path) -> None:
    options = with_file(tmp_path, "LOG_LEVEL=warn\n", {"nodaemon": True})
    daemon = plugin.make_service(options)
    output = options.output
    assert output is not None
    assert daemon.context.access_log._write is None
    (tmp_path / "own.env").write_text("LOG_LEVEL=info\n")
    plugin.hang_up()
    assert (daemon.context.access_log._write, output._level) == (output.requests, LogLevel.info)
    (tmp_path / "own.env").write_text("LOG_LEVEL=error\n")
    plugin.hang_up()
    assert (daemon.context.access_log._write, output._level) == (None, LogLevel.error)


def test_log_level_does_not_concern_the_logger_of_the_operator(
    plugin: Plugin, tmp_path: Path
) -> None:
    daemon = plugin.make_service(with_file(tmp_path, ""))
    assert daemon.context.access_log._write is log_request_events
    (tmp_path / "own.env").write_text("LOG_LEVEL=error\n")
    plugin.hang_up()
    assert daemon.context.access_log._write is log_request_events


def test_drain_lets_the_next_signal_end_the_process(plugin: Plugin) -> None:
    daemon = plugin.make_service(parse())
    assert set(plugin.handlers) == {signal.SIGHUP, signal.SIGUSR1}
    daemon._on_drain()
    assert set(plugin.handlers) == {
        signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT,
    }  # fmt: skip
