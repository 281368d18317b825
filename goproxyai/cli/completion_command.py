"""``goproxyai completion``: scripts that complete commands, options and values in a shell."""

from __future__ import annotations

from collections.abc import MutableMapping

import attrs

from goproxyai.cli.commands import BY_NAME, COMMANDS, Command
from goproxyai.cli.options import parse
from goproxyai.config.parsers import file_path
from goproxyai.config.variables import VARIABLES


@attrs.frozen
class Completed:
    """An option as shells complete it.

    :ivar has_value: whether a value follows.
    :ivar choices: its values; empty if any text is possible.
    :ivar is_file: whether the value is a path.
    """

    name: str
    help: str
    has_value: bool = False
    choices: tuple[str, ...] = ()
    is_file: bool = False


def run(arguments: list[str], _: MutableMapping[str, str]) -> int:
    """Print the script for a shell."""
    _, (shell,) = parse(BY_NAME["completion"], arguments)
    print(completion_script(shell), end="")
    return 0


def completion_script(shell: str) -> str:
    """Return the script for *shell*, one of :data:`~.commands.SHELLS`."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def completed_options(command: Command) -> list[Completed]:
    """Return all options of *command*."""
    own = [
        Completed(each.name, _short(each.help), bool(each.argument), (), each.is_file)
        for each in command.options
    ]
    settings = [
        Completed(each.option, _short(each.help), True, each.choices, each.parse is file_path)
        for each in VARIABLES
        if command.takes_settings
    ]
    return [*own, *settings, Completed("help", "Show the help")]


def _short(text: str) -> str:
    """Return the first sentence of a help text."""
    return text.partition(". ")[0].rstrip(".")


def _all_options() -> dict[str, Completed]:
    """Return the options of all commands by name; a name means the same everywhere."""
    return {each.name: each for command in COMMANDS for each in completed_options(command)}


_BASH = """\
_goproxyai() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" option="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
    # Bash splits --option=value into three words.
    if [ "$current" = "=" ]; then
        current=""
    elif [ "$option" = "=" ]; then
        option="${{COMP_WORDS[COMP_CWORD-2]}}"
    fi
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$current"))
        return
    fi
    case "$option" in
{choices}
        {files})
            compopt -o filenames 2>/dev/null
            COMPREPLY=($(compgen -f -- "$current"))
            return ;;
    esac
    if [ -z "$words" ]; then
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    case "${{COMPREPLY[0]}}" in
        *=) compopt -o nospace 2>/dev/null ;;
    esac
}}
complete -F _goproxyai goproxyai
"""


def _bash() -> str:
    options = _all_options().values()
    cases = [
        f'            {command.name}) words="{" ".join([*command.choices, *_words(command)])}" ;;'
        for command in COMMANDS
    ]
    choices = [
        f'        --{each.name}) words="{" ".join(each.choices)}" ;;'
        for each in options
        if each.choices
    ]
    return _BASH.format(
        commands=" ".join([*[command.name for command in COMMANDS], "--help", "--version"]),
        choices="\n".join(choices),
        files="|".join([f"--{each.name}" for each in options if each.is_file]),
        cases="\n".join(cases),
    )


def _words(command: Command) -> list[str]:
    return [
        f"--{each.name}=" if each.has_value else f"--{each.name}"
        for each in completed_options(command)
    ]


def _zsh() -> str:
    commands = [f"        {_quoted(f'{each.name}:{each.summary}')}" for each in COMMANDS]
    cases = []
    for command in COMMANDS:
        lines = [_zsh_option(each) for each in completed_options(command)]
        if command.choices:
            lines.append(_quoted(f"1:shell:({' '.join(command.choices)})"))
        arguments = " \\\n            ".join(lines)
        cases.append(f"        {command.name}) _arguments \\\n            {arguments} ;;")
    return "\n".join(
        [
            "#compdef goproxyai",
            "_goproxyai() {",
            "    local -a commands=(",
            *commands,
            "    )",
            "    if (( CURRENT == 2 )); then",
            "        _describe command commands",
            "        return",
            "    fi",
            "    local command=$words[2]",
            "    shift words",
            "    (( CURRENT-- ))",
            "    case $command in",
            *cases,
            "    esac",
            "}",
            "compdef _goproxyai goproxyai",
            "",
        ]
    )


def _zsh_option(option: Completed) -> str:
    """Return a specification of ``_arguments``."""
    text = option.help.replace("[", "(").replace("]", ")").replace(":", " -")
    if not option.has_value:
        return _quoted(f"--{option.name}[{text}]")
    action = "_files" if option.is_file else f"({' '.join(option.choices)})"
    return _quoted(f"--{option.name}=[{text}]:value:{action if action != '()' else ' '}")


def _fish() -> str:
    names = " ".join([command.name for command in COMMANDS])
    lines = ["complete -c goproxyai -f"]
    for command in COMMANDS:
        lines.append(
            f"complete -c goproxyai -n 'not __fish_seen_subcommand_from {names}' "
            f"-a {command.name} -d {_quoted(command.summary)}"
        )
        condition = f"complete -c goproxyai -n '__fish_seen_subcommand_from {command.name}'"
        for option in completed_options(command):
            value = (" -r -F" if option.is_file else " -x") if option.has_value else ""
            value += f" -a {_quoted(' '.join(option.choices))}" if option.choices else ""
            lines.append(f"{condition} -l {option.name}{value} -d {_quoted(option.help)}")
        if command.choices:
            lines.append(f"{condition} -a {_quoted(' '.join(command.choices))}")
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    """Return *text* as one word of any of the shells."""
    return "'" + text.replace("'", "\u2019") + "'"
