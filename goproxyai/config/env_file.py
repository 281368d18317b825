"""A file of ``NAME=value`` lines, as systemd's ``EnvironmentFile`` and docker's ``--env-file`` are.

1. A line is ``NAME=value``, or blank, or a comment: ``#`` or ``;`` first. Spaces around the line,
   the name and the value do not count. A ``#`` further on is part of the value.
2. A value within a pair of ``'`` or ``"`` is what stands between them, which is not another of
   them. Nothing is escaped, expanded or continued on the next line: a dollar sign and a backslash
   are themselves.
3. Only known names, and each once: what is mistyped must not go unnoticed.
4. A complaint names the line and never repeats it: what is wrong may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Collection

LARGEST = 64 * 1024
"""Bytes that such a file may have."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = re.compile(r"[A-Z_]{1,40}")  # others may be what wrapped of a secret


class EnvFileError(ValueError):
    """Something that is no such file; ``str()`` is a few words for the operator."""


def parse(content: bytes, names: Collection[str]) -> dict[str, str]:
    """Name to value, in the order of the lines.

    :param content: UTF-8, with or without carriage returns.
    :param names: those that are known.
    :raises EnvFileError: at the first line that is wrong.
    """
    if len(content) > LARGEST:
        raise EnvFileError(f"it is larger than {LARGEST // 1024} KiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = ""
    if content and not text:
        raise EnvFileError("it is not UTF-8")  # outside, so that no traceback repeats it
    values: dict[str, str] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        name = name.rstrip()
        if not equals or _NAME.fullmatch(name) is None:
            raise EnvFileError(f"line {number} is not NAME=value")
        if name not in names:
            shown = name if _OURS.fullmatch(name) else "that name"
            raise EnvFileError(f"line {number}: {shown} cannot be set there")
        if name in values:
            raise EnvFileError(f"line {number}: {name} is set before")
        values[name] = _unquoted(value.strip(), number)
    return values


def _unquoted(value: str, number: int) -> str:
    quote = value[:1]
    if quote not in ("'", '"'):
        return value
    if len(value) < 2 or value.find(quote, 1) != len(value) - 1:
        raise EnvFileError(f"line {number}: the quotes are not one pair around the value")
    return value[1:-1]
