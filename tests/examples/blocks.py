"""The fenced blocks of a Markdown page, and the commands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from textwrap import dedent

import attrs

FENCE = re.compile(r"(?ms)^( *)```(\w+)(?: \(not run: ([^)\n]+)\))?[ \t]*$\n(.*?)^\1```[ \t]*$")
ANY_FENCE = re.compile(r"(?m)^ *```(\S.*)$")


@attrs.frozen
class Block:
    """A fenced block.

    :ivar line: of its first line in the page.
    :ivar reason: why it is not run; empty if it is.
    """

    page: str
    line: int
    language: str
    reason: str
    content: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


@attrs.frozen
class Command:
    """A command of a console block.

    :ivar prompt: ``$``, or ``#`` for root.
    :ivar output: what the page shows below the command.
    """

    prompt: str
    text: str
    output: str


def blocks(page: str, text: str) -> list[Block]:
    """Return the blocks of *text*, directives of MyST left out."""
    found = []
    for match in FENCE.finditer(text):
        _, language, reason, content = match.groups()
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, language, reason or "", dedent(content)))
    fences = [info for info in ANY_FENCE.findall(text) if not info.startswith("{")]
    assert len(fences) == len(found), f"{page}: a fence that is not understood, among {fences}"
    return found


def commands(content: str) -> Iterator[Command]:
    """Yield the commands of a console block.

    A command goes on in the next line after a backslash. All other lines are output.
    """
    lines = content.splitlines()
    while lines:
        line = lines.pop(0)
        assert line[:2] in {"$ ", "# "}, f"output before the first command: {line!r}"
        text = [line[2:]]
        while text[-1].endswith("\\"):
            text.append(lines.pop(0))
        output = []
        while lines and lines[0][:2] not in {"$ ", "# "}:
            output.append(lines.pop(0))
        yield Command(line[0], "\n".join(text), "\n".join(output))


def file_name(content: str) -> str:
    """Return the name in the comment of the first line, such as ``# chat.py``, or nothing."""
    match = re.match(r"(?:#|//) ([\w.-]+\.\w+)\n", content)
    return match.group(1) if match else ""


def matches(shown: str, actual: str) -> bool:
    """Whether *actual* is the output that a page shows.

    ``…`` stands for any characters of a line, and a line of its own for any lines.
    """
    pattern = ""
    for line in shown.strip().splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(map(re.escape, line.rstrip().split("…"))) + r"[ \t\r]*\n"
    return re.fullmatch(pattern, actual.strip() + "\n") is not None
