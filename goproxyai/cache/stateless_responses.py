"""Which requests to ``/v1/responses`` have nothing to do with state at the upstream.

The response to a request depends on its body alone, and the request changes nothing, if

============================ =========================================================
``store``                    is ``false``; the default stores the response
``background``               is absent, ``null`` or ``false``
``previous_response_id``,    are absent or ``null``: they refer to what upstream keeps
``conversation``, ``prompt``
``tools``                    are run by the client: types ``function`` and ``custom``. The hosted
                             ones search the web or files, or run code.
============================ =========================================================
"""

from __future__ import annotations

import json
from typing import Any, Final

RESPONSES_PATH: Final = b"/v1/responses"

MAX_PARSED_BODY_BYTES: Final = 128 * 1024
"""A longer request body is not parsed, and bypasses the cache.

The reactor stands still meanwhile: for 0.4 ms with 128 KiB of messages, 5 ms with empty objects.
"""

STATE_REASONS: Final = (
    "body", "store", "background", "previous_response_id", "conversation", "prompt", "tools",
)  # fmt: skip
"""The reasons of :func:`state_bypass`."""


class _RepeatedNameError(ValueError):
    """A name is repeated: parsers disagree on its value."""


def state_bypass(body: bytes) -> str | None:
    """Return why a request to ``/v1/responses`` bypasses the cache, or ``None``.

    :param body: the whole body of the request.
    :returns: the name of the field that refers to state; ``body`` if the body cannot be read.
    """
    if len(body) > MAX_PARSED_BODY_BYTES:
        return "body"
    try:
        document = json.loads(body, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return "body"
    if not isinstance(document, dict):
        return "body"
    if document.get("store") is not False:
        return "store"
    if not (document.get("background") is None or document["background"] is False):
        return "background"
    for name in ("previous_response_id", "conversation", "prompt"):
        if document.get(name) is not None:
            return name
    return None if _run_by_client(document.get("tools")) else "tools"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RepeatedNameError
    return found


def _run_by_client(tools: object) -> bool:
    if tools is None:
        return True
    return isinstance(tools, list) and all(
        isinstance(tool, dict) and tool.get("type") in ("function", "custom") for tool in tools
    )
