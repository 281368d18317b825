"""Which requests are writes, and which cached GETs a successful write drops.

A write may change the response to any GET of the same credential: a file that is deleted is also
missing from the list of files, from a vector store and from the content of a batch. So a write
drops all cached GETs of its credential. The models are the exception, because they are the most
requested and change rarely:

============================================== =================================================
successful request                             drops of the same credential
============================================== =================================================
GET, HEAD, OPTIONS                             nothing
POST to one of :data:`COMPUTATIONS`            nothing
POST to one of :data:`STORED_BY_REQUEST`       nothing, or all GETs but those of models: the
                                               ``store`` of its body decides
other POST, PUT, PATCH, DELETE                 all GETs but those of models
the same, with a segment ``models`` or         all GETs
``fine_tuning`` in the path
============================================== =================================================

The paths are those of the API reference without ``/v1/``. Under another relayed prefix, such as
``/openai/deployments/gpt/``, a path counts if it ends in one of them. POST requests that are not
listed are writes, also those of endpoints that are not known yet.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Final

from goproxyai.cache.coalescing import MAX_PARSED_BODY_BYTES

COMPUTATIONS: Final = (
    b"embeddings",
    b"moderations",
    b"audio/speech",
    b"audio/transcriptions",
    b"audio/translations",
    b"images/generations",
    b"images/edits",
    b"images/variations",
    b"responses/input_tokens",
    b"fine_tuning/alpha/graders/run",
    b"fine_tuning/alpha/graders/validate",
)
"""POST endpoints that change nothing that a GET returns.

``vector_stores/{id}/search`` is not one: it sets ``last_active_at`` of the vector store.
"""

STORED_BY_REQUEST: Final = {b"chat/completions": False, b"completions": False, b"responses": True}
"""POST endpoints that keep the response if ``store`` says so, and the default of ``store``."""

_WRITE_METHODS = frozenset((b"PUT", b"PATCH", b"DELETE"))
_MODEL_SEGMENTS = frozenset((b"models", b"fine_tuning"))
_V1 = b"/v1/"
_NUL, _BACKSLASH = b"\0\\"  # a number is found in a tenth of the time that a byte string takes


def is_write(method: bytes, path: bytes) -> bool:
    """Whether a request may change the responses to GETs.

    :func:`stores_by_default` says whether the body of the request decides.

    :param path: without the query.
    """
    if method == b"POST":
        return not _ends_in_any(path, COMPUTATIONS)
    return method in _WRITE_METHODS


def stores_by_default(method: bytes, path: bytes) -> bool | None:
    """Return the default of ``store``; ``None`` if the endpoint does not have it.

    :param path: without the query.
    """
    if method == b"POST":
        for endpoint, default in STORED_BY_REQUEST.items():
            if _ends_in_any(path, (endpoint,)):
                return default
    return None


def asks_to_store(body: bytes, default: bool) -> bool:
    """Whether the request with *body* asks upstream to keep the response.

    A body in which ``store`` cannot be read reliably counts as one that does: a long one, one with
    escaped letters, in UTF-16, without valid JSON, or with several values.

    :param default: of the endpoint, made by :func:`stores_by_default`.
    """
    is_long = len(body) > MAX_PARSED_BODY_BYTES
    # Text is searched faster, see `is_deterministic`; a long body is not copied for it.
    is_named = b'"store"' in body if is_long else '"store"' in body.decode("latin-1")
    if not is_named and _NUL not in body:
        if _BACKSLASH not in body or not has_escaped_letters(body):
            return default
    if is_long:
        return True
    try:
        document = json.loads(body, object_pairs_hook=tuple)  # keeps repeated names
    except (ValueError, RecursionError):
        return True
    if not isinstance(document, tuple):
        return True
    values = [value for name, value in document if name == "store"]
    return any(default if value is None else value is not False for value in values or [None])


def has_escaped_letters(body: bytes) -> bool:
    """Whether JSON may contain a name whose letters are written as escape sequences."""
    return _BACKSLASH in body and b"\\u00" in body and (b"\\u006" in body or b"\\u007" in body)


def owner_of(credential: bytes, path: bytes) -> bytes:
    """Return the owner of the response to a GET: the GETs that the same writes drop.

    :param credential: made by :func:`~.key.credential_id`, or another name.
    :param path: without the query.
    """
    return _owner_of_models(credential) if _is_of_models(path) else credential


def written_owners(credential: bytes, path: bytes) -> tuple[bytes, ...]:
    """Return the owners whose GETs a write drops.

    :param path: of the write, without the query.
    """
    if _MODEL_SEGMENTS.isdisjoint(path.split(b"/")):
        return (credential,)
    return credential, _owner_of_models(credential)


def _is_of_models(path: bytes) -> bool:
    return path == b"/v1/models" or path.startswith(b"/v1/models/")


def _owner_of_models(credential: bytes) -> bytes:
    return blake2b(credential, digest_size=16, person=b"models").digest()


def _ends_in_any(path: bytes, endpoints: tuple[bytes, ...]) -> bool:
    """Whether *path* is one of *endpoints* under ``/v1/``, or ends in one under another prefix."""
    if path.startswith(_V1):
        return path[len(_V1) :] in endpoints
    return any(path.endswith(b"/" + endpoint) for endpoint in endpoints)
