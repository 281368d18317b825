"""The faults, and the outcomes that each may cause.

An outcome is how a request ended, in one word:

======================  =====================================================================
``ok``                  a complete answer of the upstream, byte for byte correct, of any status
a code of the proxy     a complete error of the proxy's own, in its format
``cut``                 an answer that began and was visibly truncated
``lost``                the connection ended without an answer
``refused``             no connection could be made
``left``                the client closed the connection itself
======================  =====================================================================

``ok`` needs no cause. No fault may cause a wrong answer, an undetectable truncation or a hang.
Every other outcome must be permitted by a fault that was injected into this request, or by one that
affected all requests at the time.
"""

from __future__ import annotations

from typing import Final

import attrs

ANSWER: Final = "answer"
"""The fault affects single answers, drawn at random."""

PLAIN: Final = "plain"
"""The fault affects the daemon that connects to the upstream directly, by name."""

TUNNEL: Final = "tunnel"
"""The fault affects the daemon that connects to the upstream with TLS, by the egress proxy."""

CLIENTS: Final = "clients"
"""The fault is the behaviour of clients."""

HARNESS: Final = "harness"
"""The test machine was busy: never planned, always recorded."""

STALLED: Final = "harness stalled"
"""The name of that fault."""


@attrs.frozen
class Fault:
    """One kind of fault.

    :ivar where: :data:`ANSWER`, :data:`PLAIN`, :data:`TUNNEL`, :data:`CLIENTS` or :data:`HARNESS`.
    :ivar outcomes: that it may cause, besides ``ok``.
    :ivar nearby_outcomes: that it may cause for other requests while it lasts.
    :ivar max_share: of a cycle that it lasts at most.
    """

    name: str
    where: str
    outcomes: frozenset[str]
    max_share: float = 0.3
    nearby_outcomes: frozenset[str] = frozenset()

    @property
    def drops_connections(self) -> bool:
        """Whether every connection towards the upstream is aborted when the fault begins."""
        return self.where in (PLAIN, TUNNEL) and self.max_share > 0


def _fault(
    name: str, where: str, *outcomes: str, max_share: float = 0.3, nearby: tuple[str, ...] = ()
) -> Fault:
    return Fault(name, where, frozenset(outcomes), max_share, frozenset(nearby))


FAULTS: Final = (
    # Failures before or within the head of the answer.
    _fault("reset", ANSWER, "upstream_unreachable"),
    _fault("close", ANSWER, "upstream_unreachable"),
    _fault("cut head", ANSWER, "upstream_unreachable"),
    _fault("no head", ANSWER, "upstream_timeout"),
    _fault("dribbled head", ANSWER, "upstream_timeout"),
    _fault("bad framing", ANSWER, "upstream_protocol_error"),
    # Failures within the body.
    _fault("cut body", ANSWER, "cut"),
    # The reset may arrive before the head.
    _fault("reset body", ANSWER, "cut", "upstream_unreachable"),
    _fault("stalled body", ANSWER, "cut"),
    _fault("bad chunk", ANSWER, "cut", "upstream_protocol_error"),
    # Unusual but valid answers.
    _fault("dribbled body", ANSWER),
    _fault("interim", ANSWER),
    # The connection closes after a complete answer, when the next request may have been sent.
    _fault("closing", ANSWER, nearby=("upstream_unreachable",)),
    _fault("close-delimited", ANSWER),
    _fault("error status", ANSWER),
    # The answer precedes the end of the request's body, so the client may not receive it.
    _fault("early answer", ANSWER, "upstream_unreachable", "cut", "lost"),
    # Faults between the daemon and the upstream.
    _fault("upstream down", PLAIN, "upstream_unreachable", max_share=0.15),
    _fault("name unknown", PLAIN, "upstream_unreachable", max_share=0.15),
    _fault("connections reset", PLAIN, "upstream_unreachable", max_share=0.02),
    _fault("proxy down", TUNNEL, "upstream_unreachable", max_share=0.15),
    _fault("proxy's name unknown", TUNNEL, "upstream_unreachable", max_share=0.15),
    _fault("proxy refuses", TUNNEL, "egress_proxy_refused", max_share=0.15),
    _fault("proxy sends garbage", TUNNEL, "egress_proxy_refused", max_share=0.15),
    _fault("proxy stalls", TUNNEL, "upstream_timeout", max_share=0.15),
    _fault("name unknown to proxy", TUNNEL, "egress_proxy_refused", max_share=0.15),
    _fault("tunnels reset", TUNNEL, "upstream_unreachable", "egress_proxy_refused",
           "upstream_tls_failed", max_share=0.02),
    _fault("certificate expired", TUNNEL, "upstream_tls_failed", max_share=0.15),
    _fault("certificate of another host", TUNNEL, "upstream_tls_failed", max_share=0.15),
    _fault("certificate self-signed", TUNNEL, "upstream_tls_failed", max_share=0.15),
    _fault("no TLS", TUNNEL, "upstream_tls_failed", "upstream_unreachable", max_share=0.15),
    # The daemon.
    _fault("restart", TUNNEL, "draining", "refused", "lost", "cut", "upstream_unreachable",
           max_share=0.0),
    # The harness, whose delays are not the daemon's fault.
    _fault(STALLED, HARNESS, "upstream_timeout", "cut"),
    # The clients.
    _fault("slow readers", CLIENTS, max_share=0.5),
    _fault("leaving clients", CLIENTS, max_share=0.5),
    _fault("malformed requests", CLIENTS, max_share=0.5),
)  # fmt: skip

BY_NAME: Final = {fault.name: fault for fault in FAULTS}

INTERRUPTED: Final = frozenset(
    ("cut", "upstream_unreachable", "egress_proxy_refused", "upstream_tls_failed")
)
"""What the beginning of a fault with ``drops_connections`` may cause for active requests."""

MAX_SHARED_BYTES: Final = 1_000_000
"""A larger answer is not shared to its end: the subscribers that are behind send a request of their
own. A fault in that request, or another answer to it, may cause a cut."""

AFTERMATH_SECONDS: Final = 60.0
"""After a fault, the outcomes in :data:`PROTECTIVE` need no other cause for this long."""

PROTECTIVE: Final = frozenset(("circuit_open", "overloaded"))
"""Errors with which the daemon protects the upstream or itself after failures."""

SLACK_SECONDS: Final = 3.0
"""A fault may also cause outcomes this long before and after it: connections end during the fault,
and deadlines that ran during the fault expire after it."""
