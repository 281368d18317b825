"""Where settings come from: options, then the environment, then the file that ``CONFIG`` names.

The environment of a process does not change while it runs, so what is to be changed then stands in
the file, and neither in the environment nor among the options, which win.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

import attrs

from goproxyai.config import env_file as envfile
from goproxyai.config.settings import VARIABLES, SettingError, Settings
from goproxyai.usage import prices
from goproxyai.usage.prices import Prices

CONFIG = "CONFIG"
"""The one variable that cannot be set in the file."""

VARIABLE_NAMES = frozenset(variable.name for variable in VARIABLES)
"""Those that can be set at all."""


@attrs.frozen
class LoadedConfig:
    """What the sources say.

    :ivar overridden: the names that the file sets to no effect, since an option or the environment
        sets them otherwise.
    :ivar prices: of tokens.
    """

    settings: Settings
    overridden: tuple[str, ...] = ()
    prices: Prices = attrs.field(factory=Prices)


@attrs.frozen
class ConfigSources:
    """Texts by their variables' names; ``PATH`` and the like may be among them.

    :ivar options: of the command line.
    :ivar environ: of the process, as it was at the start.
    :ivar directory: where the file lies if its path is relative; twistd may go elsewhere.
    """

    options: Mapping[str, str] = attrs.field(repr=False)
    environ: Mapping[str, str] = attrs.field(repr=False)
    directory: str

    @property
    def path(self) -> str | None:
        """The file, if there is one."""
        given = self.options.get(CONFIG, self.environ.get(CONFIG, "")).strip()
        return os.path.join(self.directory, given) if given else None

    def read(self) -> LoadedConfig:
        """The settings as the sources are now.

        :raises SettingError: where a file, or a value, is none.
        """
        fixed = {name: text for name, text in self.environ.items() if name in VARIABLE_NAMES}
        fixed |= self.options
        path = self.path
        filed = {} if path is None else _filed(path)
        hidden = [name for name, text in filed.items() if fixed.get(name, text).strip() != text]
        settings = Settings.from_texts({**filed, **fixed})
        table = Prices()
        if settings.prices is not None:
            table = _priced(os.path.join(self.directory, settings.prices))
        return LoadedConfig(settings, tuple(hidden), table)


def _filed(path: str) -> dict[str, str]:
    """What the file at *path* says."""
    try:
        return envfile.parse(_content(path, envfile.LARGEST), VARIABLE_NAMES - {CONFIG})
    except OSError as error:
        why = f"a file that can be read ({error.strerror})"
    except envfile.EnvFileError as error:
        why = f"a file of NAME=value lines ({error})"
    raise SettingError(f"{CONFIG} is {path!a}, expected {why}")


def _priced(path: str) -> Prices:
    """The table in the file at *path*."""
    try:
        return prices.parse(_content(path, prices.LARGEST))
    except OSError as error:
        why = f"a file that can be read ({error.strerror})"
    except prices.PricesError as error:
        why = f"a table of prices ({error})"
    raise SettingError(f"PRICES is {path!a}, expected {why}")


def _content(path: str, most: int) -> bytes:
    """What is in the file, a byte more than *most* of it; a pipe could take for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "Not a regular file")
        return file.read(most + 1)
