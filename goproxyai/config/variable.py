"""A configuration variable: the name, the default, and how its text is parsed and shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from goproxyai.messages.redaction import mask_credentials

_MAX_SHOWN_CHARACTERS = 100


class SettingError(ValueError):
    """An invalid setting; ``str()`` is one line for the operator, without a secret."""


@attrs.frozen
class Variable:
    """A row of the table.

    :ivar name: the name of the environment variable.
    :ivar default: the text that is parsed if the variable is not set.
    :ivar help: one or more sentences for the manual, with units.
    :ivar expected: describes a valid value, as in "expected ...".
    :ivar parse: parses stripped text; raises ``ValueError`` if the text is invalid.
    :ivar redact: returns the part of an invalid text that an error message may show.
    :ivar show: returns a valid text without its secrets; by default *redact* does.
    :ivar allow_empty: whether an empty text is a value of its own instead of the default.
    :ivar reloadable: whether SIGHUP applies a new value to a running daemon.
    """

    name: str
    default: str
    help: str
    expected: str
    parse: Callable[[str], Any]
    redact: Callable[[str], str] = mask_credentials
    show: Callable[[str], str] | None = None
    allow_empty: bool = False
    reloadable: bool = False

    @property
    def option(self) -> str:
        """The name of the command-line option, without leading dashes."""
        return self.name.lower().replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that a shell may complete; empty where any text is possible."""
        return tuple([each for each in getattr(self.parse, "choices", ()) if each])

    def shown(self, text: str) -> str:
        """Return the valid *text* without its secrets."""
        show = self.show or self.redact
        return show(text) if text else ""

    def read(self, text: str | None) -> Any:
        """Parse *text*, or the default if *text* is ``None``.

        :raises SettingError: if the text is invalid.
        """
        given = self.default if text is None else text.strip()
        if not given and not self.allow_empty:
            given = self.default
        try:
            return self.parse(given)
        except ValueError:
            shown = self.redact(given)
            if len(shown) > _MAX_SHOWN_CHARACTERS:
                shown = shown[:_MAX_SHOWN_CHARACTERS] + "..."
            line = f"{self.name} is {shown!a}, expected {self.expected}"
        # Outside of the except block: a chained exception would show the text in a traceback.
        raise SettingError(line)
