"""The upstreams and the egress proxy, which inject faults.

Two upstreams, one with TLS and one without, share one state: the versions of the resources. Each
answer is correct (:mod:`.answers`), or faulty in the way of the fault injected into it. All
injected faults are recorded, because each explains the outcome of its own request only.
"""

from __future__ import annotations

import ipaddress
from random import Random
from typing import Any
from urllib.parse import parse_qs

from twisted.internet.interfaces import IAddress

from tests.soak.answers import Info, document, events, identity
from tests.soak.connection import finish
from tests.soak.plan import Window, fault_for, rng_for
from tests.support.answers import chunk, head
from tests.support.proxy import FakeProxy, refusal
from tests.support.records import RecordList
from tests.support.requests import Field, Request
from tests.support.serving import FakeConnection, FakeServer, Script
from tests.support.steps import Answer, AnswerBeforeBody, Close, Dribble, Pause, Reset, Step, Wait
from tests.support.upstream import FakeUpstream, UpstreamConnection
from tests.support.websocket import SWITCHED

WRITES = (b"PUT", b"PATCH", b"DELETE")
ERROR_STATUSES = (500, 502, 503, 504, 429, 404)

INVALID_ANSWERS = (
    b"SSH-2.0-OpenSSH_9.2p1\r\n",
    b"HTTP/9.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nhello\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
)

VALID_FAULTS = ("dribbled body", "interim", "closing", "close-delimited")
"""Faults whose answers are unusual but valid."""

KEEPING_FAULTS = (*VALID_FAULTS, "error status", "early answer")
"""Faults after whose answers the connection may be kept; handshakes do not have them."""

STREAMED_PATHS = ("/v1/files",)
"""Paths whose request bodies the daemon streams, so that an answer may precede their end."""


class RecordCount(RecordList[Any]):
    """Counts its records without keeping them, because a soak is long."""

    count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, record: Any) -> None:
        self.count += 1
        self.changed()


def count_requests_only(server: FakeServer) -> None:
    """Make *server* count its requests instead of keeping them."""
    server.requests = RecordCount(server.reactor)
    server.wait_for = server.requests.wait_for
    server.wait_until = server.requests.wait_until


def request_number(request: Request) -> int:
    """The number that the client gave the request."""
    address = (request.header(b"x-request-id") or b"::").decode("latin-1")
    return int(ipaddress.IPv6Address(address)) & (2**64 - 1)


