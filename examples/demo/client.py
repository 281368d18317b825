"""The official client, with the times of each request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import attrs
import openai

GOOD_KEY, WRONG_KEY = "sk-good-demo", "sk-wrong-demo"


@attrs.frozen
class Outcome:
    """The answer to a request.

    :ivar value: the parsed answer, the error that the client raised, or the text of a stream.
    :ivar first: seconds until the first event of a stream, or the headers of another answer.
    :ivar total: seconds until the end of the answer.
    """

    line: str
    status: int
    headers: Mapping[str, str]
    value: Any
    first: float
    total: float


class TimedClient:
    """Sends requests to the daemon at *root*, without retries or proxies from the environment."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._began_at = self._head_at = 0.0
        hooks: dict[str, list[Callable[..., Any]]] = {
            "request": [self._request_sent],
            "response": [self._head_received],
        }
        self._http = openai.DefaultHttpxClient(trust_env=False, timeout=10, event_hooks=hooks)
        self.api = openai.OpenAI(
            api_key=GOOD_KEY, base_url=f"{root}/v1", http_client=self._http, max_retries=0
        )
        self.wrong_key_api = self.api.with_options(api_key=WRONG_KEY)

    def __enter__(self) -> TimedClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def call(self, method: Callable[[], Any]) -> Outcome:
        """Call *method*, one of the API's ``with_raw_response`` methods."""
        try:
            raw = method()
        except openai.APIStatusError as error:
            return self._outcome(error.response, error)
        value = raw.parse()
        if isinstance(value, openai.Stream):
            return self._read(raw.http_response, value)
        return self._outcome(raw.http_response, value)

    def request_daemon(self, method: str, path: str) -> Outcome:
        """Send a request to one of the daemon's own endpoints."""
        response = self._http.request(method, self._root + path)
        return self._outcome(response, response.json())

    def _request_sent(self, request: Any) -> None:
        self._began_at = time.perf_counter()

    def _head_received(self, response: Any) -> None:
        self._head_at = time.perf_counter()

    def _read(self, response: Any, stream: openai.Stream[Any]) -> Outcome:
        text, first = "", 0.0
        for event in stream:
            first = first or time.perf_counter()
            text += event.choices[0].delta.content or ""
        return self._outcome(response, text, first)

    def _outcome(self, response: Any, value: Any, first: float = 0.0) -> Outcome:
        return Outcome(
            line=f"{response.request.method} {response.request.url.path}",
            status=response.status_code,
            headers=response.headers,
            value=value,
            first=(first or self._head_at) - self._began_at,
            total=time.perf_counter() - self._began_at,
        )
