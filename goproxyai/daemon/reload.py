"""SIGHUP: the configuration is read again, and what can change while the daemon runs, changes.

1. All or nothing: a value that does not parse leaves everything as it is, and is one line.
2. What changes, changes in one turn, from the next request on; what is under way goes on as it
   began, but for the waits for upstream that begin after it.
3. What cannot change without a restart is named, each time, until there was one.
4. While the daemon stops nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
from twisted.logger import Logger

from goproxyai.config.settings import Settings
from goproxyai.config.sources import LoadedConfig
from goproxyai.config.variables import VARIABLES, SettingError
from goproxyai.daemon.service import Daemon

LIVE: Final = frozenset(variable.name for variable in VARIABLES if variable.reloadable)
"""The variables that can change while the daemon runs: see :meth:`.Daemon.change`."""

_log = Logger(namespace="goproxyai")


def differences(before: Settings, after: Settings) -> tuple[list[str], list[str]]:
    """The names of what differs: what can change at once, and what needs a restart."""
    differ = [
        field.name.upper()
        for field in attrs.fields(Settings)
        if getattr(before, field.name) != getattr(after, field.name)
    ]
    return [n for n in differ if n in LIVE], [n for n in differ if n not in LIVE]


def hidden_line(names: tuple[str, ...]) -> str:
    """What is said about the names that ``CONFIG`` sets to no effect."""
    return f"CONFIG sets {', '.join(names)} to no effect: an option or the environment wins"


@attrs.define(eq=False)
class Reload:
    """Does it.

    :param daemon: whose settings these are.
    :param read: gives the settings as they are now; raises ``SettingError``.
    :param write: sees to it that the log has another level.
    """

    daemon: Daemon
    read: Callable[[], LoadedConfig]
    write: Callable[[str], None]

    def now(self) -> None:
        """Read again, and change what can be changed."""
        if self.daemon.stopping:
            _log.info("the configuration is not read again: the proxy is stopping")
            return
        try:
            reading = self.read()
        except SettingError as error:
            _log.error("the configuration is as before: {error}", error=str(error))
            return
        before = self.daemon.settings
        live, restart = differences(before, reading.settings)
        changed = {name.lower(): getattr(reading.settings, name.lower()) for name in live}
        if reading.prices.table != self.daemon.prices.table and "PRICES" not in live:
            live.append("PRICES")  # in the same file
        self.daemon.change(attrs.evolve(before, **changed), reading.prices)
        if live:
            _log.info("the configuration has changed: {names}", names=", ".join(live))
        else:
            _log.info("the configuration has not changed")
        if restart:
            _log.warn("the configuration needs a restart: {names}", names=", ".join(restart))
        if reading.overridden:
            _log.warn("{line}", line=hidden_line(reading.overridden))
        if "LOG_LEVEL" in live:  # of what comes behind this
            self.write(reading.settings.log_level)
