"""Notices services with another ``STATE_SECRET``, with which nothing would be shared.

Redis has a keyed hash of a constant, which differs between secrets and shows none of them.
"""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from goproxyai.state.redis.client import RedisClient
from goproxyai.state.redis.lanes import Lane
from goproxyai.state.redis.names import Names

KEPT_MILLISECONDS: Final = 24 * 3600 * 1000
"""Time to live of the hash, which each connection renews."""

_log = Logger(namespace="goproxyai.state")


class SecretCheck:
    """Compares the secret with that of the service that connected last."""

    def __init__(self, client: RedisClient, names: Names) -> None:
        self._client = client
        self._name = names.plain(b"secret")
        self._hash = names.hashed(b"secret", b"")
        self._warned = False

    async def run(self) -> None:
        """Compare, and warn once."""
        found = await self._client.call(Lane.CACHE, "connect", "GET", self._name)
        if found not in (None, self._hash) and not self._warned:
            self._warned = True
            _log.warn(
                "another service uses STATE_URL and STATE_PREFIX with another STATE_SECRET: the "
                "two share nothing, and a client has its limit with each"
            )
        await self._client.call(
            Lane.CACHE, "connect", "SET", self._name, self._hash, "PX", KEPT_MILLISECONDS
        )
