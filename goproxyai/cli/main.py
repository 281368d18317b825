"""The entry of the command ``goproxyai``.

Exit statuses: 0; 1 if the command failed; 2 if the command line is wrong, with one line on standard
error. Ctrl-C ends the process by SIGINT.

The parser of options and the help are imported late: ``goproxyai health`` runs every few seconds in
a container, and takes 0.11 s of CPU time instead of 0.25 s without them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, MutableMapping
from importlib import import_module
from typing import Final

from goproxyai import __version__
from goproxyai.cli.commands import BY_NAME
from goproxyai.cli.usage_problem import UsageProblem
from goproxyai.config.variable import SettingError

FAILED: Final = 1
WRONG_USAGE: Final = 2

Arguments = list[str]
Environ = MutableMapping[str, str]

_MAX_SHOWN_CHARACTERS = 40


def run_command() -> None:
    """Run the command of this process's arguments, and end the process."""
    status = FAILED
    try:
        status = main(sys.argv[1:], os.environ)
        sys.stdout.flush()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BrokenPipeError:  # the reader of the output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FAILED
    sys.exit(status)


def main(arguments: Arguments, environ: Environ) -> int:
    """Run a command; return the exit status.

    :raises SystemExit: with the exit status, or with one line where the daemon does not start.
    """
    try:
        return _run(arguments, environ)
    except UsageProblem as problem:
        print(problem, file=sys.stderr)
        return WRONG_USAGE
    except SettingError as error:
        print(f"goproxyai: {error}", file=sys.stderr)
        return FAILED


def _run(arguments: Arguments, environ: Environ) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h", "help"):
        if name == "help" and arguments[1:2] and arguments[1] in BY_NAME:
            return _function(arguments[1])(["--help"], environ)
        from goproxyai.cli.help import general_help

        print(general_help())
        return 0
    if name == "--version":
        print(f"goproxyai {__version__}")
        return 0
    if name not in BY_NAME:
        raise UsageProblem(_unknown_command(name))
    return _function(name)(arguments[1:], environ)


def _function(name: str) -> Callable[[Arguments, Environ], int]:
    """Return the function of a command; its module is imported late, because some are large."""
    function: Callable[[Arguments, Environ], int] = import_module(
        f"goproxyai.cli.{name}_command"
    ).run
    return function


def _unknown_command(name: str) -> str:
    kind = "option" if name.startswith("-") else "command"
    shown = name.partition("=")[0]
    shown = shown[:_MAX_SHOWN_CHARACTERS] if shown.isprintable() else "that name"
    from goproxyai.cli.options import nearest_command

    nearest = nearest_command(name.lstrip("-"))
    if kind == "option" and not nearest:
        return f"unknown option {shown}; options follow a command, such as goproxyai run {shown}"
    hint = f"did you mean {nearest}?" if nearest else "see goproxyai --help"
    return f"unknown {kind} {shown}; {hint}"
