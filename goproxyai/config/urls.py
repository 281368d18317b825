"""The URLs of upstreams and of the egress proxy.

An invalid URL raises ``ValueError``. The exception never contains the URL, because a URL may hold
credentials; :func:`redact_url` makes an invalid URL printable.
"""

from __future__ import annotations

import re
from base64 import b64encode
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple
from urllib.parse import unquote

import attrs

from goproxyai.messages.redaction import mask_credentials
from goproxyai.messages.socks5 import MAX_CREDENTIAL_BYTES

_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_UPSTREAM_SCHEMES = ("http", "https")
_SOCKS_SCHEMES = ("socks5", "socks5h")
_MAX_URL_CHARACTERS = 2048
_MAX_HOST_CHARACTERS = 253
_MAX_UPSTREAMS = 16
_VERSION = "/v1"

_URL = re.compile(
    r"(?P<scheme>https?|socks5h?)://(?:(?P<userinfo>[\x21-\x7e]*)@)?"
    r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?(?P<path>/[\x21-\x7e]*)?",
    re.IGNORECASE | re.ASCII,
)
_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# Only well-known schemes are printed: another one may be part of a secret.
_PRINTABLE_SCHEME = re.compile(
    r"(?:https?|ftp|socks[45][ah]?|wss?|rediss?(?:\+sentinel)?|unix)://", re.IGNORECASE
)
_PRINTABLE_REST = re.compile(
    r"(?P<start>(?:\[[0-9A-Fa-f:.]*\]|[^:@?#\[\]]*)(?::[0-9]{1,5})?(?:/[^@?#:]*)?)"
    r"(?P<query>[?#].*)?",
    re.DOTALL,
)


@attrs.frozen
class UpstreamURL:
    """The URL of an upstream.

    :ivar scheme: ``http`` or ``https``.
    :ivar host: lower case; an IPv6 address has no brackets, a name may have a trailing dot.
    :ivar base_path: the prefix of every target: empty, or with a leading and no trailing slash.
    """

    scheme: str
    host: str
    port: int
    base_path: bytes = b""

    @property
    def authority(self) -> bytes:
        """The host as configured, and the port unless it is the default one."""
        host = _bracketed(self.host)
        if self.port != _DEFAULT_PORTS[self.scheme]:
            host = f"{host}:{self.port}"
        return host.encode("ascii")

    @property
    def origin(self) -> bytes:
        """Scheme and authority, such as ``https://api.openai.com``."""
        return self.scheme.encode("ascii") + b"://" + self.authority

    @property
    def text(self) -> str:
        """The whole URL as text."""
        return (self.origin + self.base_path).decode("ascii")


@attrs.frozen
class ProxyURL:
    """The URL of the egress proxy.

    :ivar scheme: ``http`` or ``https``, of the connection to the proxy itself; or ``socks5`` or
        ``socks5h``.
    :ivar host: lower case; an IPv6 address has no brackets, a name may have a trailing dot.
    :ivar username: percent-decoded; ``None`` without credentials.
    :ivar password: percent-decoded; ``None`` without a colon in the userinfo.
    """

    scheme: str
    host: str
    port: int
    username: str | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)

    @property
    def masked(self) -> str:
        """The URL as text, with ``***`` for the credentials."""
        userinfo = "" if self.username is None else "***:***@"
        return f"{self.scheme}://{userinfo}{_bracketed(self.host)}:{self.port}"

    @property
    def is_socks(self) -> bool:
        """Whether the proxy speaks SOCKS 5, and not HTTP."""
        return self.scheme in _SOCKS_SCHEMES

    @property
    def resolves_here(self) -> bool:
        """Whether a SOCKS proxy gets addresses, and not names."""
        return self.scheme == "socks5"

    def socks_credentials(self) -> tuple[bytes, bytes] | None:
        """The user and the password (RFC 1929); ``None`` without credentials."""
        if self.username is None:
            return None
        return self.username.encode(), (self.password or "").encode()

    def basic_credentials(self) -> bytes | None:
        """The value of ``Proxy-Authorization`` (RFC 7617); ``None`` without credentials."""
        if self.username is None:
            return None
        return b"Basic " + b64encode(f"{self.username}:{self.password or ''}".encode())


