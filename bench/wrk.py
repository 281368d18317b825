"""Runs wrk at the maximum rate, and checks the answers."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator

from bench.machine import HERE, LOAD_CORE, Failed, environment, pinned, tool

CONNECTIONS = 32

COMPLETION = (
    '{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion",'
    '"created":1741569952,"model":"gpt-4.1-2025-04-14","choices":[{"index":0,"message":'
    '{"role":"assistant","content":"Hello! How can I assist you today?","refusal":null,'
    '"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,'
    '"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":0}},"service_tier":"default"}'
)
MODELS = '{"object":"list","data":[{"id":"gpt-4.1","object":"model","owned_by":"system"}]}'
HEADERS = {"Authorization": "Bearer sk-bench", "Content-Type": "application/json"}

_VARIABLE = "\0"
"""The placeholder for the part of a request that varies."""

_new_clients = itertools.count()


@dataclasses.dataclass(frozen=True)
class Load:
    """One request, or several variants of it.

    ``answer`` is the expected body. With more than one of ``variants``, the requests differ in what
    ``vary`` names, ``body`` or ``client`` (the client's address): in turn from ``first`` on, or in
    random order with ``shuffle``.
    """

    target: str
    body: str
    answer: str
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    vary: str = ""
    variants: int = 1
    first: int = 0
    shuffle: bool = False

    def text(self) -> str:
        """The request, with ``_VARIABLE`` as its varying part."""
        fields = {"Host": "127.0.0.1", **HEADERS, **self.headers}
        body = self.body
        if self.vary == "client":
            fields["X-Forwarded-For"] = _VARIABLE
        if self.vary == "body":
            body = body.replace("Hello!", f"Hello {_VARIABLE}!")
        if body:
            fields["Content-Length"] = str(len(body.replace(_VARIABLE, "0000000")))
        lines = [f"{'POST' if body else 'GET'} {self.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return "\r\n".join(lines) + "\r\n\r\n" + body

    def one(self) -> bytes:
        """The bytes of the first variant; if clients vary, with an unused client address."""
        number = next(_new_clients) if self.vary == "client" else 0
        address = f"10.255.{number // 256}.{number % 256}"
        variant = address if self.vary == "client" else "0000000"
        return self.text().replace(_VARIABLE, variant).encode()


QUESTION = '{"model":"gpt-4.1","messages":[{"role":"user","content":"Hello!"}]}'
SMALL = Load("/v1/chat/completions", QUESTION, COMPLETION)

LARGE_IN, LARGE_OUT = 32 * 1024, 64 * 1024
LARGE_ANSWER = COMPLETION.replace("Hello!", "Hello! " + "a" * (LARGE_OUT - len(COMPLETION) - 1))
LARGE = Load(
    "/v1/completions",
    QUESTION.replace("Hello!", "Hello! " + "q" * (LARGE_IN - len(QUESTION) - 1)),
    LARGE_ANSWER,
)


@contextlib.contextmanager
def connected(port: int, secure: bool) -> Iterator[socket.socket]:
    """A connection, with TLS if *secure*; the certificate is not verified, as by wrk."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        if not secure:
            yield connection
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(connection) as wrapped:
            yield wrapped


def exchange(port: int, request: bytes, secure: bool = False) -> bytes:
    """Send one request on a new connection and return the response, which must be a 200."""
    with connected(port, secure) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                if not (line := stream.readline()):
                    raise Failed(f"the connection closed within the headers: {head[:300]!r}")
                head += line
            if not head.startswith(b"HTTP/1.1 200 "):
                raise Failed(f"the status is not 200: {head[:300]!r} {stream.read1(300)!r}")
            if length := re.search(rb"(?i)\r\ncontent-length: *(\d+)\r\n", head):
                return head + stream.read(int(length[1]))
            body = b""
            while size := int(stream.readline() or b"", 16):
                body += stream.read(size)
                stream.readline()
            return head + body


def get(port: int, target: str, secure: bool = False) -> bytes:
    """The body of the answer to a GET."""
    return exchange(port, Load(target, "", "").one(), secure).partition(b"\r\n\r\n")[2]


def relays(port: int) -> bool:
    """Whether a daemon relays the list of models."""
    return get(port, "/v1/models") == MODELS.encode()


def relays_securely(port: int) -> bool:
    """As :func:`relays`, with TLS."""
    return get(port, "/v1/models", secure=True) == MODELS.encode()


def probe(port: int, load: Load, secure: bool = False) -> int:
    """Send the request once, check the body, and return the size of the response in bytes."""
    response = exchange(port, load.one(), secure)
    if response.partition(b"\r\n\r\n")[2] != load.answer.encode():
        raise Failed(f"a different body was received: {response[-700:]!r}")
    return len(response)


@dataclasses.dataclass(frozen=True)
class WrkResult:
    """The number of answers, their bytes, and the duration in seconds."""

    requests: int
    bytes: int
    seconds: float


def wrk(
    port: int, load: Load, seconds: int, secure: bool = False, connections: int = CONNECTIONS
) -> WrkResult:
    """Run wrk on the load core; raises if wrk counts an error or a status over 399."""
    argv = pinned(
        LOAD_CORE, tool("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=10s"
    )
    scheme = "https" if secure else "http"
    before, _, after = load.text().partition(_VARIABLE)
    env = environment(
        BENCH_BEFORE=before,
        BENCH_AFTER=after,
        BENCH_VARY=load.vary,
        BENCH_VARIANTS=str(load.variants),
        BENCH_ORDER="shuffle" if load.shuffle else "cycle",
        BENCH_FIRST=str(load.first),
    )
    try:
        done = subprocess.run(
            [*argv, "-s", str(HERE / "wrk.lua"), f"{scheme}://127.0.0.1:{port}"],
            env=env,
            capture_output=True,
            text=True,
            timeout=seconds + 15,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed("wrk did not end within 15 s after the load") from None
    report = re.search(r"^BENCH (.*)$", done.stdout, re.MULTILINE)
    if done.returncode or report is None or "Non-2xx" in done.stdout:
        raise Failed(f"wrk: {done.stdout[-700:]}{done.stderr[-300:]}")
    result = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", report[1])}
    errors = {k: result[k] for k in ("connect", "read", "write", "status", "timeout") if result[k]}
    if errors or not result["requests"]:
        raise Failed(f"{result['requests']} requests, with errors: {errors}")
    return WrkResult(result["requests"], result["bytes"], result["duration"] / 1e6)
