"""``goproxyai demo``: made-up traffic on loopback, until Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import MutableMapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, globalLogBeginner
from zope.interface import provider

from goproxyai import __version__
from goproxyai.cli.commands import BY_NAME
from goproxyai.cli.options import parse
from goproxyai.cli.usage_problem import UsageProblem
from goproxyai.config.settings import Settings
from goproxyai.config.variable import SettingError
from goproxyai.config.variables import VARIABLES
from goproxyai.daemon.process_setup import prepare_to_serve
from goproxyai.demo.demo import Demo
from goproxyai.demo.phases import describe_outages, periods

DEFAULT_PORT = "8080"


def run(arguments: list[str], __: MutableMapping[str, str]) -> int:
    """Run the demo until SIGINT or SIGTERM.

    :raises SystemExit: with status 0, or with one line where the port cannot be listened on.
    """
    options, _ = parse(BY_NAME["demo"], arguments)
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

{describe_outages(begins_with_outage)} Ctrl-C ends the demo.
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
