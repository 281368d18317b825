"""The causes of failures in words, and what an operator can do about each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from goproxyai.telemetry.failure_cause import FailureCause

_TEXTS: Final = {
    FailureCause.UPSTREAM_429: "upstream answers 429 (rate limit or quota)",
    FailureCause.UPSTREAM_401: "upstream answers 401 (API key refused)",
    FailureCause.UPSTREAM_403: "upstream answers 403 (access denied)",
    FailureCause.UPSTREAM_4XX: "upstream answers {status}",
    FailureCause.UPSTREAM_5XX: "upstream answers {status}",
    FailureCause.UNREACHABLE: "{upstream} cannot be reached",
    FailureCause.TIMEOUT: "{upstream} does not answer in time",
    FailureCause.TLS: "TLS with {upstream} fails",
    FailureCause.PROTOCOL: "upstream sends invalid HTTP",
    FailureCause.CUT: "upstream breaks off responses",
    FailureCause.CIRCUIT_OPEN: "the circuit is open after repeated failures",
    FailureCause.EGRESS_PROXY: "the egress proxy refuses connections",
    FailureCause.OVERLOADED: "the proxy is overloaded",
    FailureCause.INTERNAL: "the proxy has a defect",
    FailureCause.LOOP: "requests return to the proxy itself",
    FailureCause.DRAINING: "the proxy is stopping",
    FailureCause.RATE_LIMITED: "clients exceed RATE_LIMIT",
    FailureCause.REFUSED: "the proxy refuses requests with {status}",
}

_UNREACHABLE: Final = (
    ("ConnectionRefused", "{upstream} refuses connections"),
    ("DNSLookupError", "the host name of {upstream} does not resolve"),
    ("ConnectionLost", "{upstream} closes connections before it answers"),
    ("ConnectionDone", "{upstream} closes connections before it answers"),
    ("ConnectionReset", "{upstream} closes connections before it answers"),
    ("NoRoute", "there is no route to {upstream}"),
)
"""More exact texts, by the name of the exception that a detail begins with."""

_BEGINNINGS: Final = ("upstream answers ", "upstream ")

_ADVICE: Final = {
    FailureCause.UPSTREAM_429: (
        "Check the account's limits and quota with the provider. RATE_LIMIT slows clients down; a "
        "second URL in OPENAI_API_URL adds capacity."
    ),
    FailureCause.UPSTREAM_401: (
        "Check the API key of the clients with failures in the table of clients."
    ),
    FailureCause.UPSTREAM_403: (
        "Check the permissions of the API key, and the region of the proxy or of PROXY_URL."
    ),
    FailureCause.UPSTREAM_4XX: "Check the requests of the clients in the recent errors.",
    FailureCause.UPSTREAM_5XX: "Check the provider's status page; the request IDs are below.",
    FailureCause.UNREACHABLE: "Check OPENAI_API_URL, PROXY_URL, DNS and the network of the proxy.",
    FailureCause.TIMEOUT: (
        "Check the provider's status page and the network. CONNECT_TIMEOUT, REQUEST_TIMEOUT and "
        "GENERATION_TIMEOUT set the limits."
    ),
    FailureCause.TLS: "Check certificates: OPENAI_API_URL, PROXY_URL and SSL_CERT_FILE.",
    FailureCause.PROTOCOL: "Check that OPENAI_API_URL names an HTTP/1.1 API.",
    FailureCause.CUT: (
        "Check the provider's status page; IDLE_TIMEOUT limits silence within a response."
    ),
    FailureCause.CIRCUIT_OPEN: "The recent errors have the failures that opened it.",
    FailureCause.EGRESS_PROXY: (
        "Check PROXY_URL, its credentials, and the rules of the egress proxy for upstream's host."
    ),
    FailureCause.OVERLOADED: (
        "Compare connections, request memory and descriptors with their limits (MAX_CONNECTIONS, "
        "MAX_REQUEST_MEMORY)."
    ),
    FailureCause.INTERNAL: "The log has a traceback for each; please report it.",
    FailureCause.LOOP: "OPENAI_API_URL or PROXY_URL leads back to the proxy.",
    FailureCause.DRAINING: "A new process should have taken over.",
    FailureCause.RATE_LIMITED: (
        "The table of clients has those that are refused. RATE_LIMIT sets requests a minute and "
        "client."
    ),
    FailureCause.REFUSED: "The recent errors say what is wrong with the requests.",
}


def describe(
    cause: FailureCause, status: int = 0, detail: str = "", has_egress: bool = False
) -> str:
    """Return a cause in words.

    :param status: of the last response.
    :param detail: of the last failure, see :class:`~goproxyai.telemetry.outcome.RequestOutcome`.
    :param has_egress: whether there is an egress proxy, which may be what cannot be reached.
    """
    text = _TEXTS[cause]
    if cause is FailureCause.UNREACHABLE:
        text = next((exact for name, exact in _UNREACHABLE if detail.startswith(name)), text)
    upstream = "upstream or the egress proxy" if has_egress else "upstream"
    return text.format(status=status or "an error", upstream=upstream)


def join(texts: Sequence[str]) -> str:
    """Return one or two causes as one text, without the words that both begin with."""
    first, *others = texts
    joined = [first]
    for text in others:
        common = [each for each in _BEGINNINGS if first.startswith(each) and text.startswith(each)]
        joined.append(text.removeprefix(common[0]) if common else text)
    return " and ".join(joined)


def advice_for(cause: FailureCause) -> str:
    """Return what an operator can do about a cause."""
    return _ADVICE[cause]
