"""The official client, and a watch that is held beside it."""

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
    """What came of a request.

    :ivar value: the parsed answer, the error that the client raised, or a stream's text.
    :ivar first: seconds until the first event of a stream, or an answer's headers.
    :ivar total: seconds until its end.
    """

    line: str
    status: int
    headers: Mapping[str, str]
    value: Any
    first: float
    total: float


class Client:
    """Drives the daemon at *root*; nothing is retried, no proxy of the environment is used."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._began = self._headed = 0.0
        hooks: dict[str, list[Callable[..., Any]]] = {
            "request": [self._asked],
            "response": [self._answered],
        }
        self._http = openai.DefaultHttpxClient(trust_env=False, timeout=10, event_hooks=hooks)
        self.api = openai.OpenAI(
            api_key=GOOD_KEY, base_url=f"{root}/v1", http_client=self._http, max_retries=0
        )
        self.stranger = self.api.with_options(api_key=WRONG_KEY)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def ask(self, call: Callable[[], Any]) -> Outcome:
        """The outcome of *call*, which is one of the API's ``with_raw_response`` methods."""
        try:
            raw = call()
        except openai.APIStatusError as error:
            return self._outcome(error.response, error)
        value = raw.parse()
        if isinstance(value, openai.Stream):
            return self._read(raw.http_response, value)
        return self._outcome(raw.http_response, value)

    def visit(self, method: str, path: str) -> Outcome:
        """Ask the daemon itself for something."""
        response = self._http.request(method, self._root + path)
        return self._outcome(response, response.json())

    def _asked(self, request: Any) -> None:
        self._began = time.perf_counter()

    def _answered(self, response: Any) -> None:
        self._headed = time.perf_counter()

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
            first=(first or self._headed) - self._began,
            total=time.perf_counter() - self._began,
        )
