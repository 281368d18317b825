"""An OpenAI whose answers cost what depends on the question, and that keeps books."""

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
"""Tokens, by model and kind."""


def tokens_of(usage: dict[str, Any], model: str) -> UsageTotals:
    """What a ``usage`` object says, in the proxy's words."""
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
    """Sells tokens.

    :ivar sold: of all answers that said so. :ivar silent: answers that sold some, and did not.
    """

    def __init__(self) -> None:
        super().__init__(frames=5, interval=0.002)
        self.gzip = True
        self.sold: UsageTotals = Counter()
        self.silent = 0

    def _route(self, request: Request) -> Any:
        payload = super()._route(request)
        if isinstance(payload, dict) and "usage" in payload:
            self._sell(payload, request)
        elif isinstance(payload, list):
            spoken = [n for n, data in enumerate(payload) if b'"usage"' in data]
            for number in spoken:
                document = json.loads(payload[number].removeprefix(b"data: "))
                self._sell(document, request)
                payload[number] = event(document)
            self.silent += not spoken
        return payload

    def _sell(self, document: dict[str, Any], request: Request) -> None:
        """Let *document* say tokens of its own."""
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
FIRST = len(b"data: one\n\n")
"""Bytes of a stream that does not go on."""


def rehearse(upstream: FakeUpstream) -> Billing:
    """Let *upstream* sell tokens, and fail those who ask for that."""
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
