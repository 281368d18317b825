"""A file of ``NAME=value`` lines, as for systemd's ``EnvironmentFile`` and docker's ``--env-file``.

1. A line is ``NAME=value``, blank, or a comment that starts with ``#`` or ``;``. White space around
   the line, the name and the value is removed. A ``#`` inside a value is part of the value.
2. A value in single or double quotes is the text between the quotes, which may not contain the same
   quote. There are no escapes, no variable expansion and no continuation lines.
3. Unknown and repeated names are errors, because they are likely typing errors.
4. An error message names the line number and never the line, because the line may hold a secret.
"""

from __future__ import annotations

import re
from collections.abc import Collection

MAX_FILE_BYTES = 64 * 1024

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Other names are not shown: they may be part of a secret that was wrapped onto a line of its own.
_SHOWABLE_NAME = re.compile(r"[A-Z_]{1,40}")


class EnvFileError(ValueError):
    """An invalid file; ``str()`` is the reason in a few words, without a secret."""


def parse_env_file(content: bytes, names: Collection[str] | None) -> dict[str, str]:
    """Return the values by name, in the order of the lines.

    :param content: UTF-8, with or without carriage returns and a byte order mark.
    :param names: the known names; ``None`` accepts any name.
    :raises EnvFileError: for the first invalid line.
    """
    if len(content) > MAX_FILE_BYTES:
        raise EnvFileError(f"it is larger than {MAX_FILE_BYTES // 1024} KiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = ""
    if content and not text:
        # Outside of the except block: a chained exception would show the content in a traceback.
        raise EnvFileError("it is not UTF-8")
    values: dict[str, str] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        name = name.rstrip()
        if not equals or _NAME.fullmatch(name) is None:
            raise EnvFileError(f"line {number} is not NAME=value")
        if names is not None and name not in names:
            shown = name if _SHOWABLE_NAME.fullmatch(name) else "that name"
            raise EnvFileError(f"line {number}: {shown} is not a setting for this file")
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
