"""``goproxyai run``: twistd's own service in the foreground.

The arguments are handed to the classes that ``twistd`` consists of, so that exit statuses, signals,
workers and the log are those of ``twistd --nodaemon --pidfile= goproxyai``. Twisted's plugins are
not searched: the command works where the plugin is not installed.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from twisted.application.service import ServiceMaker
from twisted.scripts.twistd import ServerOptions, runApp  # type: ignore[attr-defined]

from goproxyai.cli.commands import BY_NAME, SUMMARY
from goproxyai.cli.options import parse_settings
from goproxyai.cli.usage_problem import UsageProblem
from goproxyai.daemon.setting_options import SettingOptions

NAME = "goproxyai"


class ForegroundOptions(ServerOptions):
    """The options of twistd, with goproxyai as the only subcommand."""

    @property
    def subCommands(self) -> Iterator[tuple[str, None, Any, str]]:
        maker = ServiceMaker(NAME, "goproxyai.plugin", SUMMARY, NAME)
        self.loadedPlugins = {NAME: maker}
        yield NAME, None, lambda: maker.options(), SUMMARY  # noqa: PLW0108  # imports late


def run(arguments: list[str], environ: MutableMapping[str, str]) -> int:
    """Serve until the process is stopped.

    :param environ: must be that of the process, which twistd reads.
    :raises SystemExit: with one line, where the start fails.
    """
    options = parse_settings(BY_NAME["run"], arguments, environ)
    config = ForegroundOptions()
    config.parseOptions(twistd_arguments(options))
    runApp(config)  # ends the process where a signal stopped the reactor
    return 0


def twistd_arguments(options: SettingOptions) -> list[str]:
    """Return the arguments of twistd.

    :raises UsageProblem: if the name of the log file is empty.
    """
    log_file = options.get("logfile")
    if log_file == "":
        raise UsageProblem("--logfile is empty, expected a path", "run")
    own = [] if log_file is None else [f"--logfile={log_file}"]
    settings = []
    for name, text in options.sources.options.items():
        option = name.lower().replace("_", "-")
        if name in ("LISTEN", "ADMIN_LISTEN"):
            settings += [f"--{option}={endpoint}" for endpoint in text.split()]
        else:
            settings.append(f"--{option}={text}")
    return ["--nodaemon", "--pidfile=", *own, NAME, *settings]
