"""Requests of every kind, and the counts of the clients that send them."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPResponse
from queue import Empty, SimpleQueue
from random import Random
from typing import Any

import attrs

from tests.e2e.prometheus.upstream import UsageTotals, tokens_of
from tests.support.raw_client import LOOPED_VIA

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
THREADS = 8
TIMEOUT_SECONDS = 20.0
LIMITED_CLIENT = "198.51.100.1"
"""The address of a client that exceeds its rate limit."""

LIMITED = "RATE_LIMIT_EXCEEDED"


@attrs.frozen
class PlannedRequest:
    """One request.

    :ivar route: the value of the metrics' label ``route``.
    :ivar leave_early: whether the client disconnects after the first bytes of the answer.
    """

    method: str
    target: str
    route: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    leave_early: bool = False


def get(target: str, route: str, *headers: tuple[str, str], method: str = "GET") -> PlannedRequest:
    return PlannedRequest(method, target, route, b"", headers)


def post(target: str, route: str, document: Any, *headers: tuple[str, str]) -> PlannedRequest:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return PlannedRequest(
        "POST", target, route, body, (("Content-Type", "application/json"), *headers)
    )


def chat(content: str, **more: Any) -> dict[str, Any]:
    model = more.pop("model", "gpt-4o-mini")
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


ZIPPED = ("Accept-Encoding", "gzip")
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


def plan_requests(seed: int = 1) -> list[PlannedRequest]:
    """The 2,000 requests of the load, in an order drawn from *seed*."""
    number = range
    planned_requests = [
        *[get("/v1/models", "/v1/models") for _ in number(230)],
        *[get("/v1/models/gpt-4o", "/v1/models", ZIPPED) for _ in number(150)],
        *[post(CHAT, CHAT, chat(f"{n % 40}", temperature=0)) for n in number(420)],
        *[post(CHAT, CHAT, chat(f"{n}", model="gpt-4o")) for n in number(160)],
        *[post(CHAT, CHAT, chat(f"{n % 50}", seed=1), ZIPPED) for n in number(150)],
        *[post(CHAT, CHAT, chat(f"{n % 20}", temperature=0, **STREAMED)) for n in number(120)],
        *[post(CHAT, CHAT, chat(f"{n % 40}", stream=True)) for n in number(60)],
        *[post(CHAT, CHAT, chat(f"{n}"), ("Cache-Control", "no-store")) for n in number(40)],
        *[post(CHAT, CHAT, chat(f"{n}", temperature=0), ("Cache-Control", "no-cache"))
          for n in number(40)],
        *[post("/v1/completions", "/v1/completions", {"model": "gpt-4o", "prompt": f"{n % 10}"})
          for n in number(30)],
        *[post(EMBEDDINGS, EMBEDDINGS, {"model": "text-embedding-3-small", "input": f"{n % 30}"},
               *[ZIPPED] * (n % 2)) for n in number(140)],
        # Requests that bypass the cache.
        *[get("/v1/models", "/v1/models", method="HEAD") for _ in number(40)],
        *[post("/v1/files", "/v1/files", b"x" * n) for n in number(30)],
        *[get(f"/v1/files/file-{n}", "/v1/files", method="DELETE") for n in number(20)],
        *[get("/v1/models", "/v1/models", ("Range", "bytes=0-9")) for _ in number(20)],
        *[get("/v1/models", "/v1/models", ("Cookie", f"a={n}")) for n in number(20)],
        # Errors of clients.
        *[get("/nowhere", "other") for _ in number(30)],
        *[get(f"/v1/unknown/{n % 10}", "other") for n in number(30)],
        *[post("/health", "/health", b"") for _ in number(10)],
        *[post(CHAT, CHAT, b"{" * (1 + n % 3)) for n in number(20)],
        *[get("/v1/models", "/v1/models", ("Authorization", "Bearer sk-bad")) for _ in number(10)],
        *[get("/stats", "/stats") for _ in number(10)],
        *[get("/v1/models", "/v1/models", ("Via", LOOPED_VIA)) for _ in number(10)],
        *[get(f"/v1/batches/{n}", "/v1/batches", ("Cache-Control", "only-if-cached"))
          for n in number(10)],
        *[get("/health", "/health") for _ in number(20)],
        *[get("/v1/models", "/v1/models", ("X-Forwarded-For", LIMITED_CLIENT))
          for _ in number(100)],
        # Errors of the upstream, and clients that disconnect.
        *[get(f"/v1/batches/{n}?reset", "/v1/batches") for n in number(15)],
        *[get(f"/v1/batches/{n}?500", "/v1/batches") for n in number(15)],
        *[get(f"/v1/batches/{n}?429", "/v1/batches") for n in number(10)],
        *[post(f"{CHAT}?cut", CHAT, chat(f"{n}")) for n in number(6)],
        *[attrs.evolve(post(f"{CHAT}?leave", CHAT, chat(f"{n}")), leave_early=True)
          for n in number(4)],
    ]  # fmt: skip
    Random(seed).shuffle(planned_requests)
    for group in number(5):  # identical requests at the same time share one answer
        same = [get(f"/v1/batches/{group}?slowly", "/v1/batches")] * 6
        planned_requests[group * 300 : group * 300] = same
    return planned_requests


_CACHE_STATUS = re.compile(
    r"goproxyai(?:; (hit))?(?:; fwd=(\w+))?(; collapsed)?(?:.*?; detail=([\w-]+))?"
)


def cache_of(status: str) -> str:
    """The value of the metrics' label ``cache`` for an answer with that ``Cache-Status``."""
    match = _CACHE_STATUS.match(status)
    assert match is not None, status
    hit, forwarded, collapsed, detail = match.groups()
    if hit:
        return "STALE" if detail == "stale-if-error" else "HIT"
    if forwarded == "bypass":
        return detail or "?"
    if forwarded:
        return "COALESCED" if collapsed else "MISS"
    return "-"


