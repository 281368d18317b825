"""Access control of the admin endpoints."""

from __future__ import annotations

import hmac

from goproxyai.config.settings import Settings
from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange


def authorize(exchange: Exchange, client: str, settings: Settings) -> None:
    """Let *exchange* pass if its client is an operator.

    An operator has an address in ``ADMIN_ALLOW`` or presents ``ADMIN_TOKEN`` as a bearer token.

    :param client: the client's address.
    :raises ProxyError: ``admin_forbidden``.
    """
    if settings.admin_allow.contains(client) and not _is_cross_site(exchange):
        return
    scheme, _, credentials = (exchange.get(b"authorization") or b"").partition(b" ")
    if settings.admin_token and scheme.lower() == b"bearer":
        if hmac.compare_digest(credentials.strip(), settings.admin_token.encode("utf-8")):
            return
    raise ProxyError(
        "admin_forbidden",
        "This endpoint is for operators. Call it from an address in ADMIN_ALLOW, or send "
        "ADMIN_TOKEN as a bearer token.",
    )


def _is_cross_site(exchange: Exchange) -> bool:
    """Whether a page of another site made the browser send this request (W3C Fetch Metadata).

    A link from another site is a navigation and passes: the other site cannot read the response.
    """
    site, mode = exchange.get(b"sec-fetch-site"), exchange.get(b"sec-fetch-mode")
    return site == b"cross-site" and mode != b"navigate"
