"""Command-line options for the settings: one for each variable, which the option overrides."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import ClassVar

from twisted.python import usage

from goproxyai import __version__
from goproxyai.config.sources import ConfigSources
from goproxyai.config.variables import VARIABLES


class SettingOptions(usage.Options):
    """The options, of which two may be repeated.

    :param environ: the environment, which options override.
    :ivar sources: where the settings are read from; after the options are parsed.
    """

    optParameters: ClassVar = [
        [
            variable.option,
            None,
            None,
            f"{variable.help} ({variable.name}; default: {variable.default or 'none'})",
        ]
        for variable in VARIABLES
        if variable.name not in ("LISTEN", "ADMIN_LISTEN")
    ]

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        super().__init__()
        self.environ = environ
        self._listen: list[str] = []
        self._admin_listen: list[str] = []
        self.sources: ConfigSources

    def opt_listen(self, endpoint: str) -> None:
        """A Twisted endpoint to listen on; may be repeated (LISTEN; default: tcp46:$PORT)."""
        self._listen.append(endpoint)

    def opt_admin_listen(self, endpoint: str) -> None:
        """A Twisted endpoint for operators; may be repeated (ADMIN_LISTEN; default: none)."""
        self._admin_listen.append(endpoint)

    def opt_version(self) -> None:
        """Show the version and exit."""
        print(f"goproxyai {__version__}")
        sys.exit(0)

    def postOptions(self) -> None:
        """Collect the sources of the settings; nothing is read."""
        options = {
            variable.name: self[variable.option]
            for variable in VARIABLES
            if self.get(variable.option) is not None
        }
        if self._listen:
            options["LISTEN"] = " ".join(self._listen)
        if self._admin_listen:
            options["ADMIN_LISTEN"] = " ".join(self._admin_listen)
        self.sources = ConfigSources(options, dict(self.environ), os.getcwd())
