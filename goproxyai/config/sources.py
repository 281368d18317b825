"""The sources of settings: options, then environment variables, then the file of ``CONFIG``.

Options and the environment of a process are fixed while it runs. A setting that an operator wants
to change without a restart must therefore be set in the file alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

import attrs

from goproxyai.config import env_file
from goproxyai.config.likely_mistakes import likely_mistakes
from goproxyai.config.settings import Settings
from goproxyai.config.shown_settings import ShownSetting, shown_settings
from goproxyai.config.variable import SettingError
from goproxyai.config.variables import VARIABLES
from goproxyai.usage import prices
from goproxyai.usage.prices import Prices

CONFIG = "CONFIG"
"""The variable that names the file; the only one that cannot be set in the file."""

VARIABLE_NAMES = frozenset(variable.name for variable in VARIABLES)


@attrs.frozen
class LoadedConfig:
    """The settings, and the contents of the files that they name.

    :ivar overridden: names in the file that an option or the environment sets to another value.
    :ivar prices: prices of tokens, from the file of ``PRICES``.
    :ivar shown: all settings with their sources, by the names of their variables.
    :ivar warnings: likely mistakes in the settings and in the environment, one line each.
    """

    settings: Settings
    overridden: tuple[str, ...] = ()
    prices: Prices = attrs.field(factory=Prices)
    shown: Mapping[str, ShownSetting] = attrs.field(factory=dict)
    warnings: tuple[str, ...] = ()


@attrs.frozen
class ConfigSources:
    """Texts by variable name; other names, such as ``PATH``, are ignored.

    :ivar options: options of the command line.
    :ivar environ: the environment of the process at its start.
    :ivar directory: the directory of relative paths. It is the working directory at the start:
        twistd changes the working directory when it runs in the background.
    """

    options: Mapping[str, str] = attrs.field(repr=False)
    environ: Mapping[str, str] = attrs.field(repr=False)
    directory: str

    @property
    def path(self) -> str | None:
        """The absolute path of the configuration file, if there is one."""
        given = self.options.get(CONFIG, self.environ.get(CONFIG, "")).strip()
        return os.path.join(self.directory, given) if given else None

    def read(self) -> LoadedConfig:
        """Read the files and parse the settings.

        :raises SettingError: if a file is unreadable or a value is invalid.
        """
        environ = {name: text for name, text in self.environ.items() if name in VARIABLE_NAMES}
        fixed = {**environ, **self.options}
        path = self.path
        from_file = {} if path is None else _read_env_file(path)
        overridden = [
            name for name, text in from_file.items() if fixed.get(name, text).strip() != text
        ]
        texts = {**from_file, **fixed}
        settings = Settings.from_texts(texts)
        sources = (("option", self.options), ("environment", environ), ("file", from_file))
        table = Prices()
        if settings.prices is not None:
            table = _read_prices(os.path.join(self.directory, settings.prices))
        return LoadedConfig(
            settings,
            tuple(overridden),
            table,
            shown_settings(sources),
            likely_mistakes(texts, self.environ),
        )


def _read_env_file(path: str) -> dict[str, str]:
    try:
        content = _read(path, env_file.MAX_FILE_BYTES)
        return env_file.parse_env_file(content, VARIABLE_NAMES - {CONFIG})
    except OSError as error:
        expected = f"a file that can be read ({error.strerror})"
    except env_file.EnvFileError as error:
        expected = f"a file of NAME=value lines ({error})"
    raise SettingError(f"{CONFIG} is {path!a}, expected {expected}")


def _read_prices(path: str) -> Prices:
    try:
        return prices.parse(_read(path, prices.MAX_TABLE_BYTES))
    except OSError as error:
        expected = f"a file that can be read ({error.strerror})"
    except prices.PricesError as error:
        expected = f"a table of prices ({error})"
    raise SettingError(f"PRICES is {path!a}, expected {expected}")


def _read(path: str, max_bytes: int) -> bytes:
    """Return at most *max_bytes* + 1 bytes of a regular file.

    The open is non-blocking, and the type is checked before the read: a FIFO would block
    indefinitely.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "Not a regular file")
        return file.read(max_bytes + 1)
