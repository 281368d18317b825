"""The number of Hypothesis's examples, for tests whose examples take long."""

from __future__ import annotations

from typing import Any

from hypothesis import settings


def fewer_examples(divisor: int, **others: Any) -> settings:
    """Return the settings of the profile with its number of examples divided by *divisor*.

    :param others: further settings.
    """
    return settings(max_examples=settings().max_examples // divisor, **others)
