"""Connects to an upstream as the daemon would, and reports each step.

The route, the egress proxy, the resolver, TLS and the request are those of :mod:`goproxyai.egress`;
this module only notes when each step ends, and which one fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai import __version__
from goproxyai.cli.advice import Place, advice_for, judge_status
from goproxyai.cli.findings import Finding, Result
from goproxyai.config.settings import Settings
from goproxyai.config.urls import ProxyURL, UpstreamURL
from goproxyai.egress.agent import RelayAgent, timeouts_of
from goproxyai.egress.name_endpoint import resolve
from goproxyai.egress.routes import Route, Routes, Step, proxy_to
from goproxyai.egress.tls import tls_to
from goproxyai.reactor.deadlines import Ticker

DNS, TLS, HTTP = "DNS", "TLS", "HTTP"

MAX_SHOWN_ADDRESSES: Final = 4


class Timeline:
    """When each step of connecting has ended.

    :param seconds: the clock.
    :param plan: the names of the steps, in order.
    """

    def __init__(self, seconds: Callable[[], float], plan: list[str]) -> None:
        self._seconds = seconds
        self.plan = plan
        self._details: dict[str, str] = {}
        self._durations: dict[str, float] = {}
        self._last = seconds()

    def ended(self, step: str, detail: str = "") -> None:
        """Note that *step* has succeeded."""
        now = self._seconds()
        self._durations[step] = now - self._last
        self._details[step] = detail
        self._last = now

    def observe(self, step: Step, endpoint: IStreamClientEndpoint) -> IStreamClientEndpoint:
        """Return *endpoint* with its result noted: an :data:`~goproxyai.egress.routes.Observe`."""
        return _ObservedEndpoint(endpoint, lambda: self.ended(step.value))

    @property
    def current(self) -> str:
        """The first step that has not ended."""
        return next((step for step in self.plan if step not in self._durations), self.plan[-1])

    def findings(self, failed: Finding | None) -> list[Finding]:
        """Return a finding for each step.

        :param failed: of the step that failed, if one did; without its time.
        """
        found = []
        for step in self.plan:
            if failed is not None and step == failed.name:
                found.append(attrs.evolve(failed, seconds=self._seconds() - self._last))
            elif step in self._durations:
                detail, seconds = self._details[step], self._durations[step]
                found.append(Finding(step, Result.OK, detail, seconds=seconds))
            else:
                found.append(Finding(step, Result.NOT_REACHED))
        return found


@implementer(IStreamClientEndpoint)
@attrs.frozen(eq=False)
class _ObservedEndpoint:
    """Calls *connected* after each successful connection."""

    endpoint: IStreamClientEndpoint
    connected: Callable[[], None]

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        connecting: Deferred[Any] = self.endpoint.connect(protocolFactory)
        return connecting.addCallback(self._note)

    def _note(self, protocol: Any) -> Any:
        self.connected()
        return protocol


@attrs.define(eq=False)
class UpstreamCheck:
    """The check of one upstream.

    :param tls: as in :class:`~goproxyai.egress.routes.Routes`.
    """

    _reactor: Any
    _settings: Settings
    _url: UpstreamURL
    _tls: Callable[[str], Any] = tls_to
    _proxy: ProxyURL | None = attrs.field(init=False)
    _timeline: Timeline = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        settings, url = self._settings, self._url
        self._proxy = proxy_to(settings.proxy_url, settings.no_proxy, url.host, url.port)
        self._timeline = Timeline(self._reactor.seconds, self._plan())

    def _plan(self) -> list[str]:
        proxy, secured = self._proxy, self._url.scheme == "https"
        tunnel = []
        if proxy is not None and (secured or proxy.is_socks):
            tunnel = [Step.SOCKS.value if proxy.is_socks else Step.CONNECT.value]
        has_tls = secured or (proxy is not None and proxy.scheme == "https" and not tunnel)
        return [DNS, Step.TCP.value, *tunnel, *([TLS] if has_tls else []), HTTP]

    async def run(self) -> list[Finding]:
        """Return a finding for each step."""
        ticker = Ticker(self._reactor)
        ticker.start()
        settings = self._settings
        routes = Routes(
            self._reactor,
            settings.proxy_url,
            settings.no_proxy,
            self._tls,
            self._timeline.observe,
        )
        agent = RelayAgent(
            self._reactor, ticker, routes, timeouts_of(settings), settings.connect_timeout
        )
        failed = None
        try:
            failed = await self._steps(agent)
        except Exception:
            failed = self._failure(Failure())
        finally:
            agent.pool.close()
            ticker.stop()
        masked = "" if self._proxy is None else self._proxy.masked
        return [
            attrs.evolve(finding, upstream=self._url.text, proxy=masked)
            for finding in self._timeline.findings(failed)
        ]

    async def _steps(self, agent: RelayAgent) -> Finding | None:
        """Take all steps; return the finding about the response if it is not ``ok``."""
        self._timeline.ended(DNS, await self._resolve())
        route = agent.route(self._url.origin)
        connection = await agent.connect(route)
        if TLS in self._timeline.plan:
            self._timeline.ended(TLS, _describe_tls(connection.transport))
        agent.pool.release(route.origin, connection)
        return await self._request(agent, route)

    async def _resolve(self) -> str:
        """Resolve the names that the daemon would; return what was found."""
        proxy, url = self._proxy, self._url
        hosts = [(url.host, url.port)] if proxy is None else [(proxy.host, proxy.port)]
        if proxy is not None and proxy.resolves_here:
            hosts.append((url.host, url.port))
        found = []
        for host, port in hosts:
            looking_up = resolve(self._reactor, host, port)
            looking_up.addTimeout(self._settings.connect_timeout, self._reactor)
            addresses = [each.host for each in await looking_up]
            if addresses != [host]:
                more = ", ..." if len(addresses) > MAX_SHOWN_ADDRESSES else ""
                found.append(f"{host}: {', '.join(addresses[:MAX_SHOWN_ADDRESSES])}{more}")
        return "; ".join(found) or "an address needs no look-up"

    async def _request(self, agent: RelayAgent, route: Route) -> Finding | None:
        """Send a request without credentials; return the finding if it is not ``ok``."""
        path = self._settings.relay_paths[0] + "models"
        target = self._url.base_path + path.encode("ascii")
        headers = [
            (b"User-Agent", f"goproxyai/{__version__}".encode("ascii")),
            (b"Accept", b"application/json"),
        ]
        response = await agent.request(b"GET", route.origin + target, headers)
        response.abort()  # the head is enough
        location = response.fields.get(b"location", b"").decode("latin-1")
        finding = judge_status(response.code, target.decode("ascii"), location)
        if finding.result is not Result.OK:
            return attrs.evolve(finding, name=HTTP)
        self._timeline.ended(HTTP, finding.detail)
        return None

    def _failure(self, failure: Failure) -> Finding:
        step = self._timeline.current
        if isinstance(failure.value, DeferredTimeout):
            detail = "no answer from the resolver within CONNECT_TIMEOUT"
            return Finding(step, Result.FAILED, detail, "Check the name servers of this machine.")
        place = Place(step, self._url, self._proxy)
        return Finding(step, Result.FAILED, *advice_for(failure, place))


def _describe_tls(transport: Any) -> str:
    """Return protocol version and validity of a connection's certificate."""
    version = transport.getHandle().get_protocol_version_name()
    certificate = transport.getPeerCertificate().to_cryptography()
    return f"{version}, certificate valid until {certificate.not_valid_after_utc:%Y-%m-%d}"
