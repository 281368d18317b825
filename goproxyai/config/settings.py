"""What can be configured: one table, and the values that its texts become.

:data:`VARIABLES` is the table. The environment, the options of ``twistd goproxyai`` and the README
are all read off it. A text that does not parse raises :class:`SettingError`, one line without a
secret in it. A variable that is not set has its default; one that is set but empty means *nobody*
where it is a list of networks, *none* where it may be none, and its default elsewhere.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from urllib.parse import unquote

import attrs

from goproxyai.cache.coalescing import COALESCE_MODES
from goproxyai.durations import parse_duration
from goproxyai.limits.addresses import Networks
from goproxyai.messages.redaction import mask_credentials
from goproxyai.upstream.no_proxy import parse_no_proxy

MEGABYTE = 1024 * 1024
"""Bytes in the unit of ``MAX_CACHE_SIZE`` and ``MAX_BODY_SIZE``."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LONGEST_URL = 2048
_URL = re.compile(
    r"(?P<scheme>https?)://(?:(?P<userinfo>[\x21-\x7e]*)@)?"
    r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?(?P<path>/[\x21-\x7e]*)?",
    re.IGNORECASE | re.ASCII,
)
_LABELS = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENDPOINT = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*:[\x21-\x7e]+")
_SHOWABLE_REST = re.compile(
    r"(?P<start>(?:\[[0-9A-Fa-f:.]*\]|[^:@?#\[\]]*)(?::[0-9]{1,5})?(?:/[^@?#:]*)?)"
    r"(?P<query>[?#].*)?",
    re.DOTALL,
)
_SCHEME = re.compile(
    r"(?:https?|ftp|socks[45][ah]?|wss?)://", re.IGNORECASE
)  # others may be a secret
_LONGEST_SHOWN = 100
_SHORTEST_KEY = 16
_MOST_UPSTREAMS = 16
_NAMESPACE = re.compile(r"(?!v1(?:/|$))[A-Za-z0-9_.:-]+(?:/[A-Za-z0-9_.:-]+)*")


class SettingError(ValueError):
    """A text that a variable cannot be set to; ``str()`` is one line for the operator."""


@attrs.frozen
class UpstreamURL:
    """Where requests are relayed to.

    :ivar scheme: ``http`` or ``https``.
    :ivar host: lower case, an IPv6 address without brackets.
    :ivar base_path: stands before every target; empty, or with a leading and no trailing slash.
    """

    scheme: str
    host: str
    port: int
    base_path: bytes = b""

    @property
    def host_header(self) -> bytes:
        """The value of ``Host``: the authority without a default port (RFC 9110 §7.2)."""
        host = _bracketed(self.host)
        if self.port != _DEFAULT_PORTS[self.scheme]:
            host = f"{host}:{self.port}"
        return host.encode("ascii")

    @property
    def origin(self) -> bytes:
        """Scheme and authority, such as ``https://api.openai.com``."""
        return self.scheme.encode("ascii") + b"://" + self.host_header

    @property
    def text(self) -> str:
        """The whole URL, for people."""
        return (self.origin + self.base_path).decode("ascii")


@attrs.frozen
class ProxyURL:
    """The egress proxy.

    :ivar scheme: ``http`` or ``https``; of the hop to the proxy, not of what is relayed.
    :ivar host: lower case, an IPv6 address without brackets.
    :ivar username: percent-decoded; ``None`` where there are no credentials.
    :ivar password: percent-decoded.
    """

    scheme: str
    host: str
    port: int
    username: str | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)

    @property
    def masked(self) -> str:
        """The URL with ``***`` for credentials, for people."""
        userinfo = "" if self.username is None else "***:***@"
        return f"{self.scheme}://{userinfo}{_bracketed(self.host)}:{self.port}"

    def basic_credentials(self) -> bytes | None:
        """The value of ``Proxy-Authorization`` (RFC 7617); ``None`` without credentials."""
        if self.username is None:
            return None
        return b"Basic " + b64encode(f"{self.username}:{self.password or ''}".encode())


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _url_parts(text: str) -> tuple[str, str, int, str | None, str]:
    """Scheme, host, port, userinfo and path of *text*."""
    match = _URL.fullmatch(text) if len(text) <= _LONGEST_URL else None
    if match is None:
        raise ValueError("not a URL of http or https")
    scheme, host = match["scheme"].lower(), _host(match["host"].lower())
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    if not 0 < port <= 65535:
        raise ValueError("no such port")
    return scheme, host, port, match["userinfo"], match["path"] or ""


