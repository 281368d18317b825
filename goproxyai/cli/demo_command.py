"""``goproxyai demo``: made-up traffic on loopback until Ctrl-C, or the official client once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import MutableMapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, globalLogBeginner
from zope.interface import provider

import goproxyai
from goproxyai import __version__
from goproxyai.cli.commands import BY_NAME
from goproxyai.cli.options import parse
from goproxyai.cli.usage_problem import UsageProblem
from goproxyai.config.settings import Settings
from goproxyai.config.variable import SettingError
from goproxyai.config.variables import VARIABLES
from goproxyai.daemon.process_setup import prepare_to_serve
from goproxyai.demo.demo import Demo
from goproxyai.demo.phases import describe_faults, periods

DEFAULT_PORT = "8080"

CHECKOUT = Path(goproxyai.__file__).resolve().parents[1]
"""The checkout, unless the package is installed elsewhere."""

ONCE_PACKAGES = ("openai", "trustme")
"""What the program behind ``--once`` imports beyond the package's requirements."""


def run(arguments: list[str], __: MutableMapping[str, str]) -> int:
    """Run the demo until SIGINT or SIGTERM.

    :raises SystemExit: with status 0, or with one line where the port cannot be listened on.
    """
    options, _ = parse(BY_NAME["demo"], arguments)
    if options["once"]:
        return run_once()
    port = _port(options["port"])
    globalLogBeginner.beginLoggingTo([print_problem], redirectStandardIO=False)

    def main(reactor: Any) -> Deferred[None]:
        prepare_to_serve(reactor, Settings.from_texts({}))
        demo = Demo(reactor, periods(bool(options["outage"])), print_with_time)
        demo.start(port)
        reactor.addSystemEventTrigger(
            "before", "shutdown", lambda: Deferred.fromCoroutine(demo.stop())
        )
        print_line(welcome(demo.url, bool(options["outage"])))
        return Deferred()  # Twisted ends the process after a signal

    react(main)
    raise AssertionError("react ends the process")


def run_once() -> int:
    """Run ``examples/demo/`` of the checkout; return its exit status.

    :raises UsageProblem: outside of a checkout, or without a package that the program needs.
    """
    if not (CHECKOUT / "examples" / "demo" / "__main__.py").exists():
        raise UsageProblem(
            "--once needs a checkout: run `make demo ONCE=1` in the repository", "demo"
        )
    missing = [name for name in ONCE_PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageProblem(f"--once needs more packages: pip install {' '.join(missing)}", "demo")
    command = [sys.executable, "-m", "examples.demo"]
    return subprocess.run(command, cwd=CHECKOUT, check=False).returncode  # noqa: S603


def _port(text: str | None) -> int:
    """Return the port.

    :raises UsageProblem: if *text* is not a port.
    """
    (variable,) = [each for each in VARIABLES if each.name == "PORT"]
    try:
        port: int = variable.read(text or DEFAULT_PORT)
    except SettingError as error:
        raise UsageProblem(str(error).replace("PORT is", "--port is", 1), "demo") from None
    return port


def welcome(url: str, begins_with_outage: bool) -> str:
    """Return the lines that are printed at the start.

    :param url: the origin of the daemon.
    """
    return f"""\
goproxyai {__version__}: a made-up OpenAI API and made-up clients, all on this machine

  dashboard   {url}/dashboard
  API         {url}/v1

An answer without a key; repeat it to see X-Cache: HIT:

  curl -i {url}/v1/models

{describe_faults(begins_with_outage)}
Ctrl-C ends the demo.
"""


def print_with_time(line: str) -> None:
    print_line(f"{time.strftime('%H:%M:%S')}  {line}")


def print_line(line: str) -> None:
    print(line, flush=True)


@provider(ILogObserver)
def print_problem(event: LogEvent) -> None:
    """Print an error that was logged: a log observer."""
    if event.get("log_level", LogLevel.info) >= LogLevel.error:
        print(eventAsText(event, includeTimestamp=False, includeSystem=False), file=sys.stderr)
