"""The demo: the made-up API, the daemon and the made-up clients in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred

from goproxyai.config.sources import ConfigSources, LoadedConfig
from goproxyai.daemon.build import make_daemon
from goproxyai.daemon.service import Daemon
from goproxyai.daemon.signals import end_on_next_signal
from goproxyai.demo.answers import PRICES
from goproxyai.demo.api import LOOPBACK, MadeUpAPI
from goproxyai.demo.phases import Period
from goproxyai.demo.traffic import Traffic
from goproxyai.egress.agent import RelayAgent
from goproxyai.egress.routes import Routes
from goproxyai.egress.tls import tls_to
from goproxyai.http11.connection_deadlines import Timeouts
from goproxyai.reactor.deadlines import Ticker
from goproxyai.usage import prices

SEED: Final = 17

SETTINGS: Final = {
    "RATE_LIMIT": "30",
    "CACHE_TTL": "45s",
    "DRAIN_TIMEOUT": "1s",
    "MAX_CONNECTIONS": "500",
    "LOG_LEVEL": "warn",
}
"""The settings of the daemon, which the environment does not change."""


def demo_config(port: int, api_port: int) -> LoadedConfig:
    """Return the configuration of the daemon on *port*."""
    texts = {
        **SETTINGS,
        "LISTEN": f"tcp:{port}:interface={LOOPBACK}",
        "OPENAI_API_URL": f"http://{LOOPBACK}:{api_port}",
    }
    return ConfigSources({}, texts, "/").read()


@attrs.define(eq=False)
class Demo:
    """The parts of the demo.

    :param periods: of the API.
    :param told: is called with a line at each change of phase.
    """

    _reactor: Any
    _periods: Iterator[Period]
    _told: Callable[[str], None]
    api: MadeUpAPI = attrs.field(init=False)
    daemon: Daemon = attrs.field(init=False)
    _traffic: Traffic = attrs.field(init=False)
    _ticker: Ticker = attrs.field(init=False)
    _entering: Deferred[None] = attrs.field(init=False)
    _next_phase: Any = attrs.field(init=False)

    def start(self, port: int) -> None:
        """Start all parts.

        :param port: of the daemon; 0 for a free one.
        :raises ListenError: with one line, where the port cannot be listened on.
        """
        random = Random(SEED)  # noqa: S311  # not for secrets
        self.api = MadeUpAPI(self._reactor, random)
        self.api.listen()
        self.daemon = self._make_daemon(port)
        self.daemon.listeners.listen()
        self.daemon.startService()
        self._ticker = Ticker(self._reactor)
        self._ticker.start()
        self._traffic = Traffic(self._reactor, self._agent(), self.url, random)
        self._traffic.start()
        self._enter_next_phase()

    @property
    def url(self) -> str:
        """The origin of the daemon."""
        return f"http://{LOOPBACK}:{self.daemon.listeners.addresses[0].port}"

    async def stop(self) -> None:
        """Stop all parts; nothing is left."""
        self._next_phase.cancel()
        self._traffic.stop()
        await self.daemon.stopService()
        await self.api.close()
        self._ticker.stop()

    def _make_daemon(self, port: int) -> Daemon:
        config = demo_config(port, self.api.port)
        daemon = make_daemon(
            self._reactor,
            config.settings,
            on_drain=end_on_next_signal,
            prices=prices.parse(PRICES),
        )
        daemon.admin.stats.config = config.shown
        return daemon

    def _agent(self) -> RelayAgent:
        routes = Routes(self._reactor, None, (), tls_to)
        return RelayAgent(self._reactor, self._ticker, routes, Timeouts(60.0, 60.0), 10.0)

    def _enter_next_phase(self) -> None:
        phase, seconds = next(self._periods)
        if phase is not self.api.phase:
            self._told(phase.value)
        self._entering = Deferred.fromCoroutine(self.api.enter(phase))
        self._next_phase = self._reactor.callLater(seconds, self._enter_next_phase)
