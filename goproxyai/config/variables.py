"""The table of configuration variables: one table, hence a long module.

The environment, the options of ``twistd goproxyai``, the file that ``CONFIG`` names, the reload on
SIGHUP and ``docs/reference/configuration.md`` are all derived from :data:`VARIABLES`.
"""

from __future__ import annotations

from goproxyai.cache.coalescing import COALESCE_MODES
from goproxyai.config.parsers import (
    cache_paths,
    endpoints,
    error_statuses,
    file_path,
    host_names,
    ignored_headers,
    key_prefix,
    megabytes,
    name_patterns,
    namespaces,
    one_of,
    passphrase,
    positive,
    probe_target,
    relay_paths,
    share,
    switch,
    token,
    whole_number,
    worker_count,
)
from goproxyai.config.state_url import parse_state_url, show_state_url
from goproxyai.config.urls import parse_proxy_url, parse_upstream_urls, redact_url
from goproxyai.config.variable import Variable
from goproxyai.durations import parse_duration
from goproxyai.limits.addresses import Networks, TrustedProxies
from goproxyai.messages.redaction import mask_credentials, redacted_target
from goproxyai.upstream.no_proxy import parse_no_proxy


def _redact_secret(_: str) -> str:
    return "***"


def _show_no_proxy(text: str) -> str:
    return ",".join(parse_no_proxy(text))  # a skipped entry may hold credentials


def _show_target(text: str) -> str:
    return redacted_target(text.encode())


_DURATION = "a duration such as 30s, 1h30m or 250ms"
_POSITIVE_DURATION = _DURATION + ", longer than 0"
_ENDPOINTS = "Twisted endpoint strings such as tcp:8080:interface=127.0.0.1, separated by spaces"
_NETWORKS = (
    "IP addresses or networks such as 10.0.0.0/8, without host bits, separated by spaces or commas"
)

MAX_WORKERS = 256