@attrs.define
class ClientCounts:
    """What clients sent and received.

    :ivar requests: by route, method, status and cache.
    :ivar errors: the proxy's errors by code.
    :ivar saved: tokens of answers from the cache or from shared upstream requests.
    :ivar cut: truncated answers.
    :ivar left: answers during which the client disconnected.
    """

    requests: Counter[tuple[str, str, str, str]] = attrs.field(factory=Counter)
    errors: Counter[str] = attrs.field(factory=Counter)
    saved: UsageTotals = attrs.field(factory=Counter)
    bytes_in: int = 0
    bytes_out: int = 0
    cut: int = 0
    left: int = 0

    def add(self, other: ClientCounts) -> None:
        """Add the counts of another client."""
        self.requests += other.requests
        self.errors += other.errors
        self.saved += other.saved
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.cut += other.cut
        self.left += other.left

    def note(self, planned: PlannedRequest, answer: HTTPResponse, body: bytes) -> None:
        """Count one answer."""
        cache = cache_of(answer.headers["Cache-Status"] or "goproxyai")
        self.requests[planned.route, planned.method, str(answer.status), cache] += 1
        self.bytes_in += len(planned.body)
        self.bytes_out += len(body)
        if answer.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        if answer.status >= 400 and b'"code"' in body:
            error = json.loads(body)
            if b"proxy_error" in body or error.get("code") == LIMITED:
                self.errors[error.get("code") or error["error"]["code"]] += 1
        if cache in ("HIT", "COALESCED") and planned.method == "POST" and answer.status == 200:
            for document in _json_documents(body):
                if "usage" in document:
                    self.saved += tokens_of(document["usage"], document["model"])


def _json_documents(body: bytes) -> Iterator[Any]:
    """The document of an answer, or of each event of a stream."""
    if not body.startswith(b"data: "):
        yield json.loads(body)
        return
    for line in body.splitlines():
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))


class LoadClient:
    """Sends requests one after the other on one connection.

    :param number: determines the client's address in ``X-Forwarded-For``.
    """

    def __init__(self, port: int, number: int) -> None:
        self.counts = ClientCounts()
        self._connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        self._number = number
        self._sent = 0

    def work(self, planned_requests: SimpleQueue[PlannedRequest]) -> ClientCounts:
        try:
            while True:
                self._send(planned_requests.get_nowait())
        except Empty:
            return self.counts
        finally:
            self._connection.close()

    def _send(self, planned: PlannedRequest) -> None:
        self._sent += 1
        headers = {
            "Authorization": "Bearer sk-good",
            "Accept-Encoding": "identity",
            # Few enough requests of each address for its rate limit.
            "X-Forwarded-For": f"192.0.2.{self._number * 30 + self._sent // 20}",
            **dict(planned.headers),
        }
        self._connection.request(planned.method, planned.target, planned.body or None, headers)
        answer = self._connection.getresponse()
        body = b""
        try:
            while data := answer.read1(65536):
                body += data
                if planned.leave_early:
                    self.counts.left += 1
                    answer.close()
                    self._connection.close()
                    break
            else:
                answer.read()  # http.client notices the end of the answer here
        except (HTTPException, ConnectionError):
            self.counts.cut += 1
            self._connection.close()
        self.counts.note(planned, answer, body)


def run_load(port: int, planned_requests: list[PlannedRequest]) -> ClientCounts:
    """Send all requests, with :data:`THREADS` clients."""
    queue: SimpleQueue[PlannedRequest] = SimpleQueue()
    for planned in planned_requests:
        queue.put(planned)
    counts = ClientCounts()
    clients = [LoadClient(port, number) for number in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        for each in pool.map(lambda client: client.work(queue), clients):
            counts.add(each)
    return counts
