"""What an operator wants to know when the daemon starts: one event, or a banner on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.address import UNIXAddress

from goproxyai.config.settings import Settings, has_tls
from goproxyai.config.shown_settings import ShownSetting
from goproxyai.daemon.listeners import shown_address
from goproxyai.daemon.proxy_options import caching_enabled
from goproxyai.durations import format_duration
from goproxyai.egress.routes import proxy_to

_WILDCARDS = ("::", "0.0.0.0")  # noqa: S104  # compared, not listened on
_LABEL_WIDTH = 12


@attrs.frozen
class UpstreamShown:
    """An upstream, and how it is connected to.

    :ivar proxy: the egress proxy, without credentials; empty for a direct connection.
    """

    url: str
    proxy: str


@attrs.frozen
class StartReport:
    """The facts, without secrets.

    :ivar api: base URLs for clients, or paths of Unix sockets.
    :ivar dashboard: empty where no listener is known.
    :ivar operators: the addresses that may use the dashboard.
    :ivar has_token: whether ``ADMIN_TOKEN`` is set.
    :ivar cache_ttl: empty where the cache is off.
    :ivar max_cache_size: megabytes.
    :ivar timeouts: durations by name.
    :ivar warnings: likely mistakes.
    """

    version: str
    api: tuple[str, ...]
    upstreams: tuple[UpstreamShown, ...]
    dashboard: str
    operators: str
    has_token: bool
    cache_ttl: str
    max_cache_size: str
    rate_limit: int
    timeouts: Mapping[str, str]
    workers: int
    warnings: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """Return the fields of the JSON event."""
        return attrs.asdict(self)

    def pairs(self) -> dict[str, str]:
        """Return the most important facts, for one line of text."""
        return {
            "api": " ".join(self.api),
            "proxy": " ".join([each.proxy for each in self.upstreams if each.proxy]),
            "dashboard": self.dashboard,
            "cache_ttl": self.cache_ttl or "0",
            "rate_limit": str(self.rate_limit),
        }

    def banner(self) -> str:
        """Return the lines for a terminal."""
        rows = [
            ("API", " ".join(self.api)),
            *[("upstream", _with_proxy(each)) for each in self.upstreams],
            ("dashboard", self.dashboard or "not served"),
            ("", self._audience()),
            ("cache", self._cache()),
            ("rate limit", self._rate_limit()),
            ("timeouts", ", ".join([f"{name} {text}" for name, text in self.timeouts.items()])),
            *([("workers", str(self.workers))] if self.workers > 1 else []),
            *[("warning", line) for line in self.warnings],
        ]
        lines = [f"  {label:<{_LABEL_WIDTH}}{text}" for label, text in rows if text]
        return "\n".join([f"goproxyai {self.version}", *lines])

    def _audience(self) -> str:
        if not self.dashboard:
            return ""
        if self.operators:
            others = ", others with ADMIN_TOKEN" if self.has_token else ""
            return f"for clients from {self.operators}{others}"
        if self.has_token:
            return "for clients with ADMIN_TOKEN"
        return "for no client: set ADMIN_ALLOW or ADMIN_TOKEN"

    def _cache(self) -> str:
        if not self.cache_ttl:
            return "off"
        return f"{self.max_cache_size} MB, responses stay fresh for {self.cache_ttl}"

    def _rate_limit(self) -> str:
        if not self.rate_limit:
            return "off"
        return f"{self.rate_limit} requests per minute for each client"


def _with_proxy(upstream: UpstreamShown) -> str:
    return f"{upstream.url} via {upstream.proxy}" if upstream.proxy else upstream.url


def start_report(
    version: str,
    settings: Settings,
    shown: Mapping[str, ShownSetting],
    addresses: Sequence[Any],
    warnings: tuple[str, ...],
    workers: int,
) -> StartReport:
    """Return the report of a daemon that listens.

    :param shown: the same settings as text.
    :param addresses: of the listeners of ``LISTEN`` and then of ``ADMIN_LISTEN``.
    """
    public = len(settings.listen)
    api_path = settings.relay_paths[0].rstrip("/")
    api = [
        base_url(description, address, api_path)
        for description, address in zip(settings.listen, addresses, strict=False)
    ]
    operators = list(zip(settings.admin_listen, addresses[public:], strict=False))
    pages = operators or list(zip(settings.listen, addresses, strict=False))
    return StartReport(
        version,
        tuple(api),
        tuple([_upstream(settings, number) for number in range(len(settings.openai_api_url))]),
        base_url(*pages[0], "/dashboard") if pages else "",
        shown["ADMIN_ALLOW"].value,
        settings.admin_token is not None,
        format_duration(settings.cache_ttl) if caching_enabled(settings) else "",
        shown["MAX_CACHE_SIZE"].value,
        settings.rate_limit,
        {
            "connect": format_duration(settings.connect_timeout),
            "response": format_duration(settings.request_timeout),
            "generation": format_duration(settings.generation_timeout),
            "idle": format_duration(settings.idle_timeout),
        },
        workers,
        warnings,
    )


def base_url(description: str, address: Any, path: str) -> str:
    """Return the URL of *path* at a listener, or the path of its Unix socket.

    :param description: the listener's endpoint string.
    """
    if isinstance(address, UNIXAddress):
        return shown_address(address)
    scheme = "https" if has_tls(description) else "http"
    if address.host in _WILDCARDS:
        return f"{scheme}://localhost:{address.port}{path}"
    return f"{scheme}://{shown_address(address)}{path}"


def _upstream(settings: Settings, number: int) -> UpstreamShown:
    url = settings.openai_api_url[number]
    proxy = proxy_to(settings.proxy_url, settings.no_proxy, url.host, url.port)
    return UpstreamShown(url.text, "" if proxy is None else proxy.masked)
