"""Why requests fail, and which party has to act."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from goproxyai.telemetry.outcome import CLIENT_CLOSED_REQUEST, CacheOutcome, Ending


class FailureCause(StrEnum):
    """Why a request failed.

    :cvar UPSTREAM_429: upstream limits the account, or its quota is used up.
    :cvar UPSTREAM_401: upstream does not accept the credential.
    :cvar UPSTREAM_403: upstream denies access.
    :cvar UPSTREAM_4XX: upstream refuses the request with another status.
    :cvar UPSTREAM_5XX: upstream has failed.
    :cvar CUT: upstream broke off a response that had begun.
    :cvar OVERLOADED: the proxy has reached a limit of its own.
    :cvar RATE_LIMITED: the client has used up its ``RATE_LIMIT``.
    :cvar REFUSED: the proxy refuses the request: invalid, unknown path, not allowed.
    """

    UPSTREAM_429 = "upstream_429"
    UPSTREAM_401 = "upstream_401"
    UPSTREAM_403 = "upstream_403"
    UPSTREAM_4XX = "upstream_4xx"
    UPSTREAM_5XX = "upstream_5xx"
    UNREACHABLE = "upstream_unreachable"
    TIMEOUT = "upstream_timeout"
    TLS = "upstream_tls_failed"
    PROTOCOL = "upstream_protocol_error"
    CUT = "upstream_cut"
    CIRCUIT_OPEN = "circuit_open"
    EGRESS_PROXY = "egress_proxy_refused"
    OVERLOADED = "overloaded"
    INTERNAL = "internal_error"
    LOOP = "loop_detected"
    DRAINING = "draining"
    RATE_LIMITED = "rate_limited"
    REFUSED = "refused"


class Party(StrEnum):
    """Which party the operator looks at first.

    :cvar LIMIT: the proxy's rate limit, which works as it should.
    """

    UPSTREAM = "upstream"
    EGRESS = "egress"
    PROXY = "proxy"
    LIMIT = "limit"
    CLIENT = "client"


PARTY: Final = {
    **dict.fromkeys(FailureCause, Party.UPSTREAM),
    FailureCause.UPSTREAM_4XX: Party.CLIENT,
    FailureCause.EGRESS_PROXY: Party.EGRESS,
    FailureCause.OVERLOADED: Party.PROXY,
    FailureCause.INTERNAL: Party.PROXY,
    FailureCause.LOOP: Party.PROXY,
    FailureCause.DRAINING: Party.PROXY,
    FailureCause.RATE_LIMITED: Party.LIMIT,
    FailureCause.REFUSED: Party.CLIENT,
}
"""The party of each cause."""

INCIDENTS: Final = frozenset(
    cause for cause, party in PARTY.items() if party not in (Party.LIMIT, Party.CLIENT)
)
"""Causes that are no matter of single clients."""

_OF_CODE = {
    code: FailureCause(code)
    for code in (
        "upstream_unreachable", "upstream_timeout", "upstream_tls_failed",
        "upstream_protocol_error", "circuit_open", "egress_proxy_refused", "overloaded",
        "internal_error", "loop_detected", "draining",
    )
}  # fmt: skip
_OF_STATUS = {
    429: FailureCause.UPSTREAM_429,
    401: FailureCause.UPSTREAM_401,
    403: FailureCause.UPSTREAM_403,
}


def cause_of(status: int, code: str, cache: CacheOutcome, ending: Ending) -> FailureCause | None:
    """Return why a relayed request failed; ``None`` if it did not fail.

    A client that leaves is no failure. The parameters are those of
    :class:`~.outcome.RequestOutcome`.
    """
    if ending is Ending.CUT:  # upstream's code says how its connection ended
        cause = _OF_CODE.get(code, FailureCause.CUT)
        return FailureCause.CUT if PARTY[cause] is Party.UPSTREAM else cause
    if code:
        return _OF_CODE.get(code, FailureCause.REFUSED)
    if status < 400 or status == CLIENT_CLOSED_REQUEST:
        return None
    if cache is CacheOutcome.NONE:
        return FailureCause.RATE_LIMITED if status == 429 else FailureCause.REFUSED
    if status >= 500:
        return FailureCause.UPSTREAM_5XX
    return _OF_STATUS.get(status, FailureCause.UPSTREAM_4XX)
