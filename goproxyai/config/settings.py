"""The settings of one daemon: the parsed values of all variables."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from goproxyai.config.state_url import StateURL
from goproxyai.config.urls import ProxyURL, UpstreamURL
from goproxyai.config.variable import SettingError
from goproxyai.config.variables import VARIABLES
from goproxyai.limits.addresses import Networks, TrustedProxies

_HAS_TLS = re.compile(r"(?:haproxy:)?ssl:")


def has_tls(endpoint: str) -> bool:
    """Whether a Twisted endpoint string is one with TLS."""
    return _HAS_TLS.match(endpoint) is not None


@attrs.frozen
class Settings:
    """The configuration of one daemon; durations in seconds, sizes in bytes.

    :ivar config: path of the configuration file, if there is one.
    :ivar listen: Twisted endpoint strings, with ``$PORT`` replaced.
    :ivar admin_listen: Twisted endpoint strings; if empty, *listen* serves all endpoints.
    :ivar tls_client_ca: path of a PEM file; never set without an ``ssl:`` endpoint.
    :ivar openai_api_url: upstreams in order of preference, at least one.
    :ivar relay_paths: prefixes that start and end with ``/``, at least one.
    :ivar rate_limit: requests per minute and client; 0 disables the limit.
    :ivar cache_ttl: 0 disables the cache.
    :ivar cache_error_ttl: longest lifetime of an error; 0 stores none.
    :ivar cache_paths: paths of POSTs, without the leading ``/v1/``.
    :ivar cache_ignore_headers: lower-cased names, or prefixes that end in ``*``.
    :ivar cache_ignore_cookies: names, or prefixes that end in ``*``.
    :ivar cache_shared: paths, without the leading ``/v1/``.
    :ivar coalesce: one of :data:`~goproxyai.cache.coalescing.COALESCE_MODES`.
    :ivar cache_snapshot_key: never ``None`` if ``cache_snapshot`` is set.
    :ivar generation_timeout: for the response head of a POST; ``request_timeout`` is for the other
        methods.
    :ivar upgrades: ``websocket`` or ``off``.
    :ivar retry_status: response statuses that cause a retry.
    :ivar breaker: share of failures, from 0 to 1, that opens a circuit; 0 disables the breaker.
    :ivar health_probe: target of the health probes.
    :ivar max_connections_per_client: 0 disables the limit.
    :ivar workers: processes that serve requests; :data:`~.parsers.AUTO`: one for each processor.
    :ivar state_secret: never ``None`` if ``state_url`` is set.
    :ivar state_strict: whether requests are refused while the shared state is away.
    :ivar admin_hosts: host names in lower case.
    :ivar log_format: ``json``, ``text``, or empty: text on a terminal only.
    :ivar log_sample: share of requests that are logged, from 0 to 1.
    :ivar prices: path of a file that :mod:`goproxyai.usage.prices` parses.
    :ivar tracing: ``off`` or ``otlp``.
    """

    config: str | None
    listen: tuple[str, ...]
    admin_listen: tuple[str, ...]
    tls_client_ca: str | None
    openai_api_url: tuple[UpstreamURL, ...]
    relay_paths: tuple[str, ...]
    proxy_url: ProxyURL | None
    no_proxy: tuple[str, ...]
    rate_limit: int
    cache_ttl: float
    cache_max_ttl: float
    cache_error_ttl: float
    cache_paths: tuple[str, ...]
    cache_ignore_headers: tuple[str, ...]
    cache_ignore_cookies: tuple[str, ...]
    cache_stale: float
    cache_shared: tuple[str, ...]
    coalesce: str
    cache_snapshot: str | None
    cache_snapshot_key: str | None = attrs.field(repr=False)
    request_timeout: float
    generation_timeout: float
    connect_timeout: float
    idle_timeout: float
    keepalive_timeout: float
    upgrades: str
    tunnel_idle_timeout: float
    drain_delay: float
    drain_timeout: float
    retry_status: frozenset[int]
    breaker: float
    health_probe: bytes | None
    max_cache_size: int
    max_request_memory: int
    max_body_size: int
    max_connections: int
    max_connections_per_client: int
    workers: int
    state_url: StateURL | None
    state_secret: str | None = attrs.field(repr=False)
    state_prefix: str
    state_strict: bool
    trusted_proxies: TrustedProxies
    admin_allow: Networks
    admin_hosts: frozenset[str]
    admin_token: str | None = attrs.field(repr=False)
    log_format: str
    log_level: str
    log_sample: float
    log_slow: float
    prices: str | None
    tracing: str

    @property
    def openai_url(self) -> str:
        """The URLs of all upstreams as one text."""
        return ", ".join(url.text for url in self.openai_api_url)

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Settings:
        """Parse *texts* by variable name, such as ``os.environ``; other names are ignored.

        A variable that is not set has its default. A variable that is set but empty has its
        default too, unless :attr:`~goproxyai.config.variable.Variable.allow_empty` is set: then
        an empty list of networks, for example, allows no address.

        :raises SettingError: for the first invalid value.
        """
        values = {each.name.lower(): each.read(texts.get(each.name)) for each in VARIABLES}
        if _is_set(texts, "REQUEST_TIMEOUT") and not _is_set(texts, "GENERATION_TIMEOUT"):
            values["generation_timeout"] = values["request_timeout"]
        port = str(values.pop("port"))
        if values["cache_snapshot"] and not values["cache_snapshot_key"]:
            raise SettingError(
                "CACHE_SNAPSHOT_KEY is not set, expected at least 16 visible ASCII characters: "
                "CACHE_SNAPSHOT is never written unencrypted"
            )
        if values["state_url"] and not values["state_secret"]:
            raise SettingError(
                "STATE_SECRET is not set, expected at least 16 visible ASCII characters: nothing "
                "is stored in STATE_URL unencrypted"
            )
        if values["cache_snapshot"] and values["state_url"] and values["workers"] != 1:
            raise SettingError(
                f"CACHE_SNAPSHOT is {values['cache_snapshot']!a}, expected WORKERS=1 or no "
                "STATE_URL: with both, Redis has the cache that the workers share"
            )
        listen = tuple(endpoint.replace("$PORT", port) for endpoint in values.pop("listen"))
        endpoints = (*listen, *values["admin_listen"])
        if values["tls_client_ca"] and not any(map(has_tls, endpoints)):
            raise SettingError(
                f"TLS_CLIENT_CA is {values['tls_client_ca']!a}, expected an ssl: endpoint in "
                "LISTEN or ADMIN_LISTEN: without TLS no client presents a certificate"
            )
        return cls(listen=listen, **values)


def _is_set(texts: Mapping[str, str], name: str) -> bool:
    return bool(texts.get(name, "").strip())
