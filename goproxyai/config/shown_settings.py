"""The settings as `/stats` shows them: the text of each value, and its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from goproxyai.config.variable import Variable
from goproxyai.config.variables import VARIABLES

DEFAULT = "default"
"""The source of a variable that is not set, or that is empty and has a default."""


@attrs.frozen
class ShownSetting:
    """A setting.

    :ivar value: without secrets.
    :ivar source: :data:`DEFAULT` or the name of a source.
    """

    value: str
    source: str


def shown_settings(
    sources: Sequence[tuple[str, Mapping[str, str]]],
) -> dict[str, ShownSetting]:
    """Return all settings by the names of their variables.

    :param sources: names and valid texts, in order of precedence.
    """
    shown = {variable.name: _shown(variable, sources) for variable in VARIABLES}
    request, generation = shown["REQUEST_TIMEOUT"], shown["GENERATION_TIMEOUT"]
    if generation.source == DEFAULT != request.source:
        shown["GENERATION_TIMEOUT"] = ShownSetting(request.value, DEFAULT)
    return shown


def settings_document(shown: Mapping[str, ShownSetting]) -> dict[str, dict[str, str]]:
    """Return value and source of each setting by name, for JSON."""
    return {name: attrs.asdict(setting) for name, setting in shown.items()}


def _shown(variable: Variable, sources: Sequence[tuple[str, Mapping[str, str]]]) -> ShownSetting:
    for source, texts in sources:
        if variable.name in texts:
            text = texts[variable.name].strip()
            if text or variable.allow_empty:
                return ShownSetting(variable.shown(text), source)
            break
    return ShownSetting(variable.shown(variable.default), DEFAULT)
