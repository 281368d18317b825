"""Requests of every kind, and the books of the clients that make them."""

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

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
THREADS = 8
PATIENCE = 20.0
GREEDY = "198.51.100.1"
"""The address of a client that asks for more than it may."""

LIMITED = "RATE_LIMIT_EXCEEDED"


@attrs.frozen
class Ask:
    """One request.

    :ivar route: what it is to be counted under.
    :ivar leaves: the client goes when it has got the first bytes.
    """

    method: str
    target: str
    route: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    leaves: bool = False


def get(target: str, route: str, *headers: tuple[str, str], method: str = "GET") -> Ask:
    return Ask(method, target, route, b"", headers)


def post(target: str, route: str, document: Any, *headers: tuple[str, str]) -> Ask:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Ask("POST", target, route, body, (("Content-Type", "application/json"), *headers))


def chat(content: str, **more: Any) -> dict[str, Any]:
    model = more.pop("model", "gpt-4o-mini")
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


ZIPPED = ("Accept-Encoding", "gzip")
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


def plan(seed: int = 1) -> list[Ask]:
    """Two thousand of them, in the order of *seed*."""
    number = range
    asks = [
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
        # What the cache is left aside for.
        *[get("/v1/models", "/v1/models", method="HEAD") for _ in number(40)],
        *[post("/v1/files", "/v1/files", b"x" * n) for n in number(30)],
        *[get(f"/v1/files/file-{n}", "/v1/files", method="DELETE") for n in number(20)],
        *[get("/v1/models", "/v1/models", ("Range", "bytes=0-9")) for _ in number(20)],
        *[get("/v1/models", "/v1/models", ("Cookie", f"a={n}")) for n in number(20)],
        # What clients do wrong.
        *[get("/nowhere", "other") for _ in number(30)],
        *[get(f"/v1/unknown/{n % 10}", "other") for n in number(30)],
        *[post("/health", "/health", b"") for _ in number(10)],
        *[post(CHAT, CHAT, b"{" * (1 + n % 3)) for n in number(20)],
        *[get("/v1/models", "/v1/models", ("Authorization", "Bearer sk-bad")) for _ in number(10)],
        *[get("/stats", "/stats") for _ in number(10)],
        *[get("/v1/models", "/v1/models", ("Via", "1.1 goproxyai")) for _ in number(10)],
        *[get(f"/v1/batches/{n}", "/v1/batches", ("Cache-Control", "only-if-cached"))
          for n in number(10)],
        *[get("/health", "/health") for _ in number(20)],
        *[get("/v1/models", "/v1/models", ("X-Forwarded-For", GREEDY)) for _ in number(100)],
        # What upstream does wrong, and clients that go.
        *[get(f"/v1/batches/{n}?reset", "/v1/batches") for n in number(15)],
        *[get(f"/v1/batches/{n}?500", "/v1/batches") for n in number(15)],
        *[get(f"/v1/batches/{n}?429", "/v1/batches") for n in number(10)],
        *[post(f"{CHAT}?cut", CHAT, chat(f"{n}")) for n in number(6)],
        *[attrs.evolve(post(f"{CHAT}?leave", CHAT, chat(f"{n}")), leaves=True) for n in number(4)],
    ]  # fmt: skip
    Random(seed).shuffle(asks)
    for group in number(5):  # at the same time, so that they share
        same = [get(f"/v1/batches/{group}?slowly", "/v1/batches")] * 6
        asks[group * 300 : group * 300] = same
    return asks


_TOLD = re.compile(r"goproxyai(?:; (hit))?(?:; fwd=(\w+))?(; collapsed)?(?:.*?; detail=([\w-]+))?")


def cache_of(status: str) -> str:
    """What the proxy counts an answer with that ``Cache-Status`` under."""
    match = _TOLD.match(status)
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
class Books:
    """What clients saw.

    :ivar requests: by route, method, status and cache. :ivar errors: the proxy's own, by code.
    :ivar saved: tokens of answers that upstream was not asked for.
    :ivar cut: answers that broke off. :ivar left: answers that were not waited for.
    """

    requests: Counter[tuple[str, str, str, str]] = attrs.field(factory=Counter)
    errors: Counter[str] = attrs.field(factory=Counter)
    saved: UsageTotals = attrs.field(factory=Counter)
    bytes_in: int = 0
    bytes_out: int = 0
    cut: int = 0
    left: int = 0

    def add(self, other: Books) -> None:
        """Those of another client, too."""
        self.requests += other.requests
        self.errors += other.errors
        self.saved += other.saved
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.cut += other.cut
        self.left += other.left

    def note(self, ask: Ask, answer: HTTPResponse, body: bytes) -> None:
        """One answer."""
        cache = cache_of(answer.headers["Cache-Status"] or "goproxyai")
        self.requests[ask.route, ask.method, str(answer.status), cache] += 1
        self.bytes_in += len(ask.body)
        self.bytes_out += len(body)
        if answer.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        if answer.status >= 400 and b'"code"' in body:
            error = json.loads(body)
            if b"proxy_error" in body or error.get("code") == LIMITED:
                self.errors[error.get("code") or error["error"]["code"]] += 1
        if cache in ("HIT", "COALESCED") and ask.method == "POST" and answer.status == 200:
            for document in _documents(body):
                if "usage" in document:
                    self.saved += tokens_of(document["usage"], document["model"])


def _documents(body: bytes) -> Iterator[Any]:
    """The JSON of an answer, or of each event of a stream."""
    if not body.startswith(b"data: "):
        yield json.loads(body)
        return
    for line in body.splitlines():
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))


class Client:
    """One after the other, on a connection that is kept.

    :param number: makes the address that it claims to be at.
    """

    def __init__(self, port: int, number: int) -> None:
        self.books = Books()
        self._connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._number = number
        self._asked = 0

    def work(self, asks: SimpleQueue[Ask]) -> Books:
        try:
            while True:
                self._ask(asks.get_nowait())
        except Empty:
            return self.books
        finally:
            self._connection.close()

    def _ask(self, ask: Ask) -> None:
        self._asked += 1
        headers = {
            "Authorization": "Bearer sk-good",
            "Accept-Encoding": "identity",
            # Never as many as may be, from one address.
            "X-Forwarded-For": f"192.0.2.{self._number * 30 + self._asked // 20}",
            **dict(ask.headers),
        }
        self._connection.request(ask.method, ask.target, ask.body or None, headers)
        answer = self._connection.getresponse()
        body = b""
        try:
            while data := answer.read1(65536):
                body += data
                if ask.leaves:
                    self.books.left += 1
                    answer.close()
                    self._connection.close()
                    break
            else:
                answer.read()  # nothing, and knows that it is the end
        except (HTTPException, ConnectionError):
            self.books.cut += 1
            self._connection.close()
        self.books.note(ask, answer, body)


def drive(port: int, asks: list[Ask]) -> Books:
    """Ask all of it, eight at a time."""
    queue: SimpleQueue[Ask] = SimpleQueue()
    for ask in asks:
        queue.put(ask)
    books = Books()
    clients = [Client(port, number) for number in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        for each in pool.map(lambda client: client.work(queue), clients):
            books.add(each)
    return books
