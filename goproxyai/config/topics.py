"""The topics that group the settings in the help, in ``config`` and on the page of the settings.

The table of variables is in the order of the manual, so a topic is a run of rows.
"""

from __future__ import annotations

from typing import Final

import attrs

from goproxyai.config.variable import Variable
from goproxyai.config.variables import VARIABLES

FIRST_VARIABLES: Final = (
    ("Listeners", "CONFIG"),
    ("Upstream", "OPENAI_API_URL"),
    ("Rate limit", "RATE_LIMIT"),
    ("Cache", "CACHE_TTL"),
    ("Timeouts, upgrades and stopping", "REQUEST_TIMEOUT"),
    ("Retries and health", "RETRY_STATUS"),
    ("Memory, connections and processes", "MAX_CACHE_SIZE"),
    ("Clients and operators", "TRUSTED_PROXIES"),
    ("Logs, prices and traces", "LOG_FORMAT"),
)
"""The title of each topic, and the variable that it begins with."""


@attrs.frozen
class Topic:
    """A group of settings; never empty."""

    title: str
    variables: tuple[Variable, ...]


def topics() -> tuple[Topic, ...]:
    """Return all topics; each variable is in one of them."""
    titles = {name: title for title, name in FIRST_VARIABLES}
    groups: dict[str, list[Variable]] = {}
    title = FIRST_VARIABLES[0][0]
    for variable in VARIABLES:
        title = titles.get(variable.name, title)
        groups.setdefault(title, []).append(variable)
    return tuple([Topic(title, tuple(variables)) for title, variables in groups.items()])