class UpstreamState:
    """The state that both upstreams share.

    :ivar windows: the faults of the current cycle.
    :ivar began: the beginning of the current cycle, in the clock's seconds.
    :ivar injections: the faults injected into a request, each with its time, by the request's
        number and by its identity.
    :ivar versions: of resources, by credential and path.
    :ivar answered: requests so far.
    """

    def __init__(self, reactor: Any, seed: int) -> None:
        self.seed = seed
        self.windows: tuple[Window, ...] = ()
        self.began = 0.0
        self.injections: dict[int | str, list[tuple[float, str]]] = {}
        self.versions: dict[tuple[bytes, str], int] = {}
        self.answered = 0
        self._reactor = reactor
        self._polls: dict[bytes, int] = {}
        self._attempts: dict[int, int] = {}

    def enter_cycle(self, windows: tuple[Window, ...]) -> None:
        self.windows = windows
        self.began = self._reactor.seconds()
        self._attempts.clear()

    def inject(self, number: int) -> str:
        """Choose the fault for the request, empty for none, and record it."""
        attempt = self._attempts[number] = self._attempts.get(number, -1) + 1
        now = self._reactor.seconds()
        fault = fault_for(self.seed, number, attempt, now - self.began, self.windows)
        if fault is None:
            return ""
        self.injections.setdefault(number, []).append((now, fault.name))
        return fault.name

    def answer(self, request: Request, number: int, fault: str) -> Answer:
        """The answer to *request*, into which *fault* is injected unless it is empty."""
        self.answered += 1
        credential = request.header(b"authorization") or b""
        name = identity(request.method, request.target, credential, request.sha256)
        if fault:
            self.injections.setdefault(name, []).append((self._reactor.seconds(), fault))
        rng = rng_for(self.seed, "answer", number)
        # A write whose answer fails may have been applied or not.
        if not fault or fault in VALID_FAULTS or rng.random() < 0.5:
            self._apply(request, credential)
        status = rng.choice(ERROR_STATUSES) if fault == "error status" else 200
        answer = ScriptedAnswer(request, self._info(request, name, credential, status), rng)
        return answer.faulty(fault) if fault else answer.correct()

    def _apply(self, request: Request, credential: bytes) -> None:
        """A write increments the version of its resource and of all parents."""
        if request.method not in WRITES:
            return
        path = request.path
        while path != "/v1":
            version = self.versions.get((credential, path), 0)
            self.versions[credential, path] = version + 1
            path = path.rpartition("/")[0]

    def _info(self, request: Request, name: str, credential: bytes, status: int) -> Info:
        version = self.versions.get((credential, request.path), 0)
        if status != 200 or not request.path.startswith("/v1/batches/"):
            return Info(name, version, status)
        polls = self._polls[request.target] = self._polls.get(request.target, 0) + 1
        needed = int(parse_qs(request.target.partition(b"?")[2].decode())["polls"][0])
        state = "completed" if polls >= needed else "in_progress"
        return Info(name, min(polls, needed), status, state)


class FaultyUpstream(FakeUpstream):
    """One of the two upstreams."""

    def __init__(self, reactor: Any, state: UpstreamState) -> None:
        super().__init__(reactor)
        count_requests_only(self)
        self._state = state

    def default_script(self, request: Request) -> Script:
        state, number = self._state, request_number(request)
        fault = state.inject(number)
        if fault == "early answer" and request.path.startswith(STREAMED_PATHS):
            steps: list[bytes | Step] = [AnswerBeforeBody()]
            rng = rng_for(state.seed, "early answer", number)
            end: Step = rng.choice((Close(), Reset()))
            if rng.random() < 0.7:
                # Without a body, because the request's identity is not known yet.
                steps.append(head(413, [(b"Content-Length", b"0"), (b"Connection", b"close")]))
            return Script(request.path, [*steps, end])
        if request.header(b"upgrade") is not None and fault in ("", *KEEPING_FAULTS):
            return Script(request.path, SWITCHED)
        return Script(request.path, lambda complete: state.answer(complete, number, fault))

    def buildProtocol(self, addr: IAddress | None) -> FakeConnection:
        return EchoingConnection(self, addr)


class EchoingConnection(UpstreamConnection):
    """A connection that sends everything back after a WebSocket handshake.

    With ``finish`` in the query, it sends a FIN after so many bytes, and reads on.
    """

    _echoes = False
    _finishes_after = 0

    def dataReceived(self, data: bytes) -> None:
        if not self._echoes:
            super().dataReceived(data)
            return
        self.transport.write(data)
        if self._finishes_after:
            self._finishes_after = max(0, self._finishes_after - len(data))
            if not self._finishes_after:
                finish(self.transport)

    def open_request(
        self, method: bytes, target: bytes, version: str, headers: list[Field]
    ) -> Request:
        request = super().open_request(method, target, version, headers)
        self._echoes = request.header(b"upgrade") is not None
        if self._echoes:
            self._finishes_after = int(_answer_options(request).get("finish", 0))
        return request