def _host(text: str) -> str:
    if text.startswith("["):
        return str(IPv6Address(text[1:-1]))
    if text.rstrip(".").rpartition(".")[2].isdigit():  # it can only be an address (WHATWG URL)
        return str(IPv4Address(text))
    if len(text) > 253 or _LABELS.fullmatch(text) is None:
        raise ValueError("not a host")
    return text


def _upstream_url(text: str) -> UpstreamURL:
    scheme, host, port, userinfo, path = _url_parts(text)
    if userinfo is not None or set(path) & set('?#\\@"<>') or _DOT_SEGMENT.search(path):
        raise ValueError("more than an origin and a path")
    return UpstreamURL(scheme, host, port, path.rstrip("/").encode("ascii"))


def _upstream_urls(text: str) -> tuple[UpstreamURL, ...]:
    urls = tuple(_upstream_url(url) for url in text.replace(",", " ").split())
    if not 0 < len(urls) <= _MOST_UPSTREAMS or len(set(urls)) < len(urls):
        raise ValueError("none, too many, or the same twice")
    return urls


def _proxy_url(text: str) -> ProxyURL | None:
    if not text:
        return None
    scheme, host, port, userinfo, path = _url_parts(text)
    if path not in ("", "/") or set(userinfo or "") & set("/?#\\"):
        raise ValueError("more than an origin and credentials")
    if not userinfo:
        return ProxyURL(scheme, host, port)
    name, colon, word = userinfo.partition(":")
    username = unquote(name, errors="strict")
    password = unquote(word, errors="strict") if colon else None
    if ":" in username or _CONTROL.search(username + (password or "")):
        raise ValueError("credentials that Basic cannot carry (RFC 7617)")
    return ProxyURL(scheme, host, port, username, password)


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,20}", text) is None or not lowest <= int(text) <= highest:
            raise ValueError("not such a number")
        return int(text)

    return parse


def _megabytes(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) is None:
        raise ValueError("not a number of megabytes")
    return int(Decimal(text) * MEGABYTE)


