"""Encryption of the cache snapshot: a header, then the chunks of a libsodium secret stream.

1. The header is the magic, the format version, the cost of the key derivation and a salt. It is
   followed by the 24 bytes with which libsodium starts a stream.
2. The content is cut into chunks of :data:`CHUNK_BYTES`; the last one may be shorter. Writing and
   reading hold a few chunks in memory.
3. Each chunk is encrypted with ``crypto_secretstream_xchacha20poly1305``. The construction detects
   chunks that are changed, reordered, repeated or left out. The last chunk has the tag ``FINAL``,
   so that a truncated file is detected too.
4. The associated data of each chunk is the header and a *context*: the upstreams that the responses
   are of. A file with another context is invalid.
5. The key is derived from the passphrase with Argon2id (RFC 9106).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import Final

from nacl.bindings import (
    crypto_secretstream_xchacha20poly1305_ABYTES,
    crypto_secretstream_xchacha20poly1305_HEADERBYTES,
    crypto_secretstream_xchacha20poly1305_init_pull,
    crypto_secretstream_xchacha20poly1305_init_push,
    crypto_secretstream_xchacha20poly1305_KEYBYTES,
    crypto_secretstream_xchacha20poly1305_pull,
    crypto_secretstream_xchacha20poly1305_push,
    crypto_secretstream_xchacha20poly1305_state,
    crypto_secretstream_xchacha20poly1305_TAG_FINAL,
    crypto_secretstream_xchacha20poly1305_TAG_MESSAGE,
)
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

MAGIC: Final = b"goproxyai cache\0"
"""The first bytes of a snapshot of any version."""

VERSION: Final = 4
"""Covers the format of the records and the way in which :mod:`~.key` makes cache keys too."""

CHUNK_BYTES: Final = 2**20
SALT_BYTES: Final = argon2id.SALTBYTES

KDF_PASSES: Final = 2
KDF_MEMORY_BYTES: Final = 19 * 2**20
"""The parameters that OWASP recommends for Argon2id; about 45 milliseconds."""

# The header is not authentic before the key is derived: a forged one must not exhaust memory.
_MAX_KDF_PASSES = 8
_MAX_KDF_MEMORY_BYTES = 64 * 2**20

_HEADER = Struct(f">{len(MAGIC)}sBBI{SALT_BYTES}s")
HEADER_BYTES: Final = _HEADER.size

_TAG_BYTES = crypto_secretstream_xchacha20poly1305_ABYTES
_STREAM_HEADER_BYTES = crypto_secretstream_xchacha20poly1305_HEADERBYTES

NOT_A_SNAPSHOT: Final = "it is not a cache snapshot"
DAMAGED: Final = "it is damaged, or was written with another key or for another upstream"


class SnapshotError(Exception):
    """A file that is not a valid snapshot; ``str()`` is the reason, without a secret."""


def new_header(salt: bytes) -> bytes:
    """Return the header of a new file.

    :param salt: :data:`SALT_BYTES` random bytes.
    """
    return _HEADER.pack(MAGIC, VERSION, KDF_PASSES, KDF_MEMORY_BYTES, salt)


def derive_key(header: bytes, passphrase: bytes) -> bytes:
    """Return the key of the file that begins with *header*.

    :raises SnapshotError: if *header* is not that of a snapshot of this version.
    """
    if not header.startswith(MAGIC):
        raise SnapshotError(NOT_A_SNAPSHOT)
    version = header[len(MAGIC) : len(MAGIC) + 1]
    if version and version[0] != VERSION:
        raise SnapshotError(f"its format version is {version[0]}, expected {VERSION}")
    if len(header) != HEADER_BYTES:
        raise SnapshotError(DAMAGED)
    _, _, passes, memory, salt = _HEADER.unpack(header)
    if passes > _MAX_KDF_PASSES or memory > _MAX_KDF_MEMORY_BYTES:
        raise SnapshotError(DAMAGED)
    size = crypto_secretstream_xchacha20poly1305_KEYBYTES
    try:
        return argon2id.kdf(size, passphrase, salt, opslimit=passes, memlimit=memory)
    except CryptoError:  # less than the least that Argon2id takes
        raise SnapshotError(DAMAGED) from None


def encrypt(parts: Iterable[bytes], header: bytes, key: bytes, context: bytes) -> Iterator[bytes]:
    """Yield what follows the header in a file: the encrypted content of all *parts*."""
    state = crypto_secretstream_xchacha20poly1305_state()
    yield crypto_secretstream_xchacha20poly1305_init_push(state, key)
    associated = header + context
    for chunk, final in _chunks(parts):
        tag = (
            crypto_secretstream_xchacha20poly1305_TAG_FINAL
            if final
            else crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
        )
        yield crypto_secretstream_xchacha20poly1305_push(state, chunk, associated, tag)


def decrypt(
    read: Callable[[int], bytes], header: bytes, key: bytes, context: bytes
) -> Iterator[bytes]:
    """Yield the content in chunks.

    Each chunk is authentic when it is yielded. Whether the file is complete is known at the end.

    :param read: returns the given number of bytes that follow the header, fewer at the end.
    :raises SnapshotError: if the file is not what :func:`encrypt` made, from first to last byte.
    """
    state = crypto_secretstream_xchacha20poly1305_state()
    associated = header + context
    try:
        crypto_secretstream_xchacha20poly1305_init_pull(state, read(_STREAM_HEADER_BYTES), key)
        final = False
        while not final:
            encrypted = read(CHUNK_BYTES + _TAG_BYTES)
            chunk, tag = crypto_secretstream_xchacha20poly1305_pull(state, encrypted, associated)
            final = tag == crypto_secretstream_xchacha20poly1305_TAG_FINAL
            if final and read(1):
                raise SnapshotError(DAMAGED)
            yield chunk
    except CryptoError:  # also for a part that is too short
        raise SnapshotError(DAMAGED) from None


def _chunks(parts: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Cut *parts* into chunks; yield each with whether it is the last. There is at least one."""
    chunk = bytearray()
    for part in parts:
        rest = memoryview(part)
        while rest:
            if len(chunk) == CHUNK_BYTES:
                yield bytes(chunk), False
                chunk = bytearray()
            fitting = rest[: CHUNK_BYTES - len(chunk)]
            chunk += fitting
            rest = rest[len(fitting) :]
    yield bytes(chunk), True
