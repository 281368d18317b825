"""The warning about a reverse proxy that ``TRUSTED_PROXIES`` does not contain."""

from __future__ import annotations

from twisted.logger import Logger

from goproxyai.limits.addresses import LOCAL_PEER, TrustedProxies, is_private

_log = Logger(namespace="goproxyai")


def warn_if_untrusted(peer: str, trusted: TrustedProxies) -> bool:
    """Log a warning if *peer*, which sends ``X-Forwarded-For``, may be an untrusted reverse proxy.

    A public address is no reason for a warning: any client on the Internet can send the header.

    :returns: whether the warning was logged.
    """
    if trusted.contains(peer) or not is_private(peer):
        return False
    name, entry = (
        ("a Unix socket", "the word unix") if peer == LOCAL_PEER else (peer, "its address")
    )
    _log.warn(
        "X-Forwarded-For from {name} is ignored: the peer is not in TRUSTED_PROXIES. If it is a "
        "reverse proxy, add {entry} to TRUSTED_PROXIES; until then all its clients share one rate "
        "limit. Further peers are not reported",
        name=name,
        entry=entry,
    )
    return True
