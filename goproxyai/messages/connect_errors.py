"""Why a proxy has not opened a CONNECT tunnel.

The errors are apart from the parser, which is imported only where an egress proxy is configured.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_QUOTED = re.compile(rb'"(?:\\.|[^"\\])*"', re.DOTALL)
_SCHEMES = ("NTLM", "Negotiate", "Kerberos", "Digest", "Bearer")
"""Schemes of egress proxies that are named in errors; the text of a challenge is untrusted."""


class ConnectRefused(Exception):
    """The proxy responded with another status than 2xx.

    :ivar status: the status code; 407 asks for credentials.
    :ivar reason: the reason phrase as received, untrusted.
    :ivar schemes: returned by :func:`unsupported_schemes`; empty unless Basic is refused.
    """

    def __init__(self, status: int, reason: bytes, schemes: tuple[str, ...] = ()) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.schemes = schemes

    def __str__(self) -> str:
        text = f"{self.status} {self.reason!r}"
        if self.schemes:
            asked = " or ".join(self.schemes)
            text += f", it asks for {asked}, but goproxyai supports only Basic"
        return text


def unsupported_schemes(challenges: Iterable[bytes]) -> tuple[str, ...]:
    """Return the authentication schemes of a 407 that does not offer Basic, if they are known.

    :param challenges: the values of ``Proxy-Authenticate`` (RFC 9110 §11.7.1).
    :returns: names of :data:`_SCHEMES`; none if Basic is offered.
    """
    offered = set()
    for value in challenges:
        for member in _QUOTED.sub(b"", value).split(b","):
            offered.add(member.strip().partition(b" ")[0].lower())  # parameters are not schemes
    if b"basic" in offered:
        return ()
    return tuple([name for name in _SCHEMES if name.lower().encode("ascii") in offered])


class ConnectMalformed(Exception):
    """The proxy's response is not valid HTTP/1.1.

    :ivar reason: what is invalid; never bytes of the response.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
