"""The cache key of a request, and the ID of its credential.

The key is SHA-256 over an injective encoding of method, target, the fields of :data:`KEY_FIELDS`
and the body. The encoding is ``marshal`` version 2, which writes each part with its type and length
and has neither references nor interning: requests that differ in a part have different encodings.
Nothing is ever unmarshalled. The body comes last, after an encoding that delimits itself.

Credentials are not kept: only digests leave this module.
"""

from __future__ import annotations

from hashlib import blake2b, sha256
from marshal import dumps
from typing import Any, Final

from goproxyai.messages.headers import Fields, Headers, nominated_fields

CREDENTIAL_FIELDS: Final = (b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key")
"""Lower-cased names of the request fields that hold a credential."""

KEY_FIELDS: Final = (
    *CREDENTIAL_FIELDS,
    b"anthropic-version",
    b"x-cache-namespace",
    b"content-type",
    b"accept",
    b"accept-encoding",
    b"accept-language",
    b"openai-organization",
    b"x-openai-organization",
    b"openai-project",
    b"openai-beta",
)
"""Lower-cased names of the request fields that are part of the key."""

IDENTITY_FIELDS: Final = frozenset(
    (*CREDENTIAL_FIELDS, b"openai-organization", b"x-openai-organization", b"openai-project")
)
"""Key fields that identify the caller; not part of the key of a shared response."""

_KEY_FIELDS = frozenset(KEY_FIELDS)
_SHARED_FIELDS = tuple([name for name in KEY_FIELDS if name not in IDENTITY_FIELDS])

KeyDigest = Any
"""A hash object of :mod:`hashlib`, whose type has no public name."""


def cache_key(
    method: bytes,
    target: bytes,
    fields: Fields,
    headers: Headers,
    repeated: bool,
    body: bytes,
    shared: bool = False,
) -> bytes:
    """Return the 32 bytes of a request's cache key.

    An absent field differs from an empty field, and two lines ``a``, ``b`` differ from one line
    ``a, b``. The case of names and the order of different names do not matter. A field that
    ``Connection`` nominates, and that is thus not forwarded, counts as absent.

    :param target: path and query, exactly as forwarded.
    :param repeated: whether a name is repeated, as :func:`~.headers.index_fields` returned.
    :param shared: whether all credentials share the response. A shared key never equals a key that
        is not shared.
    """
    digest = start_cache_key(method, target, fields, headers, repeated, shared)
    digest.update(body)
    key: bytes = digest.digest()
    return key


def start_cache_key(
    method: bytes,
    target: bytes,
    fields: Fields,
    headers: Headers,
    repeated: bool,
    shared: bool = False,
) -> KeyDigest:
    """Return the digest of everything but the body; update a copy with the body for the key."""
    names = _SHARED_FIELDS if shared else KEY_FIELDS  # the number of values tells the two apart
    values: tuple[bytes | tuple[bytes, ...] | None, ...]
    if repeated or nominated_fields(fields):
        values = _values_by_line(fields, headers, names)
    else:
        values = tuple(map(fields.get, names))
    return sha256(dumps((method, target, values), 2))


def _values_by_line(
    fields: Fields, headers: Headers, names: tuple[bytes, ...]
) -> tuple[bytes | tuple[bytes, ...] | None, ...]:
    """Return the values of *names*, with a tuple of lines for a repeated field."""
    lines: dict[bytes, bytes | tuple[bytes, ...]] = {}
    relevant = _KEY_FIELDS - nominated_fields(fields)
    for spelled, value in headers:
        name = spelled.lower()
        if name in relevant:
            previous = lines.get(name)
            if previous is None:
                lines[name] = value
            elif isinstance(previous, tuple):
                lines[name] = (*previous, value)
            else:
                lines[name] = (previous, value)
    return tuple([lines.get(name) for name in names])


def credential_id(fields: Fields) -> bytes:
    """Return 16 bytes that identify the credentials of a request: :data:`CREDENTIAL_FIELDS`.

    The ID is an index, not a secret and not a check. Organization and project are left out: a write
    for one of them may change the responses to requests that do not name it.
    """
    nominated = nominated_fields(fields)
    values = tuple([None if name in nominated else fields.get(name) for name in CREDENTIAL_FIELDS])
    return blake2b(dumps(values, 2), digest_size=16).digest()