VARIABLES: tuple[Variable, ...] = (
    Variable(
        "CONFIG",
        "",
        "A file of NAME=value lines, read at the start and on SIGHUP. Options and environment "
        "variables override the file.",
        "a path",
        file_path,
        allow_empty=True,
    ),
    Variable(
        "PORT",
        "8080",
        "The TCP port to listen on. 0 selects a free port.",
        "a port from 0 to 65535",
        whole_number(0, 65535),
    ),
    Variable(
        "LISTEN",
        "tcp46:$PORT:backlog=1024",
        "Twisted endpoint strings to listen on, separated by spaces. $PORT stands for the value "
        "of PORT. tcp46 listens on IPv6 and IPv4, or on IPv4 alone where the host has no IPv6; tcp "
        "is IPv4, tcp6 is IPv6. haproxy: before an endpoint expects the PROXY protocol.",
        _ENDPOINTS,
        endpoints,
    ),
    Variable(
        "ADMIN_LISTEN",
        "",
        "Twisted endpoint strings that serve all endpoints except the relayed ones. The endpoints "
        "of LISTEN then serve only the relayed ones and /health. If empty, LISTEN serves all.",
        _ENDPOINTS,
        endpoints,
        allow_empty=True,
    ),
    Variable(
        "TLS_CLIENT_CA",
        "",
        "A file of PEM certificates. Clients of ssl: endpoints must then present a certificate "
        "that one of them has signed. If empty, clients need no certificate.",
        "a path",
        file_path,
        allow_empty=True,
    ),
    Variable(
        "OPENAI_API_URL",
        "https://api.openai.com",
        "The URL of the upstream, or several URLs in order of preference. A path in the URL is "
        "put before the path of each request. /v1 at its end is dropped, because the paths of "
        "requests begin with it.",
        "a URL such as https://api.openai.com, without credentials, query or fragment, or several "
        "different ones",
        parse_upstream_urls,
        redact_url,
        show=mask_credentials,
    ),
    Variable(
        "RELAY_PATHS",
        "/v1/",
        "The path prefixes that are relayed, such as /v1/ /openai/. Requests to other paths are "
        "answered by the proxy.",
        "path prefixes such as /v1/ /openai/, without the proxy's own endpoints, separated by "
        "spaces or commas",
        relay_paths,
    ),
    Variable(
        "PROXY_URL",
        "",
        "The URL of the egress proxy: http, https, socks5 (goproxyai resolves host names) or "
        "socks5h (the proxy resolves them). If empty, upstreams are connected to directly.",
        "a URL such as http://user:password@proxy:8080 or socks5h://proxy:1080, credentials "
        "percent-encoded",
        parse_proxy_url,
        redact_url,
        allow_empty=True,
    ),
    Variable(
        "NO_PROXY",
        "",
        "Hosts that are connected to without the egress proxy. An invalid entry is skipped, with a "
        "warning.",
        "hosts, .suffixes, addresses or networks, each with or without :port, separated by commas",
        parse_no_proxy,
        show=_show_no_proxy,
        allow_empty=True,
    ),
    Variable(
        "RATE_LIMIT",
        "60",
        "The rate limit of each client in requests per minute, and the largest burst in requests. "
        "0 disables the limit.",
        "a whole number of requests a minute up to 1000000000, 0 for no limit",
        whole_number(0, 1_000_000_000),
        reloadable=True,
    ),
    Variable(
        "CACHE_TTL",
        "5m",
        "How long a stored response stays fresh. 0 disables the cache.",
        _DURATION + ", 0 for no cache",
        parse_duration,
        reloadable=True,
    ),
    Variable(
        "CACHE_MAX_TTL",
        "24h",
        "The longest freshness that a request may set for its response with X-Cache-TTL. 0 "
        "ignores X-Cache-TTL.",
        _DURATION,
        parse_duration,
        reloadable=True,
    ),
    Variable(
        "CACHE_ERROR_TTL",
        "10s",
        "The longest time that a response with status 400 or 401 stays fresh, whatever "
        "X-Cache-TTL says. 0 stores none.",
        _DURATION + ", 0 to store none",
        parse_duration,
        reloadable=True,
    ),
    Variable(
        "CACHE_PATHS",
        "chat/completions completions embeddings",
        "The POST requests that may be answered from the cache, by their paths as they follow "
        "/v1/, or as they end under another prefix of RELAY_PATHS. Those of the default always "
        "may. See docs/explanation/caching.md before adding a path.",
        "paths under /v1/ such as responses moderations, separated by spaces or commas",
        cache_paths,
        allow_empty=True,
        reloadable=True,
    ),
    Variable(
        "CACHE_IGNORE_HEADERS",
        "",
        "Request headers that do not change a response: names such as x-team, or prefixes such as "
        "x-corp-*. A request with another header that the proxy does not know bypasses the cache.",
        "header names or prefixes such as x-team x-corp-*, without Cookie, Range, If-Range, "
        "X-Stainless-Poll-Helper and those of the cache key, separated by spaces or commas",
        ignored_headers,
        allow_empty=True,
        reloadable=True,
    ),
    Variable(
        "CACHE_IGNORE_COOKIES",
        "",
        "Cookies that do not change a response: names such as AWSALB, or prefixes such as "
        "incap_ses_*. A request with another cookie bypasses the cache.",
        "cookie names or prefixes such as AWSALB incap_ses_*, separated by spaces or commas",
        name_patterns,
        allow_empty=True,
        reloadable=True,
    ),
    Variable(
        "CACHE_STALE",
        "0",
        "How long an expired response is kept, to be served if the upstream fails or the request "
        "allows it with max-stale. 0 keeps none.",
        _DURATION,
        parse_duration,
    ),
    Variable(
        "CACHE_SHARED",
        "",
        "Paths under /v1/ whose stored responses are shared by all credentials, such as "
        "embeddings,models.",
        "paths under /v1/ such as embeddings,models, separated by commas or spaces",
        namespaces,
        allow_empty=True,
    ),
    Variable(
        "COALESCE",
        "deterministic",
        "Which identical concurrent requests share one upstream request: off, deterministic (GET, "
        "embeddings, completions with temperature 0 or a seed) or all.",
        "off, deterministic or all",
        one_of(*COALESCE_MODES),
    ),
    Variable(
        "CACHE_SNAPSHOT",
        "",
        "A file that the cache is written to on a clean stop and restored from at the start.",
        "a path",
        file_path,
        allow_empty=True,
    ),
    Variable(
        "CACHE_SNAPSHOT_KEY",
        "",
        "The passphrase that encrypts the file of CACHE_SNAPSHOT. Required with CACHE_SNAPSHOT.",
        "at least 16 visible ASCII characters without spaces",
        passphrase,
        _redact_secret,
        allow_empty=True,
    ),
    Variable(
        "REQUEST_TIMEOUT",
        "30s",
        "How long to wait for the response headers of the upstream, retries included. For POST "
        "requests see GENERATION_TIMEOUT.",
        _POSITIVE_DURATION,
        positive(parse_duration),
        reloadable=True,
    ),
    Variable(
        "GENERATION_TIMEOUT",
        "10m",
        "As REQUEST_TIMEOUT, for POST requests: a model may take minutes before it answers, and a "
        "client that gets no answer repeats the request, and pays for it again. If only "
        "REQUEST_TIMEOUT is set, that value applies to POST requests as well.",
        _POSITIVE_DURATION,
        positive(parse_duration),
        reloadable=True,
    ),
    Variable(
        "CONNECT_TIMEOUT",
        "10s",
        "How long to wait for an upstream connection: TCP, CONNECT and TLS together.",
        _POSITIVE_DURATION,
        positive(parse_duration),
        reloadable=True,
    ),
    Variable(
        "IDLE_TIMEOUT",
        "5m",
        "The longest time without data in a response body.",
        _POSITIVE_DURATION,
        positive(parse_duration),
        reloadable=True,
    ),
    Variable(
        "KEEPALIVE_TIMEOUT",
        "75s",
        "The time after which an idle client connection is closed. It should be longer than the "
        "idle timeout of a load balancer in front of the proxy.",
        _POSITIVE_DURATION,
        positive(parse_duration),
        reloadable=True,
    ),
    Variable(
        "UPGRADES",
        "websocket",
        "Which protocols a request may switch to: websocket, or off. With off, a WebSocket "
        "handshake is answered with status 426, so that a client falls back to HTTP.",
        "websocket or off",
        one_of("websocket", "off"),
        reloadable=True,
    ),
    Variable(
        "TUNNEL_IDLE_TIMEOUT",
        "1h",
        "The time after which a WebSocket that is silent in both directions is closed. One whose "
        "client or upstream has closed its direction is closed after 30 s of silence at most.",
        _POSITIVE_DURATION,
        positive(parse_duration),
        reloadable=True,
    ),
    Variable(
        "DRAIN_DELAY",
        "0s",
        "How long requests and connections are still accepted after SIGTERM, while /health/ready "
        "answers 503. It should be longer than a load balancer needs to notice that.",
        _DURATION,
        parse_duration,
        reloadable=True,
    ),
    Variable(
        "DRAIN_TIMEOUT",
        "30s",
        "How long requests in flight may take to finish after SIGTERM and DRAIN_DELAY.",
        _DURATION,
        parse_duration,
        reloadable=True,
    ),
    Variable(
        "RETRY_STATUS",
        "",
        "The statuses of upstream responses that cause a retry of a GET, HEAD, OPTIONS, PUT or "
        "DELETE request.",
        "statuses from 400 to 599 such as 502,503, separated by commas or spaces",
        error_statuses,
        allow_empty=True,
        reloadable=True,
    ),
    Variable(
        "BREAKER",
        "0.5",
        "The share of requests without a response, from 0 to 1, that opens the circuit breaker of "
        "an upstream. 0 disables the breaker.",
        "a share from 0 to 1 such as 0.5",
        share,
    ),
    Variable(
        "HEALTH_PROBE",
        "",
        "A path that is requested from each upstream every 5 s to check its health. If empty, "
        "only clients' requests are counted.",
        "a path such as /v1/models",
        probe_target,
        show=_show_target,
        allow_empty=True,
    ),
    Variable(
        "MAX_CACHE_SIZE",
        "100",
        "The memory of the cache in megabytes, keys, headers and overhead included. 0 disables the "
        "cache.",
        "a number of megabytes such as 100 or 0.5",
        megabytes,
        reloadable=True,
    ),
    Variable(
        "MAX_REQUEST_MEMORY",
        "256",
        "The memory in megabytes that requests and responses in progress may hold together, the "
        "cache not included. Near the limit, requests are streamed past the cache; then new ones "
        "get status 503; then the slowest readers are disconnected.",
        "a number of megabytes such as 256 or 64, more than 0",
        positive(megabytes),
        reloadable=True,
    ),
    Variable(
        "MAX_BODY_SIZE",
        "512",
        "The largest request body in megabytes. A multipart/form-data body may exceed it by 64 "
        "KiB, the framing of its parts.",
        "a number of megabytes such as 512 or 0.5, more than 0",
        positive(megabytes),
        reloadable=True,
    ),
    Variable(
        "MAX_CONNECTIONS",
        "12000",
        "The largest number of open client connections. Beyond it, idle connections are closed; "
        "without idle connections, new ones get status 503.",
        "a whole number of connections from 1 to 1000000",
        whole_number(1, 1_000_000),
    ),
    Variable(
        "MAX_CONNECTIONS_PER_CLIENT",
        "0",
        "The largest number of open connections of one client that is not a trusted proxy. 0 "
        "disables the limit.",
        "a whole number of connections up to 1000000, 0 for no limit",
        whole_number(0, 1_000_000),
    ),
    Variable(
        "WORKERS",
        "1",
        "The number of processes that serve requests, or auto for the number of processors. With "
        "more than one, a parent process listens and supervises them, MAX_CACHE_SIZE is divided "
        "among it and them, MAX_REQUEST_MEMORY and MAX_CONNECTIONS are divided among them, and "
        "MAX_CONNECTIONS_PER_CLIENT applies to each. See docs/explanation/scaling.md.",
        f"a whole number of processes from 1 to {MAX_WORKERS}, or auto",
        worker_count(MAX_WORKERS),
    ),
    Variable(
        "STATE_URL",
        "",
        "The URL of a Redis or Valkey server, version 6 or later, by which services on several "
        "machines share rate limits and stored responses: redis, rediss (TLS), unix, or "
        "redis+sentinel and rediss+sentinel with the addresses of Sentinels and the name of the "
        "master. If empty, services share nothing. See docs/explanation/scaling.md.",
        "a URL such as redis://user:password@host:6379/0, rediss://host/0, unix:///path?db=0 or "
        "redis+sentinel://host1,host2/service/0, credentials percent-encoded",
        parse_state_url,
        redact_url,
        show=show_state_url,
        allow_empty=True,
    ),
    Variable(
        "STATE_SECRET",
        "",
        "The passphrase from which the keys are derived that encrypt and name what is stored in "
        "STATE_URL. The same for all processes. Required with STATE_URL.",
        "at least 16 visible ASCII characters without spaces",
        passphrase,
        _redact_secret,
        allow_empty=True,
    ),
    Variable(
        "STATE_PREFIX",
        "goproxyai:",
        "The beginning of all keys and channels in STATE_URL.",
        "1 to 64 letters, digits and characters of _.:/{}-",
        key_prefix,
    ),
    Variable(
        "STATE_STRICT",
        "0",
        "1 refuses relayed requests with status 503 while STATE_URL does not respond. With 0, the "
        "limits and the memory of each machine take over.",
        "0 or 1",
        switch,
    ),
    Variable(
        "TRUSTED_PROXIES",
        "127.0.0.0/8 ::1/128",
        "The peers whose X-Forwarded-For header is trusted. The word unix stands for the peers of "
        "Unix sockets. If empty, no peer is trusted.",
        _NETWORKS + ", and the word unix",
        TrustedProxies.parse,
        allow_empty=True,
        reloadable=True,
    ),
    Variable(
        "ADMIN_ALLOW",
        "127.0.0.0/8 ::1/128",
        "The peers that may use the operator endpoints without ADMIN_TOKEN, in requests without a "
        "header that proxies add, such as X-Forwarded-For. If empty, no peer may.",
        _NETWORKS,
        Networks.parse,
        allow_empty=True,
        reloadable=True,
    ),
    Variable(
        "ADMIN_HOSTS",
        "",
        "The host names under which the peers in ADMIN_ALLOW may use the operator endpoints. IP "
        "addresses and localhost are always allowed.",
        "host names such as proxy.example, without ports, separated by spaces or commas",
        host_names,
        allow_empty=True,
        reloadable=True,
    ),
    Variable(
        "ADMIN_TOKEN",
        "",
        "The bearer token that other clients must present to use the operator endpoints. If empty, "
        "they are always refused.",
        "visible ASCII characters without spaces",
        token,
        _redact_secret,
        allow_empty=True,
        reloadable=True,
    ),
    Variable(
        "LOG_FORMAT",
        "",
        "The format of the log: json or text. If empty, text on a terminal and json elsewhere.",
        "json or text",
        one_of("", "json", "text"),
    ),
    Variable(
        "LOG_LEVEL",
        "info",
        "The least severe level that is logged: debug, info, warn or error.",
        "debug, info, warn or error",
        one_of("debug", "info", "warn", "error"),
        reloadable=True,
    ),
    Variable(
        "LOG_SAMPLE",
        "1",
        "The share of requests to log, from 0 to 1, of those that were neither slow nor failed. "
        "All requests are counted.",
        "a share from 0 to 1 such as 0.01",
        share,
        reloadable=True,
    ),
    Variable(
        "LOG_SLOW",
        "10s",
        "The time to the first byte of a response from which the request is logged as slow.",
        _POSITIVE_DURATION,
        positive(parse_duration),
        reloadable=True,
    ),
    Variable(
        "PRICES",
        "",
        "A JSON file with token prices by model, for the cost of requests and the savings of the "
        "cache.",
        "a path",
        file_path,
        allow_empty=True,
        reloadable=True,
    ),
    Variable(
        "TRACING",
        "off",
        "off, or otlp to export a span for each request as OpenTelemetry's OTEL_* variables say.",
        "off or otlp",
        one_of("off", "otlp"),
    ),
)
"""All variables, in the order of the manual."""