def _above_zero(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        value = parse(text)
        if not value > 0:
            raise ValueError("nothing")
        return value

    return checked


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError("not a choice")
        return text.lower()

    return parse


def _endpoints(text: str) -> tuple[str, ...]:
    endpoints = tuple(text.split())
    if not all(_ENDPOINT.fullmatch(endpoint) for endpoint in endpoints):
        raise ValueError("not an endpoint string")
    return endpoints


def _token(text: str) -> str | None:
    if text and re.fullmatch(r"[\x21-\x7e]+", text) is None:
        raise ValueError("not what a header could carry")
    return text or None


def _namespaces(text: str) -> tuple[str, ...]:
    names = tuple(text.replace(",", " ").split())
    if not all(_NAMESPACE.fullmatch(name) for name in names):
        raise ValueError("not paths")
    return names


def _statuses(text: str) -> frozenset[int]:
    found = text.replace(",", " ").split()
    if not all(re.fullmatch(r"[45][0-9]{2}", status, re.ASCII) for status in found):
        raise ValueError("not statuses")
    return frozenset(map(int, found))


def _share(text: str) -> float:
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?", text, re.ASCII) is None or float(text) > 1:
        raise ValueError("not a share")
    return float(text)


def _probe_path(text: str) -> bytes | None:
    if text and (re.fullmatch(r"/[\x21-\x7e]*", text) is None or _DOT_SEGMENT.search(text)):
        raise ValueError("not a path")
    return text.encode("ascii") or None


def _file(text: str) -> str | None:
    if _CONTROL.search(text):
        raise ValueError("not a path")
    return text or None


def _snapshot_key(text: str) -> str | None:
    if text and len(text) < _SHORTEST_KEY:
        raise ValueError("too short")
    return _token(text)


def _shown_plain(text: str) -> str:
    return mask_credentials(text)


def _shown_url(text: str) -> str:
    """*text* without what may be a secret, however wrong a URL it is.

    What stands before the last ``@`` goes, a query goes, and a would-be port that is no number:
    ``http://user:password`` is what a URL with a forgotten host looks like.
    """
    if len(text) > _LONGEST_URL:
        return "***"
    match = _SCHEME.match(text)
    scheme = match.group() if match else ""
    before, at, rest = text[len(scheme) :].rpartition("@")
    match = _SHOWABLE_REST.fullmatch(rest)
    if match is None or "?" in before or "#" in before:
        return scheme + "***"  # where credentials end is anybody's guess
    query = match["query"] and match["query"][0] + "***"
    return mask_credentials(scheme + ("***@" if at else "") + match["start"] + (query or ""))


def _shown_secret(_: str) -> str:
    return "***"


@attrs.frozen
class Variable:
    """A row of the table.

    :ivar name: in the environment.
    :ivar default: the text it has where it is not set.
    :ivar help: a sentence for the manual.
    :ivar expected: what a good value is, as in "expected …".
    :ivar parse: from stripped text to value; raises ``ValueError``.
    :ivar shown: what of a bad text may be repeated.
    :ivar empty: whether empty is a value of its own, rather than the default.
    """

    name: str
    default: str
    help: str
    expected: str
    parse: Callable[[str], Any]
    shown: Callable[[str], str] = _shown_plain
    empty: bool = False

    @property
    def option(self) -> str:
        """The name of the command line's option, without dashes before it."""
        return self.name.lower().replace("_", "-")

    def read(self, text: str | None) -> Any:
        """The value of *text*, of the default where it is ``None``.

        :raises SettingError: where it has none.
        """
        given = self.default if text is None else text.strip()
        if not given and not self.empty:
            given = self.default
        try:
            return self.parse(given)
        except ValueError:
            shown = self.shown(given)
            if len(shown) > _LONGEST_SHOWN:
                shown = shown[:_LONGEST_SHOWN] + "..."
            line = f"{self.name} is {shown!a}, expected {self.expected}"
        raise SettingError(line)  # outside, so that no traceback repeats the text


_DURATION = "a duration such as 30s, 1h30m or 250ms"
_LONGER = _DURATION + ", longer than 0"
_NETWORKS = "IP addresses or networks such as 10.0.0.0/8, separated by spaces or commas"

VARIABLES: tuple[Variable, ...] = (
    Variable(
        "CONFIG",
        "",
        "A file of NAME=value lines, read at the start and at SIGHUP; the environment wins.",
        "a path",
        _file,
        empty=True,
    ),
    Variable(
        "PORT",
        "8080",
        "The TCP port to listen on; 0 is any free one.",
        "a port from 0 to 65535",
        _whole(0, 65535),
    ),
    Variable(
        "LISTEN",
        "tcp:$PORT:backlog=1024",
        "Twisted endpoint strings to listen on, separated by spaces.",
        "Twisted endpoint strings such as tcp:8080:interface=127.0.0.1, separated by spaces",
        _endpoints,
    ),
    Variable(
        "OPENAI_API_URL",
        "https://api.openai.com",
        "Where requests are relayed to; a base path is kept. Several are asked in order.",
        "a URL such as https://api.openai.com, without credentials, query or fragment, or several",
        _upstream_urls,
        _shown_url,
    ),
    Variable(
        "PROXY_URL",
        "",
        "The egress proxy; empty connects directly.",
        "a URL such as http://user:password@proxy:8080, credentials percent-encoded",
        _proxy_url,
        _shown_url,
        empty=True,
    ),
    Variable(
        "NO_PROXY",
        "",
        "Hosts that are reached without the egress proxy.",
        "hosts, .suffixes, addresses or networks, each with or without :port, separated by commas",
        parse_no_proxy,
        empty=True,
    ),
    Variable(
        "RATE_LIMIT",
        "60",
        "Requests a minute and client, and the burst; 0 turns the limit off.",
        "a whole number of requests a minute, 0 for no limit",
        _whole(0, 1_000_000_000),
    ),
    Variable(
        "CACHE_TTL",
        "5m",
        "How long an answer is served from the cache; 0 turns the cache off.",
        _DURATION + ", 0 for no cache",
        parse_duration,
    ),
    Variable(
        "CACHE_MAX_TTL",
        "24h",
        "The longest that a request may ask its answer to be kept, with X-Cache-TTL.",
        _DURATION,
        parse_duration,
    ),
    Variable(
        "CACHE_STALE",
        "0",
        "How long an expired answer is kept, to answer when upstream fails; 0 is not at all.",
        _DURATION,
        parse_duration,
    ),
    Variable(
        "CACHE_SHARED",
        "",
        "Paths under /v1/ whose answers all credentials share, such as embeddings,models.",
        "paths under /v1/ such as embeddings,models, separated by commas or spaces",
        _namespaces,
        empty=True,
    ),
    Variable(
        "COALESCE",
        "deterministic",
        "Which identical requests in flight share one: off, deterministic (GET, embeddings, "
        "completions with temperature 0 or a seed) or all.",
        "off, deterministic or all",
        _one_of(*COALESCE_MODES),
    ),
    Variable(
        "CACHE_SNAPSHOT",
        "",
        "A file that the cache is written to on a clean stop and loaded from at start.",
        "a path",
        _file,
        empty=True,
    ),
    Variable(
        "CACHE_SNAPSHOT_KEY",
        "",
        "The secret that the file is encrypted with; needed with CACHE_SNAPSHOT.",
        "at least 16 visible ASCII characters without spaces",
        _snapshot_key,
        _shown_secret,
        empty=True,
    ),
    Variable(
        "REQUEST_TIMEOUT",
        "30s",
        "How long upstream may take until its response headers.",
        _LONGER,
        _above_zero(parse_duration),
    ),
    Variable(
        "CONNECT_TIMEOUT",
        "10s",
        "How long TCP, CONNECT and TLS may take together.",
        _LONGER,
        _above_zero(parse_duration),
    ),
    Variable(
        "IDLE_TIMEOUT",
        "5m",
        "How long a response body may be silent.",
        _LONGER,
        _above_zero(parse_duration),
    ),
    Variable(
        "DRAIN_TIMEOUT",
        "30s",
        "How long requests in flight may take to finish after SIGTERM.",
        _DURATION,
        parse_duration,
    ),
    Variable(
        "RETRY_STATUS",
        "",
        "Answers of upstream to GET, HEAD, OPTIONS, PUT and DELETE that are asked for again.",
        "statuses from 400 to 599 such as 502,503, separated by commas or spaces",
        _statuses,
        empty=True,
    ),
    Variable(
        "BREAKER",
        "0.5",
        "The share of requests that get no answer at which an upstream is left alone; 0: never.",
        "a share from 0 to 1 such as 0.5",
        _share,
    ),
    Variable(
        "HEALTH_PROBE",
        "",
        "A path that every upstream is asked for every 5 s; empty judges by the requests alone.",
        "a path such as /v1/models",
        _probe_path,
        empty=True,
    ),
    Variable(
        "MAX_CACHE_SIZE",
        "100",
        "Megabytes of memory for the cache, keys and headers counted.",
        "a number of megabytes such as 100 or 0.5",
        _megabytes,
    ),
    Variable(
        "MAX_BODY_SIZE",
        "512",
        "Megabytes that a request body may have.",
        "a number of megabytes such as 512 or 0.5, more than 0",
        _above_zero(_megabytes),
    ),
    Variable(
        "MAX_CONNECTIONS",
        "12000",
        "Connections that clients may have open in all; idle ones make room, then 503.",
        "a whole number of connections, 1 or more",
        _whole(1, 1_000_000),
    ),
    Variable(
        "MAX_CONNECTIONS_PER_CLIENT",
        "0",
        "Connections that one client may have open, unless it is a trusted proxy; 0 is no bound "
        "of its own.",
        "a whole number of connections, 0 for no bound of its own",
        _whole(0, 1_000_000),
    ),
    Variable(
        "TRUSTED_PROXIES",
        "127.0.0.0/8 ::1/128",
        "The peers whose X-Forwarded-For is believed; empty is nobody.",
        _NETWORKS,
        Networks.parse,
        empty=True,
    ),
    Variable(
        "ADMIN_ALLOW",
        "127.0.0.0/8 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 169.254.0.0/16"
        " ::1/128 fc00::/7 fe80::/10",
        "The clients that may see the statistics and clear the cache; empty is nobody.",
        _NETWORKS,
        Networks.parse,
        empty=True,
    ),
    Variable(
        "ADMIN_TOKEN",
        "",
        "A bearer token that opens the same to anybody else; empty is none.",
        "visible ASCII characters without spaces",
        _token,
        _shown_secret,
        empty=True,
    ),
    Variable(
        "LOG_FORMAT",
        "",
        "json or text; empty is text on a terminal and json elsewhere.",
        "json or text",
        _one_of("", "json", "text"),
    ),
    Variable(
        "LOG_LEVEL",
        "info",
        "The least severe level that is logged: debug, info, warn or error.",
        "debug, info, warn or error",
        _one_of("debug", "info", "warn", "error"),
    ),
    Variable(
        "LOG_SAMPLE",
        "1",
        "The share of requests that are logged though nothing is wrong with them; all are counted.",
        "a share from 0 to 1 such as 0.01",
        _share,
    ),
    Variable(
        "LOG_SLOW",
        "10s",
        "How long the first byte of an answer may take before the request is marked as slow.",
        _LONGER,
        _above_zero(parse_duration),
    ),
    Variable(
        "PRICES",
        "",
        "A JSON file with the prices of tokens by model; says what the cache saves.",
        "a path",
        _file,
        empty=True,
    ),
    Variable(
        "TRACING",
        "off",
        "otlp: a span for each request, sent as the OTEL_* variables of OpenTelemetry say.",
        "off or otlp",
        _one_of("off", "otlp"),
    ),
)
"""Every variable, in the order of the manual; ``$PORT`` in ``LISTEN`` is the value of ``PORT``."""


@attrs.frozen
class Settings:
    """The configuration of one daemon; durations in seconds, sizes in bytes.

    :ivar config: the file that texts came from, if there is one.
    :ivar listen: Twisted endpoint strings.
    :ivar openai_api_url: one or more, in order of preference.
    :ivar retry_status: answers that are asked for again.
    :ivar breaker: the share of failures that opens a circuit; 0: none does.
    :ivar health_probe: a path that upstreams are asked for every few seconds.
    :ivar rate_limit: requests a minute and client; 0 is no limit.
    :ivar cache_ttl: 0 is no cache.
    :ivar cache_shared: paths below ``/v1/``.
    :ivar coalesce: of :data:`~goproxyai.cache.coalescing.COALESCE_MODES`.
    :ivar cache_snapshot_key: there where ``cache_snapshot`` is.
    :ivar max_connections_per_client: 0 is no bound of its own.
    :ivar prices: the file of a table, see :mod:`goproxyai.usage.prices`.
    :ivar tracing: ``off`` or ``otlp``.
    :ivar log_format: ``json``, ``text``, or empty where it depends on the terminal.
    """

    config: str | None
    listen: tuple[str, ...]
    openai_api_url: tuple[UpstreamURL, ...]
    proxy_url: ProxyURL | None
    no_proxy: tuple[str, ...]
    rate_limit: int
    cache_ttl: float
    cache_max_ttl: float
    cache_stale: float
    cache_shared: tuple[str, ...]
    coalesce: str
    cache_snapshot: str | None
    cache_snapshot_key: str | None = attrs.field(repr=False)
    request_timeout: float
    connect_timeout: float
    idle_timeout: float
    drain_timeout: float
    retry_status: frozenset[int]
    breaker: float
    health_probe: bytes | None
    max_cache_size: int
    max_body_size: int
    max_connections: int
    max_connections_per_client: int
    trusted_proxies: Networks
    admin_allow: Networks
    admin_token: str | None = attrs.field(repr=False)
    log_format: str
    log_level: str
    log_sample: float
    log_slow: float
    prices: str | None
    tracing: str

    @property
    def openai_url(self) -> str:
        """Upstream's URL, or all of them, for people."""
        return ", ".join(url.text for url in self.openai_api_url)

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Settings:
        """The settings that *texts* describe, such as ``os.environ``; other names are ignored.

        :raises SettingError: for the first value that does not parse.
        """
        values = {each.name.lower(): each.read(texts.get(each.name)) for each in VARIABLES}
        port = str(values.pop("port"))
        if values["cache_snapshot"] and not values["cache_snapshot_key"]:
            raise SettingError(
                "CACHE_SNAPSHOT_KEY is not set, expected at least 16 visible ASCII characters: "
                "CACHE_SNAPSHOT is never written unencrypted"
            )
        listen = tuple(endpoint.replace("$PORT", port) for endpoint in values.pop("listen"))
        return cls(listen=listen, **values)
