"""Which requests may share one upstream request while it is under way.

==================================  ==========================================================
GET, embeddings                     yes: the answer does not depend on who asks first
completions, ``temperature: 0`` or  yes: deterministic by the request's own words
an integer ``seed``
completions otherwise               no: whoever asks for two samples at once wants two;
                                    ``COALESCE=all`` says otherwise, ``off`` shares nothing
==================================  ==========================================================
"""

from __future__ import annotations

import json
from typing import Final

COALESCE_MODES: Final = ("off", "deterministic", "all")
"""What ``COALESCE`` may be."""

MAX_PARSED_BODY_BYTES: Final = 256 * 1024
"""Bytes of a request that is read for its own words; a larger one is taken to want its own."""


def may_coalesce(sharing: str, method: bytes, path: bytes) -> bool | None:
    """Whether requests with that head share; ``None`` where :func:`is_deterministic` decides.

    :param sharing: of :data:`COALESCE_MODES`. :param path: of a request that may be cached.
    """
    if sharing == "off":
        return False
    if sharing == "all" or method == b"GET" or path == b"/v1/embeddings":
        return True
    return None


def is_deterministic(body: bytes) -> bool:
    """Whether a completion's request says that its answer is always the same."""
    if b'"temperature"' not in body and b'"seed"' not in body:
        return False
    if len(body) > MAX_PARSED_BODY_BYTES:
        return False
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(document, dict):
        return False
    return _is_zero(document.get("temperature")) or _is_whole(document.get("seed"))


def _is_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
