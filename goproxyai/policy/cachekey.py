"""What makes two requests the same, and whose they are.

The key is SHA-256 over an injective encoding of method, target, the fields below and the body.
``marshal`` (its version 2, which has neither references nor interning) writes every part with its
type and length, and reads back what it wrote: two requests that differ never encode alike. Nothing
is ever read back here. The body comes last, behind an encoding that says where it ends.

No credential is kept, here or in a key: only digests leave this module.
"""

from __future__ import annotations

from hashlib import blake2b, sha256
from marshal import dumps
from typing import Final

from goproxyai.policy.headers import Fields, Headers, nominated

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

_KEY_FIELDS = frozenset(KEY_FIELDS)


def cache_key(
    method: bytes,
    target: bytes,
    fields: Fields,
    headers: Headers,
    repeated: bool,
    body: bytes,
) -> bytes:
    """The 32 bytes that an answer is stored under.

    Absent and empty fields differ, and so do two lines ``a``, ``b`` and one line ``a, b``. The case
    of names and the order among different names do not count, nor does a field that ``Connection``
    keeps from upstream.

    :param target: path and query, exactly as they are forwarded.
    :param repeated: whether any name came more than once, as :func:`~.headers.fields_of` says.
    """
    if repeated or nominated(fields):
        return _careful_key(method, target, fields, headers, body)
    get = fields.get
    digest = sha256(
        dumps(
            (
                method,
                target,
                get(b"authorization"),
                get(b"content-type"),
                get(b"accept"),
                get(b"accept-encoding"),
                get(b"accept-language"),
                get(b"openai-organization"),
                get(b"x-openai-organization"),
                get(b"openai-project"),
                get(b"openai-beta"),
            ),
            2,
        )
    )
    digest.update(body)
    return digest.digest()


def _careful_key(
    method: bytes, target: bytes, fields: Fields, headers: Headers, body: bytes
) -> bytes:
    """The same key for the same request, and a tuple of lines in place of a repeated field."""
    lines: dict[bytes, bytes | tuple[bytes, ...]] = {}
    wanted = _KEY_FIELDS - nominated(fields)
    for raw_name, value in headers:
        name = raw_name.lower()
        if name in wanted:
            before = lines.get(name)
            if before is None:
                lines[name] = value
            elif isinstance(before, tuple):
                lines[name] = (*before, value)
            else:
                lines[name] = (before, value)
    digest = sha256(dumps((method, target, *[lines.get(name) for name in KEY_FIELDS]), 2))
    digest.update(body)
    return digest.digest()


def credential(fields: Fields) -> bytes:
    """The 16 bytes that name a credential: ``Authorization``, organization and project.

    An index, not a secret and not a check of one.
    """
    away = nominated(fields)
    if away:
        fields = {name: value for name, value in fields.items() if name not in away}
    get = fields.get
    named = (
        get(b"authorization"),
        get(b"openai-organization"),
        get(b"x-openai-organization"),
        get(b"openai-project"),
    )
    return blake2b(dumps(named, 2), digest_size=16).digest()