class FaultyProxy(FakeProxy):
    """An egress proxy that can fail.

    :ivar mode: empty, ``refuse``, ``garbage`` or ``stall``.
    """

    mode = ""

    def __init__(self, reactor: Any, seed: int) -> None:
        super().__init__(reactor)
        count_requests_only(self)
        self._seed = seed

    def _answer(self, request: Request) -> Answer:
        del self.tunnels[:-1000]  # bounds the memory of a long run
        match self.mode:
            case "refuse":
                rng = rng_for(self._seed, "refuse", len(self.requests))
                return refusal(rng.choice((403, 407, 502, 503)))
            case "garbage":
                return [b"220 smtp.test ESMTP\r\n\r\n", Close()]
            case "stall":
                return [Pause()]
        return super()._answer(request)


class ScriptedAnswer:
    """One answer, correct or faulty."""

    def __init__(self, request: Request, info: Info, rng: Random) -> None:
        self._rng = rng
        self._info = info
        wanted = _answer_options(request)
        self._interval = float(wanted.get("interval", 0))
        size, count = int(wanted.get("size", 200)), int(wanted.get("events", 0))
        self._stream = count > 0 and info.status == 200
        self._pieces = events(info, count, size) if self._stream else [document(info, size)]
        # A request that is sent again must get the same framing.
        self._chunked = self._stream or int(info.identity, 16) % 3 == 0

    def _head(self, *more: Field, framed: bool = True) -> bytes:
        kind = b"text/event-stream" if self._stream else b"application/json"
        fields = [(b"Content-Type", kind), (b"X-Request-Id", b"%08x" % self._rng.getrandbits(32))]
        if framed and self._chunked:
            fields.append((b"Transfer-Encoding", b"chunked"))
        elif framed:
            fields.append((b"Content-Length", b"%d" % sum(map(len, self._pieces))))
        return head(self._info.status, [*fields, *more])

    def _body(self) -> list[bytes]:
        if not self._chunked:
            return self._pieces
        return [*map(chunk, self._pieces), chunk(b"")]

    def correct(self, *more: Field) -> list[bytes | Step]:
        first, *rest = self._body()
        steps: list[bytes | Step] = [self._head(*more) + first]
        if not self._interval:
            return [*steps, b"".join(rest)]
        for piece in rest:
            steps += [Wait(self._interval), piece]
        return steps

    def faulty(self, fault: str) -> list[bytes | Step]:
        """The answer with *fault*, one of those of single answers."""
        whole = b"".join(self._body())
        part = whole[: self._rng.randrange(len(whole))]
        match fault:
            case "reset":
                return [Reset()]
            case "close":
                return [Close()]
            case "cut head":
                text = self._head()
                return [text[: self._rng.randrange(1, len(text) - 2)], Close()]
            case "no head":
                return [Pause()]
            case "dribbled head":
                return [Dribble(self._head((b"X-Padding", b"a" * 200)), 0.05)]
            case "bad framing":
                return [self._rng.choice(INVALID_ANSWERS)]
            case "cut body":
                return [self._head(), part, Close()]
            case "reset body":
                return [self._head(), part, Reset()]
            case "stalled body":
                return [self._head(), part, Pause()]
            case "bad chunk":
                self._chunked = True
                return [self._head(), chunk(self._pieces[0]), b"zz\r\nno chunk\r\n", Pause()]
            case "dribbled body":
                return [self._head(), Dribble(whole, 0.02, len(whole) // 20 + 1)]
            case "interim":
                hints = head(103, [(b"Link", b"</a>")])
                return [hints, Wait(self._rng.random() / 20), *self.correct()]
            case "closing" if self._rng.random() < 0.5:
                return [*self.correct((b"Connection", b"close")), Close()]
            case "closing":
                return [*self.correct(), Close()]
            case "close-delimited":
                return [self._head(framed=False), b"".join(self._pieces), Close()]
        return self.correct()


def _answer_options(request: Request) -> dict[str, Any]:
    """The size, event count and interval of the answer, from the query or a JSON body."""
    query = parse_qs(request.target.partition(b"?")[2].decode())
    options: dict[str, Any] = {name: values[0] for name, values in query.items()}
    if request.header(b"content-type") == b"application/json" and request.body:
        options |= request.json()
    return options
