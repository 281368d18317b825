"""Access control of the operator endpoints.

An operator presents ``ADMIN_TOKEN`` as a bearer token, or is admitted by its address:

1. The peer of the connection is in ``ADMIN_ALLOW``. The peer of a Unix socket has no address, and
   may be a reverse proxy, so that it needs the token.
2. The request has no field that a proxy adds. The address of a proxy says nothing about the client.
3. ``Host`` is an IP address, ``localhost`` or a name in ``ADMIN_HOSTS``. The page of a host name
   that an attacker has rebound to the proxy is of the same origin as the proxy, and could read
   everything (DNS rebinding).
4. No page of another origin made the browser send the request, unless it navigates there: the other
   page cannot read the response of a navigation.
"""

from __future__ import annotations

import hmac
import re

from goproxyai.config.settings import Settings
from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.limits.addresses import canonical_address
from goproxyai.messages.headers import is_of_client_network
from goproxyai.messages.targets import is_same_authority

_ORIGIN = re.compile(rb"(https?)://([^/?#@]+)(?:[/?#].*)?", re.IGNORECASE)
_PORT = re.compile(r":[0-9]*$")

_MAX_SHOWN_CHARACTERS = 100


def authorize(
    exchange: Exchange, settings: Settings, token_field: bytes = b"authorization"
) -> None:
    """Let *exchange* pass if its client is an operator.

    :param token_field: lower-cased name of the field that may have the token.
    :raises ProxyError: ``admin_forbidden``.
    """
    if settings.admin_token and _has_token(exchange, token_field, settings.admin_token):
        return
    if not settings.admin_allow.contains(exchange.connection.peer) or _is_forwarded(exchange):
        raise _forbidden(
            "This endpoint is for operators. Connect directly from an address in ADMIN_ALLOW, or "
            "send ADMIN_TOKEN as a bearer token."
        )
    host = exchange.get(b"host")
    if host is not None and not is_operators_host(host, settings.admin_hosts):
        shown = host.decode("latin-1")[:_MAX_SHOWN_CHARACTERS]
        raise _forbidden(
            f"This endpoint is not served under the host name {shown}. Use an IP address or "
            "localhost, add the name to ADMIN_HOSTS, or send ADMIN_TOKEN as a bearer token."
        )
    if _is_cross_origin(exchange):
        raise _forbidden(
            "A page of another origin sent this request. Open the address of the endpoint "
            "directly, or send ADMIN_TOKEN as a bearer token."
        )


def _forbidden(message: str) -> ProxyError:
    return ProxyError("admin_forbidden", message)


def _has_token(exchange: Exchange, field: bytes, token: str) -> bool:
    scheme, _, credentials = (exchange.get(field) or b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(
        credentials.strip(), token.encode("utf-8")
    )


def _is_forwarded(exchange: Exchange) -> bool:
    return any(name == b"via" or is_of_client_network(name) for name in exchange.head.fields)


def is_operators_host(host: bytes, names: frozenset[str]) -> bool:
    """Whether operators may be admitted by address under *host*.

    :param host: the value of ``Host``.
    :param names: of ``ADMIN_HOSTS``, in lower case.
    """
    name = _PORT.sub("", host.strip(b" \t").decode("latin-1").lower()).removesuffix(".")
    return name == "localhost" or name in names or canonical_address(name) is not None


def _is_cross_origin(exchange: Exchange) -> bool:
    """Whether a page of another origin made the browser send this request.

    Browsers send ``Sec-Fetch-*`` (W3C Fetch Metadata) only to ``https`` and loopback origins. To
    others they send ``Origin`` with every request that may change state, and ``Referer``.
    """
    if _is_navigation(exchange):
        return False
    site = exchange.get(b"sec-fetch-site")
    if site not in (None, b"same-origin", b"none"):
        return True
    host = exchange.get(b"host") or b""
    sources = exchange.get(b"origin"), exchange.get(b"referer")
    return any(source is not None and not _is_of_host(source, host) for source in sources)


def _is_navigation(exchange: Exchange) -> bool:
    """Whether the request loads a page into a window, and so its response is not readable.

    Pages can set none of these fields in a request without a CORS preflight, which is refused.
    """
    if exchange.method not in (b"GET", b"HEAD") or exchange.get(b"origin") is not None:
        return False
    mode = exchange.get(b"sec-fetch-mode")
    if mode is not None:
        return mode == b"navigate" and exchange.get(b"sec-fetch-dest") in (None, b"document")
    return exchange.get(b"upgrade-insecure-requests") == b"1"


def _is_of_host(source: bytes, host: bytes) -> bool:
    """Whether *source*, an origin or a URL, has the authority *host*; ``null`` has none."""
    match = _ORIGIN.fullmatch(source.strip(b" \t"))
    if match is None:
        return False
    return is_same_authority(match[2], host.strip(b" \t"), match[1].lower())
