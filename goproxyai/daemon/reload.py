"""Reload (SIGHUP): the configuration is read again, and the changed settings are applied.

1. All or nothing: an invalid value leaves all settings as they are, and is logged as one line.
2. The changes are applied in one turn of the reactor, from the next request on. Requests in
   progress keep their settings, and a timeout that has started keeps its duration.
3. Settings that cannot change without a restart are named at each reload until the restart.
4. A reload during the stop is refused.
5. Signals are coalesced (:class:`.CoalescedCall`): there is at most one reload per second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs
from twisted.logger import Logger

from goproxyai.admin.stats import Stats
from goproxyai.config.settings import Settings
from goproxyai.config.sources import LoadedConfig
from goproxyai.config.variable import SettingError
from goproxyai.config.variables import VARIABLES
from goproxyai.daemon.proxy_options import make_proxy_options
from goproxyai.daemon.service import Daemon
from goproxyai.proxy.context import ProxyContext
from goproxyai.usage.prices import Prices

RELOADABLE: Final = frozenset(variable.name for variable in VARIABLES if variable.reloadable)
"""The variables that :func:`apply_settings` can change in a running daemon."""

_log = Logger(namespace="goproxyai")


def changed_names(before: Settings, after: Settings) -> tuple[list[str], list[str]]:
    """Return the names of the changed variables: reloadable ones, and those that need a restart."""
    changed = [
        field.name.upper()
        for field in attrs.fields(Settings)
        if getattr(before, field.name) != getattr(after, field.name)
    ]
    reloadable = [name for name in changed if name in RELOADABLE]
    return reloadable, [name for name in changed if name not in RELOADABLE]


def overridden_line(names: tuple[str, ...]) -> str:
    """Return the log line about variables that ``CONFIG`` sets without effect."""
    return (
        f"CONFIG sets {', '.join(names)} without effect: an option or the environment takes "
        "precedence"
    )


def apply_settings(daemon: Daemon, settings: Settings, prices: Prices | None = None) -> None:
    """Replace the settings of a running daemon.

    :param settings: may differ from the present ones in :data:`RELOADABLE` variables only.
    :param prices: new token prices; ``None`` keeps the present ones.
    """
    admin, agent, factory = daemon.admin, daemon.agent, daemon.listeners.factory
    access_log = daemon.context.access_log
    if prices is not None:
        daemon.context.counters.tokens.prices = prices
    daemon.admission.set_rate(settings.rate_limit)
    daemon.admission.trust(settings.trusted_proxies)
    access_log.slow = settings.log_slow
    access_log.sample = settings.log_sample
    factory.connection_limits.trust(settings.trusted_proxies)
    daemon.listeners.limit_bodies(settings.max_body_size)
    daemon.listeners.keep_idle(settings.keepalive_timeout)
    daemon.context.memory.resize(settings.max_request_memory)
    agent.connect_timeout = settings.connect_timeout
    agent.timeouts.head = settings.request_timeout
    agent.timeouts.idle = settings.idle_timeout
    agent.timeouts.generation = settings.generation_timeout
    daemon.context.tunnels.idle_seconds = settings.tunnel_idle_timeout
    _apply_to_cache(daemon.context, daemon.settings, settings)
    admin.settings = admin.stats.settings = settings


def _apply_to_cache(context: ProxyContext, before: Settings, after: Settings) -> None:
    if before.max_cache_size != after.max_cache_size:
        context.store.resize(after.max_cache_size)
    present = context.options.current
    options = make_proxy_options(after, present.first_upstream, present.instance, present.traces)
    if options != present:  # new options invalidate the plans of all known request heads
        context.options.current = options
        if not options.caches:
            context.store.clear()


class Reloadable(Protocol):
    """What is reloaded: a :class:`.Daemon`, or the parent of several."""

    @property
    def stopping(self) -> bool: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def prices(self) -> Prices: ...
    @property
    def stats(self) -> Stats: ...


@attrs.define(eq=False)
class Reload:
    """Reads the configuration again and applies the changes.

    :param read: returns the configuration; raises ``SettingError``.
    :param set_log_level: called with the level when ``LOG_LEVEL`` has changed.
    :param apply: applies the settings and prices, as :func:`apply_settings` does.
    :param in_worker: whether the parent process logs what has changed.
    """

    daemon: Reloadable
    read: Callable[[], LoadedConfig]
    set_log_level: Callable[[str], None]
    apply: Callable[[Any, Settings, Prices], None] = apply_settings
    in_worker: bool = False

    def run(self) -> None:
        if self.daemon.stopping:
            _log.info("configuration not reloaded: the proxy is stopping")
            return
        try:
            config = self.read()
        except SettingError as error:
            self.daemon.stats.reload_failed_at = self.daemon.stats.wall()
            _log.error(
                "configuration not reloaded, all settings stay as they are: {error}",
                error=str(error),
            )
            return
        reloadable, restart = self._apply(config)
        if not self.in_worker:
            self._log(reloadable, restart, config.overridden)
        if "LOG_LEVEL" in reloadable:  # the lines above are logged at the old level
            self.set_log_level(config.settings.log_level)

    def _log(self, reloadable: list[str], restart: list[str], overridden: tuple[str, ...]) -> None:
        if reloadable:
            _log.info("configuration reloaded, changed: {names}", names=", ".join(reloadable))
        else:
            _log.info("configuration reloaded, nothing changed")
        if restart:
            _log.warn("restart the proxy to apply: {names}", names=", ".join(restart))
        if overridden:
            _log.warn("{line}", line=overridden_line(overridden))

    def _apply(self, config: LoadedConfig) -> tuple[list[str], list[str]]:
        """Apply the reloadable settings; return the names as :func:`changed_names` does."""
        before, prices = self.daemon.settings, self.daemon.prices
        reloadable, restart = changed_names(before, config.settings)
        fields = {name.lower(): getattr(config.settings, name.lower()) for name in reloadable}
        if config.prices.table != prices.table and "PRICES" not in reloadable:
            reloadable.append("PRICES")  # the same file with other contents
        self.apply(self.daemon, attrs.evolve(before, **fields), config.prices)
        stats = self.daemon.stats
        stats.reloaded_at = stats.wall()
        stats.config = {
            name: shown if name in RELOADABLE else stats.config.get(name, shown)
            for name, shown in config.shown.items()
        }
        return reloadable, restart
