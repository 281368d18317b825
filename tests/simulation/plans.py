"""The requests and answers of a simulation, drawn at random.

A body is derived from the request that it answers. If other requests may get the answer as well,
the body is the same each time, so that a resumed download can continue in its middle; if not, the
body has a number of its own.
"""

from __future__ import annotations

from hashlib import shake_128
from random import Random

import attrs

from goproxyai.messages.headers import Headers

KEYS = (b"A", b"A", b"B")
COMPLETIONS = b"/v1/chat/completions"
RETRY_STATUS = frozenset((500, 503))

_CACHING_FIELDS: tuple[Headers, ...] = (
    [],
    [],
    [],
    [(b"Cache-Control", b"no-store")],
    [(b"Cache-Control", b"private")],
    [(b"Vary", b"*")],
    [(b"Age", b"5")],
    [(b"Cache-Control", b"must-revalidate")],
)
_DIRECTIVES = (b"no-cache", b"max-age=0", b"max-stale=100", b"only-if-cached")
_DETERMINISTIC = b'{"seed":1}'
_SAMPLED = b'{"model":"m"}'


@attrs.frozen
class AnswerPlan:
    """The usual answer to a target.

    :ivar size: bytes of the text in the body.
    :ivar framing: ``length``, ``chunked`` or ``close``.
    :ivar extra: header fields that restrict caching.
    """

    size: int
    stream: bool
    status: int
    framing: str
    extra: Headers

    def body(self, parts: tuple[bytes, ...]) -> bytes:
        """The body derived from *parts*."""
        text = shake_128(b" ".join(parts)).hexdigest(self.size // 2 + 1).encode()[: self.size]
        return b"data: %b\n\ndata: [DONE]\n\n" % text if self.stream else b'{"data":["%b"]}' % text


@attrs.frozen
class ClientRequest:
    """A request of a client."""

    method: bytes
    target: bytes
    version: str
    keep: bool
    key: bytes
    more: Headers
    body: bytes

    @property
    def question(self) -> bytes:
        """See :func:`question`."""
        return question(self.method, self.target, self.body)


def question(method: bytes, target: bytes, body: bytes) -> bytes:
    """The part of a request that determines its answer, except the credentials."""
    return b"%b %b %b" % (method, target, body)


def draw_plan(rng: Random) -> AnswerPlan:
    return AnswerPlan(
        size=rng.choice([0, 1, 50, 600, 2500, 4000, 7000]),
        stream=rng.random() < 0.4,
        status=rng.choice([200, 200, 200, 200, 404, 500]),
        framing=rng.choice(["length", "chunked", "close"]),
        extra=rng.choice(_CACHING_FIELDS),
    )


def draw_request(rng: Random, targets: list[bytes]) -> ClientRequest:
    """A request, in most cases a GET of one of *targets*."""
    more: Headers = []
    if rng.random() < 0.25:
        more.append((b"X-Cache-Replay", b"paced"))
    if rng.random() < 0.05:
        more.append((b"Cache-Control", rng.choice(_DIRECTIVES)))
    if rng.random() < 0.05:
        more.append((b"X-Cache-TTL", rng.choice([b"0", b"1", b"50"])))
    method, target, body = b"GET", rng.choice(targets), b""
    kind = rng.random()
    if kind < 0.1:
        method, target = b"POST", COMPLETIONS
        body = rng.choice([_DETERMINISTIC, _SAMPLED])
    elif kind < 0.13:
        method, body = b"POST", b"write"
    return ClientRequest(
        method,
        target,
        rng.choice(["1.1"] * 9 + ["1.0"]),
        rng.random() < 0.95,
        rng.choice(KEYS),
        more,
        body,
    )


def is_unshareable(
    method: bytes, target: bytes, plan: AnswerPlan, status: int, shared: bool
) -> bool:
    """Whether only the request itself may get its answer (README, "What is cached").

    :param shared: whether credentials share the answers to GETs of *target*.
    """
    if method == b"POST" and target != COMPLETIONS:
        return True
    for name, value in plan.extra:
        if (name, value) in ((b"Cache-Control", b"no-store"), (b"Vary", b"*")):
            return True
        if shared and value == b"private":
            return True
    return shared and not 200 <= status < 300
