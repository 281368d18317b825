"""A peer: the same service built from stock Twisted, without optimisation.

Klein on ``Site``, treq with a pool of persistent connections, a token bucket per address, and a
dict as the cache, with the cache key of the Go original. The environment variables are those of the
Go original: PORT, OPENAI_API_URL and NOCACHE.
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
    """The tokens of one client, refilled on use."""

    tokens: float
    updated: float

    def take(self, now: float) -> bool:
        """Take a token; returns whether there was one."""
        added = (now - self.updated) * PER_MINUTE / 60
        self.tokens, self.updated = min(PER_MINUTE, self.tokens + added), now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@attrs.frozen
class Stored:
    """A cached answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    at: float


def end_to_end(headers: Headers, *others: str) -> list[tuple[str, str]]:
    """The fields without the hop-by-hop ones and *others*."""
    dropped = HOP_BY_HOP.union(others)
    return [
        (name.decode("ascii"), value.decode("latin-1"))
        for name, values in headers.getAllRawHeaders()
        if name.lower().decode("ascii") not in dropped
        for value in values
    ]


def cache_key(request: Any, body: bytes) -> str:
    """The SHA-256 of the method, path, some headers and the body as JSON."""
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
    """The service; ``caching`` enables the cache."""

    client: HTTPClient
    upstream: str
    caching: bool
    buckets: dict[str, Bucket] = attrs.field(factory=dict)
    cache: dict[str, Stored] = attrs.field(factory=dict)

    app = Klein()

    @app.route("/v1/", branch=True, methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
    async def relay(self, web_request: IRequest) -> bytes:
        """Apply the rate limit, then answer from the cache or forward and store."""
        request: Any = web_request
        now = time.time()
        client = request.getClientAddress().host
        if not self.buckets.setdefault(client, Bucket(PER_MINUTE, now)).take(now):
            request.setResponseCode(429)
            request.setHeader("Content-Type", "application/json")
            return json.dumps(REFUSAL).encode("utf-8")
        body = request.content.read()
        key = cache_key(request, body)
        stored = self.cache.get(key) if self.caching else None
        if stored is not None and now - stored.at < TTL:
            request.setHeader("X-Cache-Timestamp", time.strftime("%FT%TZ", time.gmtime(stored.at)))
            return self._respond(request, stored, "HIT")
        answer = await self._forward(request, body)
        if self.caching and answer.status < 500:
            self.cache[key] = answer
        return self._respond(request, answer, "MISS")

    async def _forward(self, request: Any, body: bytes) -> Stored:
        response = await self.client.request(
            request.method.decode("ascii"),
            self.upstream + request.uri.decode("ascii"),
            headers=Headers(_grouped(end_to_end(request.requestHeaders, "host", "content-length"))),
            data=body or None,
            allow_redirects=False,
            timeout=30,
        )
        headers = end_to_end(response.headers, "content-length")
        return Stored(response.code, headers, await response.content(), time.time())

    def _respond(self, request: Any, answer: Stored, outcome: str) -> bytes:
        request.setResponseCode(answer.status)
        for name, value in answer.headers:
            request.responseHeaders.addRawHeader(name, value)
        request.setHeader("X-Cache", outcome)
        request.setHeader("X-Proxy", "stock")
        return answer.body


def _grouped(fields: list[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in fields:
        grouped.setdefault(name, []).append(value)
    return grouped


async def main(reactor: Any) -> None:
    """Serve until a signal ends the process."""
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = 256
    client = HTTPClient(Agent(reactor, pool=pool))
    proxy = Proxy(client, os.environ["OPENAI_API_URL"], "NOCACHE" not in os.environ)
    endpoint = serverFromString(reactor, f"tcp:{os.environ['PORT']}:interface=127.0.0.1")
    await endpoint.listen(Site(proxy.app.resource()))
    await Deferred()


if __name__ == "__main__":
    react(main)
