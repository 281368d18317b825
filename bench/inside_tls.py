"""The daemon in memory with TLS in front: an ``ssl:`` endpoint, and a client with TLS."""

from __future__ import annotations

import contextlib
import ssl
import tempfile
from pathlib import Path

from bench.certificates import issue
from bench.inside import InMemoryDaemon


class TLSFrontDaemon(InMemoryDaemon):
    """A daemon whose client has TLS.

    What is measured includes the encryption of requests by the client, and not the decryption of
    responses: the client discards them.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            files = issue(Path(directory))
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            context = ssl.create_default_context(cafile=str(files.root))
            self._client_tls = context.wrap_bio(
                self._incoming, self._outgoing, server_hostname="localhost"
            )
            keys = f"privateKey={files.key}:certKey={files.certificate}"
            super().__init__(LISTEN=f"ssl:0:interface=127.0.0.1:{keys}")

    def begin(self) -> None:
        for _ in range(2):
            with contextlib.suppress(ssl.SSLWantReadError):
                self._client_tls.do_handshake()
            self._incoming.write(self.exchange(self._outgoing.read()))

    def sealed(self, data: bytes) -> bytes:
        self._client_tls.write(data)
        return self._outgoing.read()
