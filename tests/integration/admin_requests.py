"""What the tests of the admin endpoints share."""

from __future__ import annotations

import json
from typing import Any

from tests.support.harness import Answer

FROM_ELSEWHERE = [("X-Forwarded-For", "203.0.113.9")]
"""Makes the client's address a public one: the loopback peer is a trusted proxy by default."""


def error_of(answer: Answer) -> dict[str, Any]:
    """Return the error document of *answer*, after checking its shape."""
    assert answer.all("Content-Type") == [b"application/json"]
    assert answer.all("X-Proxy") == [b"goproxyai"]
    document = json.loads(answer.body)
    assert list(document) == ["error"]
    error: dict[str, Any] = document["error"]
    assert set(error) == {"message", "type", "code"}
    assert error["type"] == "proxy_error"
    assert len(error["message"].split()) > 3
    return error
