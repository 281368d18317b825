"""The manual page ``goproxyai(1)``.

``python -m goproxyai.cli.man_page > docs/goproxyai.1`` writes the page; a test holds the page to
the tables.
"""

from __future__ import annotations

from goproxyai import __version__
from goproxyai.cli.commands import COMMANDS, SETTINGS_NOTE, SUMMARY, Command
from goproxyai.cli.help import option_label, setting_label, usage_line
from goproxyai.config.topics import topics
from goproxyai.config.variable import Variable

_EXIT_STATUS = (
    ("0", "The command succeeded."),
    ("1", "The command failed, such as a start with an invalid setting; one line says why."),
    ("2", "The command line is wrong; one line names the nearest option."),
)


def man_page() -> str:
    """Return the page in the format of man(7)."""
    lines = [
        f'.TH GOPROXYAI 1 "" "goproxyai {__version__}" "User Commands"',
        ".SH NAME",
        _text(f"goproxyai - {SUMMARY[0].lower()}{SUMMARY[1:]}"),
        ".SH SYNOPSIS",
    ]
    for command in COMMANDS:
        lines += [_text(usage_line(command)), ".br"]
    lines += ["goproxyai \\-\\-version"]
    for command in COMMANDS:
        lines += _command(command)
    lines += [".SH SETTINGS", _text(SETTINGS_NOTE)]
    for topic in topics():
        lines += [f".SS {_text(topic.title)}"]
        for variable in topic.variables:
            lines += _setting(variable)
    lines += [".SH EXIT STATUS"]
    for status, meaning in _EXIT_STATUS:
        lines += [".TP", f".B {status}", _text(meaning)]
    lines += [".SH SEE ALSO", ".BR twistd (1)"]
    return "\n".join([*lines, ""])


def _command(command: Command) -> list[str]:
    lines = [f".SH {command.name.upper()}", _text(command.text)]
    for option in command.options:
        lines += [".TP", f".B {_text(option_label(option))}", _text(option.help)]
    if command.takes_settings:
        lines += [".PP", "Each setting is an option as well, see SETTINGS."]
    for line, text in command.examples:
        lines += [".PP", f"{_text(text[0].upper() + text[1:])}:", ".PP", ".RS", ".nf", _text(line)]
        lines += [".fi", ".RE"]
    return lines


def _setting(variable: Variable) -> list[str]:
    default = f"Default: {variable.default}" if variable.default else "No default"
    return [
        ".TP",
        f".B {_text(setting_label(variable))}",
        _text(variable.help),
        _text(f"Variable: {variable.name}. {default}."),
    ]


def _text(text: str) -> str:
    """Return *text* with the characters escaped that have a meaning for troff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    print(man_page(), end="")
