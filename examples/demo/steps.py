"""The steps of the demo, and the checks of their results.

The rate limit is reached last, because it refuses all later requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai

from examples.demo.client import GOOD_KEY, Outcome, TimedClient
from examples.demo.servers import HOST, PASSWORD, RATE_LIMIT, FakeServers
from examples.demo.table import Table
from tests.support.requests import Request

UPLOAD_BYTES = 8 * 1024 * 1024
MESSAGES: Any = [{"role": "user", "content": "What is a relay?"}]

ANY = "anything"
"""Any value of ``X-Cache``, or none."""

Check = tuple[bool, str]
"""Whether a property holds, and the problem if it does not."""


class StepRunner:
    """Sends requests, checks the answers and adds rows to the table.

    :ivar upstream_requests: the requests that reached the upstream in the last step.
    """

    def __init__(self, servers: FakeServers, table: Table) -> None:
        self._servers = servers
        self._table = table
        self.upstream_requests: list[Request] = []

    def run(
        self,
        step: str,
        send: Callable[[], Outcome],
        *,
        status: int = 200,
        cache: str | None = None,
        upstream: int = 0,
        check: Callable[[Outcome], list[Check]] = lambda outcome: [],
    ) -> Outcome:
        """Run one step.

        :param send: sends the request.
        :param status: the expected status.
        :param cache: the expected ``X-Cache``; ``None`` for no such header.
        :param upstream: the expected number of requests that reach the upstream.
        :param check: further checks of the outcome.
        """
        before = len(self._servers.requests())
        outcome = send()
        self.upstream_requests = self._servers.requests()[before:]
        x_cache, count = outcome.headers.get("x-cache"), len(self.upstream_requests)
        checks: list[Check] = [
            (outcome.status == status, f"status {outcome.status}, not {status}: {outcome.value}"),
            (cache in (x_cache, ANY), f"X-Cache {x_cache}, not {cache}"),
            (count == upstream, f"{count} requests upstream, not {upstream}"),
            *(each for request in self.upstream_requests for each in self._relayed(request)),
        ]
        if outcome.status == status:
            checks += check(outcome)
        tunnels = {self._servers.tunnel_of(request) for request in self.upstream_requests}
        problems = [problem for holds, problem in checks if not holds]
        self._table.add_request(step, outcome, count, tunnels, problems)
        return outcome

    def _relayed(self, request: Request) -> list[Check]:
        """The checks of every request that reaches the upstream."""
        return [
            (self._servers.tunnel_of(request) is not None, "it did not use the tunnel"),
            (request.all(b"host") == [HOST.encode()], f"Host is {request.all(b'host')}"),
            (not request.all(b"proxy-authorization"), "the upstream got the proxy's password"),
        ]


def run_steps(servers: FakeServers, client: TimedClient, table: Table) -> None:
    runner = StepRunner(servers, table)
    runner.run("health", lambda: client.request_daemon("GET", "/health"), check=_healthy)
    _models(runner, client)
    _chat(runner, client)
    _stream(runner, client)
    _embeddings(runner, client)
    _files(runner, client)
    runner.run(
        "a wrong key",
        lambda: client.call(client.wrong_key_api.models.with_raw_response.list),
        status=401, cache="MISS", upstream=1,
        check=lambda outcome: [
            (isinstance(outcome.value, openai.AuthenticationError), "not an AuthenticationError")
        ],
    )  # fmt: skip
    runner.run("clear the cache", lambda: client.request_daemon("DELETE", "/cache"))
    _rate_limit(runner, client)
    runner.run("statistics", lambda: client.request_daemon("GET", "/stats"), check=_statistics)
    table.add_note("CONNECT", *_egress(servers))


def _healthy(outcome: Outcome) -> list[Check]:
    return [
        (outcome.value.get("status") == "healthy", f"it says {outcome.value}"),
        (outcome.value.get("service") == "openai-proxy", f"it says {outcome.value}"),
    ]


def _models(runner: StepRunner, client: TimedClient) -> None:
    def send() -> Outcome:
        return client.call(client.api.models.with_raw_response.list)

    miss = runner.run("models", send, cache="MISS", upstream=1, check=lambda outcome: [
        (outcome.headers.get("x-request-id", "").startswith("req_"), "no x-request-id"),
        (outcome.headers.get("x-proxy") == "goproxyai", "no X-Proxy"),
        (_key(runner.upstream_requests[0]) == GOOD_KEY, "another key"),
    ])  # fmt: skip
    runner.run("models again", send, cache="HIT", check=lambda outcome: _same(miss, outcome))


def _chat(runner: StepRunner, client: TimedClient) -> None:
    def send() -> Outcome:
        create = client.api.chat.completions.with_raw_response.create
        return client.call(lambda: create(model="gpt-6-luna", messages=MESSAGES))

    miss = runner.run("chat", send, cache="MISS", upstream=1, check=lambda outcome: [
        (bool(outcome.value.choices[0].message.content), "no content"),
    ])  # fmt: skip
    runner.run("chat again", send, cache="HIT", check=lambda outcome: _same(miss, outcome))


def _stream(runner: StepRunner, client: TimedClient) -> None:
    def send() -> Outcome:
        create = client.api.chat.completions.with_raw_response.create
        return client.call(lambda: create(model="gpt-6-luna", messages=MESSAGES, stream=True))

    miss = runner.run("streamed chat", send, cache="MISS", upstream=1, check=lambda outcome: [
        (bool(outcome.value), "no content"),
        (outcome.first < outcome.total - 0.2, "the events were not relayed immediately"),
    ])  # fmt: skip
    runner.run("streamed chat again", send, cache="HIT", check=lambda outcome: [
        *_same(miss, outcome),
        (outcome.total < miss.total / 2, "the replay takes as long as the original"),
    ])  # fmt: skip


def _embeddings(runner: StepRunner, client: TimedClient) -> None:
    def send() -> Outcome:
        create = client.api.embeddings.with_raw_response.create
        return client.call(lambda: create(model="text-embedding-3-small", input=["one", "two"]))

    miss = runner.run("embeddings", send, cache="MISS", upstream=1, check=lambda outcome: [
        ([len(each.embedding) for each in outcome.value.data] == [16, 16], "wrong vectors"),
    ])  # fmt: skip
    runner.run("embeddings again", send, cache="HIT", check=lambda outcome: _same(miss, outcome))


def _files(runner: StepRunner, client: TimedClient) -> None:
    files = client.api.files.with_raw_response
    content = b'{"n": 1}' * (UPLOAD_BYTES // 8)

    def upload() -> Outcome:
        return client.call(lambda: files.create(file=("demo.jsonl", content), purpose="batch"))

    done = runner.run("upload of 8 MB", upload, cache="MISS", upstream=1, check=lambda outcome: [
        (runner.upstream_requests[0].body_length > UPLOAD_BYTES, "the upload was truncated"),
        (outcome.value.bytes == runner.upstream_requests[0].body_length, "another size"),
        (outcome.value.filename == "demo.jsonl", "another name"),
    ])  # fmt: skip
    if done.status != 200:
        return
    name = done.value.id

    def retrieve() -> Outcome:
        return client.call(lambda: files.retrieve(name))

    miss = runner.run("the file", retrieve, cache="MISS", upstream=1)
    runner.run("the file again", retrieve, cache="HIT", check=lambda outcome: _same(miss, outcome))
    runner.run(
        "delete the file", lambda: client.call(lambda: files.delete(name)),
        cache="MISS", upstream=1,
        check=lambda outcome: [(outcome.value.deleted, "not deleted")],
    )  # fmt: skip
    runner.run("the file is gone", retrieve, status=404, cache="MISS", upstream=1)


def _rate_limit(runner: StepRunner, client: TimedClient) -> None:
    """Send requests until one is refused, which takes seconds at this limit."""

    def send() -> Outcome:
        return client.call(client.api.models.with_raw_response.list)

    runner.run("models, cache cleared", send, cache="MISS", upstream=1)

    def until_refused() -> Outcome:
        for _ in range(RATE_LIMIT * 3):
            outcome = send()
            if outcome.status != 200:
                break
        return outcome

    runner.run("models until refused", until_refused, status=429, cache=ANY, check=lambda outcome: [
        (isinstance(outcome.value, openai.RateLimitError), "not a RateLimitError"),
        (int(outcome.headers.get("retry-after", 0)) >= 1, "no Retry-After"),
        (int(outcome.headers.get("retry-after-ms", 0)) >= 1, "no retry-after-ms"),
        (outcome.value.response.json().get("code") == "RATE_LIMIT_EXCEEDED", "another body"),
    ])  # fmt: skip


def _statistics(outcome: Outcome) -> list[Check]:
    cache = outcome.value.get("cache", {})
    return [
        (cache.get("item_count") == 1, f"{cache.get('item_count')} items, not 1"),
        (
            outcome.value.get("rate_limit") == RATE_LIMIT,
            f"rate_limit {outcome.value.get('rate_limit')}",
        ),
        (outcome.value.get("openai_url") == f"https://{HOST}", f"openai_url {outcome.value}"),
        (PASSWORD not in str(outcome.value), "it has the proxy's password"),
    ]


def _egress(servers: FakeServers) -> tuple[bool, str]:
    """Whether the egress proxy got CONNECT requests only, and the number of tunnels."""
    lines = {request.line for request in servers.proxy.requests}
    right = lines == {f"CONNECT {HOST}:443"} and not servers.upstream.malformed
    return right, f"tunnels: {len(servers.proxy.tunnels)}" if right else str(lines)


def _same(miss: Outcome, hit: Outcome) -> list[Check]:
    """A hit equals the stored answer, and has its time."""
    parts = ("x-request-id", "content-type", "date", "openai-processing-ms")
    return [
        (_plain(hit.value) == _plain(miss.value), "the answer differs"),
        *((hit.headers.get(part) == miss.headers.get(part), f"another {part}") for part in parts),
        ("x-cache-timestamp" in hit.headers, "no X-Cache-Timestamp"),
    ]


def _key(request: Request) -> str:
    return (request.header(b"authorization") or b"").decode().removeprefix("Bearer ")


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value
