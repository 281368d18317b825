"""The texts of ``--help``, for the width of the terminal."""

from __future__ import annotations

import shutil
from textwrap import fill, wrap

from goproxyai import __version__
from goproxyai.cli.commands import COMMANDS, SETTINGS_NOTE, SUMMARY, Command, Option
from goproxyai.config.topics import topics
from goproxyai.config.variable import Variable

_MAX_WIDTH = 100
_LABEL_WIDTH = 12
_INDENT = " " * 8


def print_version() -> None:
    print(f"goproxyai {__version__}")


def general_help() -> str:
    """Return the help of ``goproxyai --help``."""
    commands = [f"  {each.name:<{_LABEL_WIDTH}}{each.summary}" for each in COMMANDS]
    return "\n".join(
        [
            "Usage: goproxyai COMMAND [OPTIONS]",
            "",
            f"{SUMMARY}.",
            "",
            "Commands:",
            *commands,
            "",
            "Options:",
            f"  {'--help':<{_LABEL_WIDTH}}show this help; after a command, that of the command",
            f"  {'--version':<{_LABEL_WIDTH}}show the version",
            "",
            _filled(f"{SETTINGS_NOTE} `goproxyai run --help` lists all settings by topic."),
        ]
    )


def command_help(command: Command) -> str:
    """Return the help of *command*."""
    lines = [f"Usage: {usage_line(command)}", "", _filled(command.text), ""]
    if command.examples:
        lines += ["Examples:", *[f"  {line}" for line in example_lines(command)], ""]
    lines += ["Options:"]
    for option in command.options:
        lines += _option_lines(option_label(option), option.help)
    lines += _option_lines("--help", "Show this help and exit.")
    lines += _option_lines("--version", "Show the version and exit.")
    if command.takes_settings:
        lines += ["", _filled(SETTINGS_NOTE)]
        for topic in topics():
            lines += ["", f"{topic.title}:"]
            for variable in topic.variables:
                lines += _option_lines(setting_label(variable), setting_help(variable))
    return "\n".join(lines)


def example_lines(command: Command) -> list[str]:
    """Return the examples of *command*, each with what it does in a comment."""
    width = max([len(line) for line, _ in command.examples], default=0)
    return [f"{line:<{width}}    # {text}" for line, text in command.examples]


def usage_line(command: Command) -> str:
    """Return a line such as ``goproxyai run [OPTIONS]``."""
    operands = f" {command.operands}" if command.operands else ""
    return f"goproxyai {command.name} [OPTIONS]{operands}"


def option_label(option: Option) -> str:
    """Return the option and the name of its value."""
    return f"--{option.name}={option.argument}" if option.argument else f"--{option.name}"


def setting_label(variable: Variable) -> str:
    """Return the option of a setting and its values."""
    value = "|".join(variable.choices) or "VALUE"
    return f"--{variable.option}={value}"


def setting_help(variable: Variable) -> str:
    """Return the help of a setting, with the variable and the default."""
    default = f"default {variable.default}" if variable.default else "no default"
    return f"{variable.help} [{variable.name}, {default}]"


def _option_lines(label: str, text: str) -> list[str]:
    wrapped = wrap(
        text,
        text_width(),
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_on_hyphens=False,
    )
    return [f"  {label}", *wrapped]


def _filled(text: str) -> str:
    return fill(text, text_width(), break_on_hyphens=False)


def text_width() -> int:
    """Return the characters in a line: those of the terminal, within a bound."""
    return min(shutil.get_terminal_size().columns, _MAX_WIDTH)
