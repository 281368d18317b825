"""The faults, and the outcomes that each of them excuses.

An outcome is how a request ended, in one word:

====================  =========================================================================
``ok``                a complete answer of upstream's own, right to the byte, whatever its status
a code of the proxy   its own error, complete and in its shape
``cut``               an answer that began and was visibly broken off
``lost``              the connection ended without an answer
``refused``           no connection could be made
``left``              the client went away itself
====================  =========================================================================

``ok`` needs no excuse and nothing excuses a wrong answer, a hidden truncation or a hang. Everything
else must be the outcome of a fault that met this very request, or of one that all requests met at
the time.
"""

from __future__ import annotations

from typing import Final

import attrs

EACH: Final = "each"
"""Where a fault meets single answers, by chance."""

PLAIN: Final = "plain"
"""The daemon that goes to upstream directly, in clear, by name."""

TUNNEL: Final = "tunnel"
"""The daemon that goes to upstream with TLS, through the egress proxy."""

CROWD: Final = "crowd"
"""Where it is the clients that misbehave."""


HARNESS: Final = "harness"
"""Where it is the machine that is busy: never planned, always written down."""


@attrs.frozen
class Fault:
    """A way to fail.

    :ivar where: :data:`EACH`; or the daemon whose way upstream is struck; or :data:`CROWD`.
    :ivar excuses: outcomes, besides ``ok``.
    :ivar around: outcomes that it excuses of other requests while it lasts.
    :ivar lasting: share of a cycle that it lasts at most.
    """

    name: str
    where: str
    excuses: frozenset[str]
    lasting: float = 0.3
    around: frozenset[str] = frozenset()

    @property
    def breaks(self) -> bool:
        """Whether it begins with the end of every connection on the way upstream."""
        return self.where in (PLAIN, TUNNEL) and self.lasting > 0


def _fault(
    name: str, where: str, *excuses: str, lasting: float = 0.3, around: tuple[str, ...] = ()
) -> Fault:
    return Fault(name, where, frozenset(excuses), lasting, frozenset(around))


FAULTS: Final = (
    # An answer that fails before its head, or in it.
    _fault("reset", EACH, "upstream_unreachable"),
    _fault("close", EACH, "upstream_unreachable"),
    _fault("cut head", EACH, "upstream_unreachable"),
    _fault("no head", EACH, "upstream_timeout"),
    _fault("dribbled head", EACH, "upstream_timeout"),
    _fault("bad framing", EACH, "upstream_protocol_error"),
    # One that fails in its body.
    _fault("cut body", EACH, "cut"),
    # A reset may overtake the head.
    _fault("reset body", EACH, "cut", "upstream_unreachable"),
    _fault("stalled body", EACH, "cut"),
    _fault("bad chunk", EACH, "cut", "upstream_protocol_error"),
    # One that is odd, and right.
    _fault("dribbled body", EACH),
    _fault("interim", EACH),
    # It closes behind a whole answer, unannounced: the next request may be on its way already.
    _fault("closing", EACH, around=("upstream_unreachable",)),
    _fault("close-delimited", EACH),
    _fault("failing", EACH),
    # Before the request's body is there: the client may not get to hear it.
    _fault("early answer", EACH, "upstream_unreachable", "cut", "lost"),
    # The way to upstream.
    _fault("upstream down", PLAIN, "upstream_unreachable", lasting=0.15),
    _fault("no name", PLAIN, "upstream_unreachable", lasting=0.15),
    _fault("connections dropped", PLAIN, "upstream_unreachable", lasting=0.02),
    _fault(
        "proxy down", TUNNEL, "upstream_unreachable", lasting=0.15
    ),
    _fault("proxy's name gone", TUNNEL, "upstream_unreachable", lasting=0.15),
    _fault("proxy refuses", TUNNEL, "egress_proxy_refused", lasting=0.15),
    _fault("proxy talks nonsense", TUNNEL, "egress_proxy_refused", lasting=0.15),
    _fault("proxy stalls", TUNNEL, "upstream_timeout", lasting=0.15),
    _fault("proxy has no name", TUNNEL, "egress_proxy_refused", lasting=0.15),
    _fault("tunnels reset", TUNNEL, "upstream_unreachable", "egress_proxy_refused",
           "upstream_tls_failed", lasting=0.02),
    _fault("certificate expired", TUNNEL, "upstream_tls_failed", lasting=0.15),
    _fault("certificate of another", TUNNEL, "upstream_tls_failed", lasting=0.15),
    _fault("certificate of nobody", TUNNEL, "upstream_tls_failed", lasting=0.15),
    _fault("no TLS at all", TUNNEL, "upstream_tls_failed", "upstream_unreachable",
           lasting=0.15),
    # The daemon itself.
    _fault("restart", TUNNEL, "draining", "refused", "lost", "cut", "upstream_unreachable",
           lasting=0.0),
    # The harness itself: what it did not do in time is no fault of the daemon's.
    _fault("the harness stood still", HARNESS, "upstream_timeout", "cut"),
    # The clients.
    _fault("slow readers", CROWD, lasting=0.5),
    _fault("vanishing clients", CROWD, lasting=0.5),
    _fault("header bombs", CROWD, lasting=0.5),
)  # fmt: skip
"""All of them."""

BY_NAME: Final = {fault.name: fault for fault in FAULTS}

BROKEN: Final = frozenset(
    ("cut", "upstream_unreachable", "egress_proxy_refused", "upstream_tls_failed")
)
"""What the beginning of a fault that :attr:`Fault.breaks` excuses, of what is under way."""

LARGE: Final = 1_000_000
"""Bytes of an answer that is not shared to its end: who is behind asks again, and what strikes him
then, or makes that answer another one, excuses a cut."""

AFTERMATH: Final = 60.0
"""Seconds behind a fault for which a refusal in :data:`PROTECTIVE` needs no other excuse."""

PROTECTIVE: Final = frozenset(("circuit_open", "overloaded"))
"""Refusals with which the daemon protects upstream or itself once something has failed."""

SLACK: Final = 3.0
"""Seconds before and behind a fault of the way upstream that belong to it: connections end in it,
deadlines that ran in it are over later."""
