"""A client for responses of tens of megabytes."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.support.harness import RawClient


class HashingClient(RawClient):
    """A client that keeps the length and the hash of a response body instead of its bytes."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.head = b""
        self.count = 0
        self._digest = hashlib.sha256()

    def dataReceived(self, data: bytes) -> None:
        if not self.head:
            self.received += data
            self.head, found, data = self.received.partition(b"\r\n\r\n")
            if not found:
                self.head = b""
                return
        self.count += len(data)
        self._digest.update(data)
        super().dataReceived(b"")  # evaluates the conditions of `until`

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()
