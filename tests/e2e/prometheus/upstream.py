"""A fake OpenAI API whose usage depends on the request, and which counts it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from tests.support.answers import chunk, event, head, response
from tests.support.openai_api import OpenAI
from tests.support.requests import Request
from tests.support.steps import Answer, Close, Pause, Reset, Wait
from tests.support.upstream import FakeUpstream

UsageTotals = Counter[tuple[str, str]]
"""Tokens by model and kind."""


def tokens_of(usage: dict[str, Any], model: str) -> UsageTotals:
    """The tokens of a ``usage`` object, by the metrics' labels."""
    return Counter(
        {
            (model, "prompt"): usage["prompt_tokens"],
            (model, "completion"): usage.get("completion_tokens", 0),
            (model, "cached"): usage["prompt_tokens_details"]["cached_tokens"],
            (model, "reasoning"): usage.get("completion_tokens_details", {}).get(
                "reasoning_tokens", 0
            ),
        }
    )


class Billing(OpenAI):
    """An API that counts tokens.

    :ivar sold: tokens of all answers with ``usage``.
    :ivar without_usage: the number of streams without ``usage``.
    """

    def __init__(self) -> None:
        super().__init__(frames=5, interval=0.002)
        self.gzip = True
        self.sold: UsageTotals = Counter()
        self.without_usage = 0

    def _route(self, request: Request) -> Any:
        payload = super()._route(request)
        if isinstance(payload, dict) and "usage" in payload:
            self._add_usage(payload, request)
        elif isinstance(payload, list):
            with_usage = [n for n, data in enumerate(payload) if b'"usage"' in data]
            for number in with_usage:
                document = json.loads(payload[number].removeprefix(b"data: "))
                self._add_usage(document, request)
                payload[number] = event(document)
            self.without_usage += not with_usage
        return payload

    def _add_usage(self, document: dict[str, Any], request: Request) -> None:
        """Replace the usage of *document* and count it."""
        prompt = 3 + request.body_length
        usage: dict[str, Any] = {"prompt_tokens": prompt}
        if "completion_tokens" in document["usage"]:
            completion = 7 + request.body_length % 50
            usage["completion_tokens"] = completion
            usage["total_tokens"] = prompt + completion
            usage["prompt_tokens_details"] = {"cached_tokens": prompt // 2}
            usage["completion_tokens_details"] = {"reasoning_tokens": completion // 3}
        else:
            usage["total_tokens"] = prompt
            usage["prompt_tokens_details"] = {"cached_tokens": 0}
        document["usage"] = usage
        self.sold += tokens_of(usage, document["model"])


STREAM = head(
    200, [(b"Content-Type", b"text/event-stream"), (b"Transfer-Encoding", b"chunked")]
) + chunk(b"data: one\n\n")  # fmt: skip
STREAM_BYTES = len(b"data: one\n\n")
"""The body bytes of :data:`STREAM`."""


def script_upstream(upstream: FakeUpstream) -> Billing:
    """Make *upstream* count tokens, and fail for targets with a certain query."""
    api = upstream.api = Billing()

    def ends(query: bytes) -> Any:
        return lambda request: request.target.endswith(query)

    def slowly(request: Request) -> Answer:
        return [Wait(0.05), response(b"{}")]

    upstream.script(ends(b"?slowly"), slowly)
    upstream.script(ends(b"?reset"), [Reset()])
    upstream.script(ends(b"?500"), response(b'{"error":{"code":null}}', 500))
    upstream.script(ends(b"?429"), response(b'{"error":{"code":null}}', 429))
    upstream.script(ends(b"?cut"), [STREAM, Wait(0.05), Close()])
    upstream.script(ends(b"?leave"), [STREAM, Pause()])
    return api
