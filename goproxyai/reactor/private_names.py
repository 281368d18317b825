"""The check for private names that a Twisted release may lack."""

from __future__ import annotations

import twisted

TESTED_RELEASE = "26.10"
"""The Twisted release that the tests ran with; ``pyproject.toml`` allows no later one."""


class UnsupportedTwistedError(RuntimeError):
    """The installed Twisted release lacks a private name that has no fallback."""


def missing_names(holder: object, *names: str) -> tuple[str, ...]:
    """Return those of *names* that are no attributes of *holder*."""
    return tuple(name for name in names if not hasattr(holder, name))


def describe_missing(holder: object, missing: tuple[str, ...]) -> str:
    """Return the start of a log line or an error about *missing* attributes of *holder*."""
    kind = type(holder)
    return (
        f"Twisted {twisted.__version__} has no {', '.join(missing)} in "
        f"{kind.__module__}.{kind.__qualname__}; install Twisted {TESTED_RELEASE}"
    )
