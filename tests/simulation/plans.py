"""What is asked, and what is answered: drawn, once for a world or once for a request.

A body is made of what it answers. One that may be given to others is the same each time, so that
they can go on with it in the middle; one that may not has a number of its own.
"""

from __future__ import annotations

from hashlib import shake_128
from random import Random

import attrs

from goproxyai.messages.headers import Headers

KEYS = (b"A", b"A", b"B")
COMPLETIONS = b"/v1/chat/completions"
RETRY_STATUS = frozenset((500, 503))

_LIMITS: tuple[Headers, ...] = (
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
_SAMPLE = b'{"model":"m"}'


@attrs.frozen
class Plan:
    """What upstream mostly answers to a target.

    :ivar size: bytes of body. :ivar framing: ``length``, ``chunked`` or ``close``.
    :ivar extra: header lines that say who may have the answer.
    """

    size: int
    stream: bool
    status: int
    framing: str
    extra: Headers

    def body(self, parts: tuple[bytes, ...]) -> bytes:
        """The body that *parts* make."""
        text = shake_128(b" ".join(parts)).hexdigest(self.size // 2 + 1).encode()[: self.size]
        return b"data: %b\n\ndata: [DONE]\n\n" % text if self.stream else text


@attrs.frozen
class Ask:
    """One request of a client."""

    method: bytes
    target: bytes
    version: str
    keep: bool
    key: bytes
    more: Headers
    body: bytes

    @property
    def subject(self) -> bytes:
        """What is asked, whoever asks."""
        return subject(self.method, self.target, self.body)


def subject(method: bytes, target: bytes, body: bytes) -> bytes:
    """What is asked, whoever asks."""
    return b"%b %b %b" % (method, target, body)


def a_plan(chance: Random) -> Plan:
    """What a target answers."""
    return Plan(
        size=chance.choice([0, 1, 50, 600, 2500, 4000, 7000]),
        stream=chance.random() < 0.4,
        status=chance.choice([200, 200, 200, 200, 404, 500]),
        framing=chance.choice(["length", "chunked", "close"]),
        extra=chance.choice(_LIMITS),
    )


def an_ask(chance: Random, targets: list[bytes]) -> Ask:
    """A request for one of *targets*; most are GETs."""
    more: Headers = []
    if chance.random() < 0.25:
        more.append((b"X-Cache-Replay", b"paced"))
    if chance.random() < 0.05:
        more.append((b"Cache-Control", chance.choice(_DIRECTIVES)))
    if chance.random() < 0.05:
        more.append((b"X-Cache-TTL", chance.choice([b"0", b"1", b"50"])))
    method, target, body = b"GET", chance.choice(targets), b""
    drawn = chance.random()
    if drawn < 0.1:
        method, target = b"POST", COMPLETIONS
        body = chance.choice([_DETERMINISTIC, _SAMPLE])
    elif drawn < 0.13:
        method, body = b"POST", b"write"
    return Ask(
        method,
        target,
        chance.choice(["1.1"] * 9 + ["1.0"]),
        chance.random() < 0.95,
        chance.choice(KEYS),
        more,
        body,
    )


def is_own(ask_method: bytes, target: bytes, plan: Plan, status: int, shared: bool) -> bool:
    """Whether an answer is only for the request that it answers (README, on who shares what).

    :param shared: whether credentials share what GETs of *target* are answered.
    """
    if ask_method == b"POST" and target != COMPLETIONS:
        return True
    for name, value in plan.extra:
        if (name, value) in ((b"Cache-Control", b"no-store"), (b"Vary", b"*")):
            return True
        if shared and value == b"private":
            return True
    return shared and not 200 <= status < 300
