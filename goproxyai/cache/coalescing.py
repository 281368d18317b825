"""Which identical requests may share one upstream request while it is in flight (single flight).

==================================  ========================================================
GET, embeddings                     shared: the response is the same for each request
completions with ``temperature: 0`` shared: the request asks for a deterministic response
or an integer ``seed``
other completions                   not shared: two requests ask for two samples
==================================  ========================================================

This is ``COALESCE=deterministic``. ``COALESCE=all`` shares all of them, ``COALESCE=off`` none.
"""

from __future__ import annotations

import json
from typing import Final

COALESCE_MODES: Final = ("off", "deterministic", "all")
"""The values of ``COALESCE``."""

MAX_PARSED_BODY_BYTES: Final = 256 * 1024
"""A longer request body is not parsed and counts as not deterministic."""


def may_coalesce(mode: str, method: bytes, path: bytes) -> bool | None:
    """Whether requests of *method* and *path* share; ``None`` if :func:`is_deterministic` decides.

    :param mode: one of :data:`COALESCE_MODES`.
    :param path: path of a cacheable request, without the query.
    """
    if mode == "off":
        return False
    if mode == "all" or method == b"GET" or path == b"/v1/embeddings":
        return True
    return None


def is_deterministic(body: bytes) -> bool:
    """Whether the request body of a completion has a temperature of 0 or an integer seed."""
    if len(body) > MAX_PARSED_BODY_BYTES:
        return False
    # `in` takes 0.3 us longer for bytes, because it tries the name as a number before.
    text = body.decode("latin-1")
    if '"temperature"' not in text and '"seed"' not in text:
        return False
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(document, dict):
        return False
    return _is_zero(document.get("temperature")) or _is_integer(document.get("seed"))


def _is_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
