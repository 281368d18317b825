"""The settings that the proxy reads for each request."""

from __future__ import annotations

from goproxyai.cache.post_paths import PostPaths
from goproxyai.cache.request_fields import IgnoredFields, NamePatterns
from goproxyai.config.settings import Settings
from goproxyai.proxy.request_plan import ProxyOptions
from goproxyai.proxy.upstreams import Upstream


def caching_enabled(settings: Settings) -> bool:
    return settings.cache_ttl > 0 and settings.max_cache_size > 0


def make_proxy_options(
    settings: Settings, upstream: Upstream, instance: bytes, traced: bool
) -> ProxyOptions:
    """Return the options of *settings*.

    :param upstream: the preferred upstream.
    :param instance: unique to this process.
    :param traced: whether requests are sent with a ``traceparent`` of the proxy.
    """
    return ProxyOptions(
        first_upstream=upstream,
        instance=instance,
        shared_namespaces=settings.cache_shared,
        coalesce=settings.coalesce,
        ttl=settings.cache_ttl,
        max_ttl=settings.cache_max_ttl,
        retry_status=settings.retry_status,
        retry_seconds=settings.request_timeout,
        post_retry_seconds=settings.generation_timeout,
        caches=caching_enabled(settings),
        traces=traced,
        error_ttl=settings.cache_error_ttl,
        post_paths=PostPaths(settings.cache_paths, settings.relay_paths),
        ignored_fields=IgnoredFields(
            NamePatterns.of(settings.cache_ignore_headers),
            NamePatterns.of(settings.cache_ignore_cookies),
        ),
        upgrades=settings.upgrades == "websocket",
    )
