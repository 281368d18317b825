"""Error replies of Redis: what they mean for other commands, and what may be logged of them."""

from __future__ import annotations

import re
from typing import Final

MAX_CHARACTERS: Final = 200

_LASTING: Final = re.compile(
    r"\b(?:OOM|READONLY|MISCONF|NOAUTH|WRONGPASS|NOPERM|LOADING|MASTERDOWN|CLUSTERDOWN|MOVED"
    r"|NOREPLICAS|BUSY|UNKILLABLE)\b"
)
_ADVICE: Final = {
    "WRONGPASS": "check the user and the password in STATE_URL",
    "NOAUTH": "the server expects a password in STATE_URL",
    "NOPERM": "the user in STATE_URL lacks a permission, see docs/explanation/scaling.md",
    "OOM": "the server is full",
    "READONLY": "the server is a replica",
    "MOVED": "the server is a part of a cluster, which is not supported",
}


def is_lasting(error: Exception) -> bool:
    """Return whether other commands would get the same error, so that the server is of no use."""
    return _LASTING.search(str(error)) is not None


def problem_of(error: Exception) -> str:
    """Return *error* as a part of a line, with what to do where that is known."""
    text = " ".join(str(error).split())[:MAX_CHARACTERS]
    match = _LASTING.search(text)
    advice = _ADVICE.get(match.group()) if match else None
    return f"{text} ({advice})" if advice else text
