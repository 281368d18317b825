"""Parses the options of a command; mistakes are one line with the nearest option."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from difflib import get_close_matches
from typing import Any, cast

from twisted.python import usage

from goproxyai.cli.commands import COMMANDS, Command
from goproxyai.cli.help import command_help, print_version
from goproxyai.cli.usage_problem import UsageProblem
from goproxyai.config.near_misses import near_misses
from goproxyai.config.variables import VARIABLES
from goproxyai.daemon.setting_options import SettingOptions

_UNKNOWN = re.compile(r"option --?(\S+) not recognized")
_ASSIGNMENT = re.compile(r"([A-Z_]{1,40})=", re.ASCII)
_NAMES = frozenset(variable.name for variable in VARIABLES)


class _Parser(usage.Options):
    """The parser of a command without settings; :class:`_SettingParser` is the other one.

    :ivar command: the command.
    :ivar operands: the arguments that are no options.
    """

    command: Command
    operands: tuple[str, ...] = ()

    def opt_help(self) -> None:
        """Show this help and exit."""
        print(command_help(self.command))
        sys.exit(0)

    def opt_version(self) -> None:
        """Show the version and exit."""
        print_version()
        sys.exit(0)

    def parseArgs(self, *operands: str) -> None:
        self.operands = operands


class _SettingParser(SettingOptions):
    command: Command
    operands: tuple[str, ...] = ()
    opt_help = _Parser.opt_help
    parseArgs = _Parser.parseArgs


Parsed = _Parser | _SettingParser


def parse_settings(
    command: Command, arguments: list[str], environ: MutableMapping[str, str]
) -> SettingOptions:
    """Parse the arguments of a command that takes settings.

    :raises UsageProblem: if they are wrong.
    :raises SystemExit: with status 0, after ``--help`` or ``--version``.
    """
    return cast(
        "SettingOptions", _parse(command, _class(command, _SettingParser)(environ), arguments)
    )


def parse(command: Command, arguments: list[str]) -> tuple[usage.Options, tuple[str, ...]]:
    """Parse the arguments of a command without settings; return its options and operands.

    :raises UsageProblem: if they are wrong.
    :raises SystemExit: with status 0, after ``--help`` or ``--version``.
    """
    parser = _parse(command, _class(command, _Parser)(), arguments)
    return parser, parser.operands


def _class(command: Command, base: Any) -> Any:
    members = {
        "command": command,
        "optFlags": [[each.name, None, each.help] for each in command.options if not each.argument],
        "optParameters": [
            [each.name, None, None, each.help] for each in command.options if each.argument
        ],
    }
    return type(f"{command.name.title()}Options", (base,), members)


def _parse(command: Command, parser: Parsed, arguments: list[str]) -> Parsed:
    problem = ""
    try:
        parser.parseOptions(arguments)
    except usage.UsageError as error:
        problem = _problem(command, str(error))
    if not problem:
        problem = _operand_problem(command, parser.operands)
    if problem:
        raise UsageProblem(problem, command.name)
    return parser


def _problem(command: Command, error: str) -> str:
    """Return one line for the message of a ``UsageError``."""
    unknown = _UNKNOWN.fullmatch(error)
    if unknown is None:
        return f"{error}; see goproxyai {command.name} --help"
    name = unknown[1]
    return f"unknown option --{name}; {_hint(nearest_option(command, name), command)}"


def _operand_problem(command: Command, operands: tuple[str, ...]) -> str:
    if not command.operands:
        if not operands:
            return ""
        # The operand may be a secret that was meant as the value of an option.
        assignment = _ASSIGNMENT.match(operands[0])
        if assignment is not None and command.takes_settings:
            option = nearest_option(command, assignment[1].lower())
            if option:
                return f"{assignment[1]}=... is not an option; did you mean --{option}=...?"
        return f"expected options only; see goproxyai {command.name} --help"
    if len(operands) == 1 and operands[0] in command.choices:
        return ""
    return f"expected one of {', '.join(command.choices)}"


def _hint(nearest: str, command: Command) -> str:
    return f"did you mean --{nearest}?" if nearest else f"see goproxyai {command.name} --help"


def option_names(command: Command) -> Iterator[str]:
    """Yield the names of all options of *command*."""
    yield from [option.name for option in command.options]
    if command.takes_settings:
        yield from [variable.option for variable in VARIABLES]
    yield from ("help", "version")


def nearest_option(command: Command, name: str) -> str:
    """Return the option that *name* was probably meant to be, or an empty string."""
    names = list(option_names(command))
    if command.takes_settings:
        as_variable = name.upper().replace("-", "_")
        if as_variable in _NAMES:
            return as_variable.lower().replace("_", "-")
        for _, meant in near_misses({as_variable: "x"}, _NAMES):
            return meant.lower().replace("_", "-")
    return _nearest(name.lower().replace("_", "-"), names)


def nearest_command(name: str) -> str:
    """Return the command that *name* was probably meant to be, or an empty string."""
    return _nearest(name, [command.name for command in COMMANDS])


def _nearest(name: str, names: Iterable[str]) -> str:
    return next(iter(get_close_matches(name, list(names), 1)), "")