def parse_upstream_urls(text: str) -> tuple[UpstreamURL, ...]:
    """Parse one or more upstream URLs, separated by commas or spaces.

    A base path that ends in ``/v1`` is that of an SDK's base URL. The ``/v1`` is dropped, because
    the paths of requests begin with it.

    :raises ValueError: for an invalid URL, a repeated URL, no URL or more than 16 URLs.
    """
    urls = tuple(_upstream_url(url) for url in text.replace(",", " ").split())
    if not 0 < len(urls) <= _MAX_UPSTREAMS or len(set(urls)) < len(urls):
        raise ValueError("no URL, too many URLs or a repeated URL")
    return urls


def upstreams_with_version(text: str) -> tuple[str, ...]:
    """Return the valid URLs in *text* of which :func:`parse_upstream_urls` drops ``/v1``."""
    urls = text.replace(",", " ").split()
    return tuple(url for url in urls if _split(url).path.rstrip("/").endswith(_VERSION))


def parse_proxy_url(text: str) -> ProxyURL | None:
    """Parse the URL of the egress proxy; ``None`` for an empty *text*.

    :raises ValueError: for an invalid URL, or credentials that Basic (RFC 7617) or SOCKS (RFC 1929)
        cannot carry.
    """
    if not text:
        return None
    url = _split(text)
    if url.path not in ("", "/") or set(url.userinfo or "") & set("/?#\\"):
        raise ValueError("a proxy URL has an origin and credentials only")
    if not url.userinfo:
        return ProxyURL(url.scheme, url.host, url.port)
    name, colon, word = url.userinfo.partition(":")
    username = unquote(name, errors="strict")
    password = unquote(word, errors="strict") if colon else None
    proxy = ProxyURL(url.scheme, url.host, url.port, username, password)
    if _CONTROL.search(username + (password or "")) or (":" in username and not proxy.is_socks):
        raise ValueError("a colon in the user name or a control character (RFC 7617)")
    if proxy.is_socks and any(
        len(part) > MAX_CREDENTIAL_BYTES for part in proxy.socks_credentials() or ()
    ):
        raise ValueError("a user or password of more than 255 bytes (RFC 1929)")
    return proxy


def has_dot_segment(path: str) -> bool:
    """Whether *path* has a ``.`` or ``..`` segment, raw or percent-encoded."""
    return _DOT_SEGMENT.search(path) is not None


def redact_url(text: str) -> str:
    """Return an invalid URL without the parts that may be secret.

    Left out are everything before the last ``@``, the query, and a port that is not a number: a
    URL with a forgotten host, ``http://user:password``, has its password there.
    """
    if len(text) > _MAX_URL_CHARACTERS:
        return "***"
    match = _PRINTABLE_SCHEME.match(text)
    scheme = match.group() if match else ""
    userinfo, at, rest = text[len(scheme) :].rpartition("@")
    match = _PRINTABLE_REST.fullmatch(rest)
    if match is None or "?" in userinfo or "#" in userinfo:
        return scheme + "***"  # the end of the credentials is ambiguous
    query = match["query"] and match["query"][0] + "***"
    return mask_credentials(scheme + ("***@" if at else "") + match["start"] + (query or ""))


class _Parts(NamedTuple):
    scheme: str
    host: str
    port: int
    userinfo: str | None
    path: str


def _split(text: str) -> _Parts:
    match = _URL.fullmatch(text) if len(text) <= _MAX_URL_CHARACTERS else None
    if match is None:
        raise ValueError("not a URL of a known scheme")
    scheme, host = match["scheme"].lower(), parse_host(match["host"].lower())
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    if not 0 < port <= 65535:
        raise ValueError("the port is out of range")
    return _Parts(scheme, host, port, match["userinfo"], match["path"] or "")


def parse_host(text: str) -> str:
    """Return a host in lower case: a name, or an address without brackets.

    :raises ValueError: if *text* is neither.
    """
    if text.startswith("["):
        return str(IPv6Address(text[1:-1]))
    if text.rstrip(".").rpartition(".")[2].isdigit():  # must be an IPv4 address (WHATWG URL §3.5)
        return str(IPv4Address(text))
    if len(text) > _MAX_HOST_CHARACTERS or _HOST_NAME.fullmatch(text) is None:
        raise ValueError("not a host name")
    return text


def _upstream_url(text: str) -> UpstreamURL:
    url = _split(text)
    if url.scheme not in _UPSTREAM_SCHEMES:
        raise ValueError("not an http or https URL")
    if url.userinfo is not None or set(url.path) & set('?#\\@"<>') or has_dot_segment(url.path):
        raise ValueError("an upstream URL has an origin and a path only")
    path = url.path.rstrip("/").removesuffix(_VERSION).rstrip("/")
    return UpstreamURL(url.scheme, url.host, url.port, path.encode("ascii"))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
