"""``goproxyai config``: every setting, its value and its source, as ``/stats`` shows them."""

from __future__ import annotations

import json
from collections.abc import MutableMapping

from goproxyai import __version__
from goproxyai.cli.commands import BY_NAME
from goproxyai.cli.options import parse_settings
from goproxyai.config.shown_settings import settings_document
from goproxyai.config.sources import LoadedConfig
from goproxyai.config.topics import topics
from goproxyai.daemon.reload import overridden_line

_MAX_VALUE_WIDTH = 40


def run(arguments: list[str], environ: MutableMapping[str, str]) -> int:
    """Print the settings.

    :raises SettingError: if a value is invalid.
    """
    options = parse_settings(BY_NAME["config"], arguments, environ)
    config = options.sources.read()
    print(json_text(config) if options["json"] else table(config))
    return 0


def all_warnings(config: LoadedConfig) -> list[str]:
    """Return the lines that a start would log as warnings."""
    overridden = [overridden_line(config.overridden)] if config.overridden else []
    return [*config.warnings, *overridden]


def json_text(config: LoadedConfig) -> str:
    """Return the settings as a JSON document; ``config`` is that of ``/stats``."""
    document = {
        "version": __version__,
        "config": settings_document(config.shown),
        "warnings": all_warnings(config),
    }
    return json.dumps(document, indent=2)


def table(config: LoadedConfig) -> str:
    """Return the settings as text, grouped by topic."""
    name_width = max(map(len, config.shown)) + 2
    values = [len(setting.value) for setting in config.shown.values()]
    value_width = min(max(values), _MAX_VALUE_WIDTH) + 2
    lines = []
    for topic in topics():
        lines += [topic.title]
        for variable in topic.variables:
            setting = config.shown[variable.name]
            value = setting.value or "-"
            lines += [f"  {variable.name:<{name_width}}{value:<{value_width}}{setting.source}"]
        lines += [""]
    lines += [f"warning: {line}" for line in all_warnings(config)]
    return "\n".join(lines).rstrip("\n")
