"""What makes two requests the same, and whose they are.

The key is SHA-256 over an injective encoding of the fields below, method, target and the body.
``marshal`` (its version 2, which has neither references nor interning) writes every part with its
type and length, and reads back what it wrote: two requests that differ never encode alike. Nothing
is ever read back here. The body comes last, behind encodings that say where they end.

No credential is kept, here or in a key: only digests leave this module.
"""

from __future__ import annotations

from hashlib import blake2b, sha256
from marshal import dumps
from typing import Any, Final

from goproxyai.messages.headers import Fields, Headers, nominated_fields

KEY_FIELDS: Final = (
    b"authorization",
    b"content-type",
    b"accept",
    b"accept-encoding",
    b"accept-language",
    b"openai-organization",
    b"x-openai-organization",
    b"openai-project",
    b"openai-beta",
)
"""Lower-cased names of the request fields that an answer depends on."""

IDENTITY_FIELDS: Final = frozenset(
    (b"authorization", b"openai-organization", b"x-openai-organization", b"openai-project")
)
"""Those of them that say who asks; they do not count where answers are shared."""

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
    """The 32 bytes that an answer is stored under.

    Absent and empty fields differ, and so do two lines ``a``, ``b`` and one line ``a, b``. The case
    of names and the order among different names do not count, nor does a field that ``Connection``
    keeps from upstream.

    :param target: path and query, exactly as they are forwarded.
    :param repeated: whether any name came more than once, as :func:`~.headers.index_fields` says.
    :param shared: whether all credentials share the answer; such a key is no other request's.
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
    """The part of a key that a head makes; a copy of it, updated with a body, is the whole."""
    names = _SHARED_FIELDS if shared else KEY_FIELDS  # as many values as names: none is the other
    values: tuple[bytes | tuple[bytes, ...] | None, ...]
    if repeated or nominated_fields(fields):
        values = _careful_values(fields, headers, names)
    else:
        values = tuple([fields.get(name) for name in names])
    return sha256(dumps((method, target, values), 2))


def _careful_values(
    fields: Fields, headers: Headers, names: tuple[bytes, ...]
) -> tuple[bytes | tuple[bytes, ...] | None, ...]:
    """The same values for the same header, and a tuple of lines in place of a repeated field."""
    lines: dict[bytes, bytes | tuple[bytes, ...]] = {}
    wanted = _KEY_FIELDS - nominated_fields(fields)
    for spelled, value in headers:
        name = spelled.lower()
        if name in wanted:
            before = lines.get(name)
            if before is None:
                lines[name] = value
            elif isinstance(before, tuple):
                lines[name] = (*before, value)
            else:
                lines[name] = (before, value)
    return tuple([lines.get(name) for name in names])


def credential_id(fields: Fields) -> bytes:
    """The 16 bytes that name a credential, the value of ``Authorization``.

    An index, not a secret and not a check of one. Organization and project do not count: what a
    key writes on behalf of one may show in what it reads without naming it.
    """
    value = None if b"authorization" in nominated_fields(fields) else fields.get(b"authorization")
    return blake2b(dumps(value, 2), digest_size=16).digest()
