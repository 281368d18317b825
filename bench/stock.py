"""A peer: the service as Twisted's own parts make it, the way one would write it at first.

Klein on ``Site``, treq over a pool of persistent connections, a token bucket an address, a dict for
a cache with the key of the Go original. Nothing is tuned, nothing is careless. PORT,
OPENAI_API_URL and NOCACHE are read from the environment, as the Go original does.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any

import attrs
from klein import Klein
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest
from twisted.web.server import Site

TTL = 300.0
PER_MINUTE = 10_000_000
HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
REFUSAL = {
    "error": "Rate limit exceeded. Please try again later.",
    "code": "RATE_LIMIT_EXCEEDED",
}


@attrs.define
class Bucket:
    """Tokens of one client; refilled when it is asked for one."""

    tokens: float
    touched: float

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        gained = (now - self.touched) * PER_MINUTE / 60
        self.tokens, self.touched = min(PER_MINUTE, self.tokens + gained), now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@attrs.frozen
class Stored:
    """An answer in the cache."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    at: float


def end_to_end(headers: Headers, *others: str) -> list[tuple[str, str]]:
    """The fields that travel on, without those of the hop and ``others``."""
    left = HOP_BY_HOP.union(others)
    return [
        (name.decode("ascii"), value.decode("latin-1"))
        for name, values in headers.getAllRawHeaders()
        if name.lower().decode("ascii") not in left
        for value in values
    ]


def cache_key(request: Any, body: bytes) -> str:
    """SHA-256 over the JSON of what matters in a request."""
    parts = {
        "Method": request.method.decode("ascii"),
        "Path": request.uri.decode("ascii"),
        "Headers": {
            "Authorization": request.getHeader("Authorization") or "",
            "Content-Type": request.getHeader("Content-Type") or "",
        },
        "Body": body.decode("utf-8", "replace"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


@attrs.define(eq=False)
class Proxy:
    """The service; ``caching`` is whether repeats are answered from memory."""

    client: HTTPClient
    upstream: str
    caching: bool
    buckets: dict[str, Bucket] = attrs.field(factory=dict)
    cache: dict[str, Stored] = attrs.field(factory=dict)

    app = Klein()

    @app.route("/v1/", branch=True, methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
    async def relay(self, request: IRequest) -> bytes:
        """Rate limit, cache, forward, store, respond."""
        asked: Any = request
        now = time.time()
        client = asked.getClientAddress().host
        if not self.buckets.setdefault(client, Bucket(PER_MINUTE, now)).take(now):
            asked.setResponseCode(429)
            asked.setHeader("Content-Type", "application/json")
            return json.dumps(REFUSAL).encode("utf-8")
        body = asked.content.read()
        key = cache_key(asked, body)
        stored = self.cache.get(key) if self.caching else None
        if stored is not None and now - stored.at < TTL:
            asked.setHeader("X-Cache-Timestamp", time.strftime("%FT%TZ", time.gmtime(stored.at)))
            return self._respond(asked, stored, "HIT")
        answer = await self._forward(asked, body)
        if self.caching and answer.status < 500:
            self.cache[key] = answer
        return self._respond(asked, answer, "MISS")

    async def _forward(self, asked: Any, body: bytes) -> Stored:
        response = await self.client.request(
            asked.method.decode("ascii"),
            self.upstream + asked.uri.decode("ascii"),
            headers=Headers(_grouped(end_to_end(asked.requestHeaders, "host", "content-length"))),
            data=body or None,
            allow_redirects=False,
            timeout=30,
        )
        headers = end_to_end(response.headers, "content-length")
        return Stored(response.code, headers, await response.content(), time.time())

    def _respond(self, asked: Any, answer: Stored, outcome: str) -> bytes:
        asked.setResponseCode(answer.status)
        for name, value in answer.headers:
            asked.responseHeaders.addRawHeader(name, value)
        asked.setHeader("X-Cache", outcome)
        asked.setHeader("X-Proxy", "stock")
        return answer.body


def _grouped(fields: list[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in fields:
        grouped.setdefault(name, []).append(value)
    return grouped


async def main(reactor: Any) -> None:
    """Serve until a signal ends it."""
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = 256
    client = HTTPClient(Agent(reactor, pool=pool))
    proxy = Proxy(client, os.environ["OPENAI_API_URL"], "NOCACHE" not in os.environ)
    endpoint = serverFromString(reactor, f"tcp:{os.environ['PORT']}:interface=127.0.0.1")
    await endpoint.listen(Site(proxy.app.resource()))
    await Deferred()


if __name__ == "__main__":
    react(main)
