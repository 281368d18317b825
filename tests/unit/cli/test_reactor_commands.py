"""The commands that run a reactor, without running one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger

from goproxyai.cli import check_command, demo_command, main
from goproxyai.cli.findings import Finding, Result

Capture = pytest.CaptureFixture[str]


class Reactor(MemoryReactorClock):
    """Takes the place of the global reactor."""

    def installNameResolver(self, resolver: Any) -> None:
        self.resolver = resolver


class FakeReact:
    """Takes the place of ``twisted.internet.task.react``."""

    def __init__(self) -> None:
        self.reactor: Any = Reactor()

    def __call__(self, function: Callable[[Any], Deferred[None]]) -> None:
        failures: list[Any] = []
        self.result = function(self.reactor)
        self.result.addErrback(failures.append)
        if failures:
            failures[0].raiseException()
        raise SystemExit(0)


@pytest.fixture(autouse=True)
def no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (check_command, demo_command):
        monkeypatch.setattr(module.globalLogBeginner, "beginLoggingTo", lambda *_, **__: None)


def test_demo_once_runs_the_program_of_the_checkout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(command: list[str], cwd: Any, check: bool) -> Any:
        assert (cwd / command[2].replace(".", "/") / "__main__.py").exists()
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(demo_command.subprocess, "run", run)
    assert main.main(["demo", "--once"], {}) == 1


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("CHECKOUT", Path("/absent"), "--once needs a checkout: run `make demo ONCE=1` in the "
         "repository"),
        ("ONCE_PACKAGES", ("attrs", "no_such_a", "no_such_b"), "--once needs more packages: pip "
         "install no_such_a no_such_b"),
    ],
)  # fmt: skip
def test_demo_once_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str, value: Any, problem: str
) -> None:
    monkeypatch.setattr(demo_command, name, value)
    assert main.main(["demo", "--once"], {}) == 2
    assert capsys.readouterr().err == f"goproxyai demo: {problem}\n"


@pytest.mark.parametrize(("result", "status"), [(Result.OK, 0), (Result.FAILED, 1)])
def test_check_prints_the_findings_and_ends_with_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, result: Result, status: int
) -> None:
    async def check(reactor: Any, sources: Any, environ: Any, log_file: Any) -> list[Finding]:
        assert sources.options == {"RATE_LIMIT": "7"}
        assert log_file == "own.log"
        return [Finding("files", result, "found")]

    monkeypatch.setattr(check_command, "check", check)
    monkeypatch.setattr(check_command, "react", FakeReact())
    with pytest.raises(SystemExit) as caught:
        main.main(["check", "--rate-limit=7", "--logfile=own.log"], {})
    assert caught.value.code == status
    assert capsys.readouterr().out.split() == ["files", result.value, "found"]


def test_demo_prints_its_urls_and_stops_before_the_reactor(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    started: list[Any] = []

    class Demo:
        url = "http://127.0.0.1:9"

        def __init__(self, reactor: Any, periods: Any, told: Callable[[str], None]) -> None:
            told("a phase")

        def start(self, port: int) -> None:
            started.append(port)

        async def stop(self) -> None:
            started.append("stopped")

    react = FakeReact()
    monkeypatch.setattr(demo_command, "Demo", Demo)
    monkeypatch.setattr(demo_command, "prepare_to_serve", lambda reactor, settings: None)
    monkeypatch.setattr(demo_command, "react", react)
    with pytest.raises(SystemExit):
        main.main(["demo", "--port=9", "--outage"], {})
    out = capsys.readouterr().out
    assert "  dashboard   http://127.0.0.1:9/dashboard\n" in out
    assert "begins in 15 s" in out
    assert out.splitlines()[0].endswith("  a phase")
    ((place, stop),) = triggers(react.reactor)
    assert place == ("before", "shutdown")
    stop()
    assert started == [9, "stopped"]


def triggers(reactor: Any) -> list[tuple[tuple[str, str], Any]]:
    return [
        ((phase, event), call)
        for phase, found in reactor.triggers.items()
        for event, calls in found.items()
        for call, _, _ in calls
    ]


def test_demo_with_operands_is_a_mistake(capsys: Capture) -> None:
    assert main.main(["demo", "now"], {}) == 2
    assert capsys.readouterr().err == (
        "goproxyai demo: expected options only; see goproxyai demo --help\n"
    )


def test_only_errors_are_printed_by_the_demo(capsys: Capture) -> None:
    log = Logger(namespace="a", observer=demo_command.print_problem)
    log.warn("a warning")
    log.error("an error")
    assert capsys.readouterr().err == "an error\n"


def test_interrupt_during_a_start_ends_by_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def interrupted(arguments: Any, environ: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "main", interrupted)
    monkeypatch.setattr(main.signal, "signal", lambda *given: sent.append(given))
    monkeypatch.setattr(main.os, "kill", lambda _, number: sent.append(number))
    with pytest.raises(SystemExit):
        main.run_command()
    assert sent == [(signal.SIGINT, signal.SIG_DFL), signal.SIGINT]


def test_status_of_the_command_is_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(sys, "argv", ["goproxyai", "--version"])
    with pytest.raises(SystemExit) as caught:
        main.run_command()
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("goproxyai ")
