"""Names and values in Redis, which show nothing of requests, clients, credentials and responses.

1. The keys are derived from ``STATE_SECRET`` with Argon2id (RFC 9106). The salt is fixed, because
   all processes must derive the same keys.
2. A name is a keyed hash of the client, the request or the credential.
3. A value is encrypted with XChaCha20-Poly1305 under a random nonce. Its name is associated data,
   so that a value under another name is invalid. The first byte is the version of the format.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_aead_xchacha20poly1305_ietf_KEYBYTES,
    crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
)
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

VERSION: Final = b"\x01"
"""Of the values, and of the way in which names are made."""

OVERHEAD_BYTES: Final = 1 + crypto_aead_xchacha20poly1305_ietf_NPUBBYTES + 16
"""Bytes of a sealed value besides its content."""

KDF_PASSES: Final = 2
KDF_MEMORY_BYTES: Final = 19 * 2**20
"""The parameters that OWASP recommends for Argon2id; about 45 milliseconds, once at the start."""

_SALT = blake2b(b"goproxyai shared state", digest_size=argon2id.SALTBYTES).digest()
_NONCE_BYTES = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
_NAME_BYTES = 16


class ValueInvalid(Exception):
    """A value that was not sealed with this secret, for this name."""


class Names:
    """Makes names, and seals values.

    :param secret: the passphrase.
    :param prefix: of all names.
    :param random_bytes: returns as many random bytes as its argument says.
    """

    def __init__(self, secret: str, prefix: str, random_bytes: Callable[[int], bytes]) -> None:
        size = crypto_aead_xchacha20poly1305_ietf_KEYBYTES
        master = argon2id.kdf(
            size, secret.encode(), _SALT, opslimit=KDF_PASSES, memlimit=KDF_MEMORY_BYTES
        )
        self._name_key = blake2b(b"names", key=master, digest_size=size).digest()
        self._value_key = blake2b(b"values", key=master, digest_size=size).digest()
        self._prefix = prefix.encode("ascii")
        self._random_bytes = random_bytes

    def plain(self, name: bytes) -> bytes:
        """Return the name of a key without material."""
        return self._prefix + name

    def hashed(self, kind: bytes, material: bytes) -> bytes:
        """Return the name of the key that *material* identifies.

        :param kind: a word; equal material of another kind has another name.
        """
        digest = blake2b(kind + b":" + material, key=self._name_key, digest_size=_NAME_BYTES)
        return b"%b%b:%b" % (self._prefix, kind, digest.hexdigest().encode("ascii"))

    def seal(self, content: bytes, associated: bytes) -> bytes:
        """Return *content* encrypted; :meth:`opened` needs the same *associated* data."""
        nonce = self._random_bytes(_NONCE_BYTES)
        sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(
            content, VERSION + associated, nonce, self._value_key
        )
        return VERSION + nonce + sealed

    def opened(self, value: bytes, associated: bytes) -> bytes:
        """Return the content of a value.

        :raises ValueInvalid: if :meth:`seal` did not make *value* with *associated*.
        """
        if not value.startswith(VERSION) or len(value) < OVERHEAD_BYTES:
            raise ValueInvalid("another version")
        nonce, sealed = value[1 : 1 + _NONCE_BYTES], value[1 + _NONCE_BYTES :]
        try:
            return crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed, VERSION + associated, nonce, self._value_key
            )
        except CryptoError:
            raise ValueInvalid("not authentic") from None
