"""Upstream, egress proxy and names, which fail as planned.

1. Two upstreams, one in clear and one with TLS, share one state: the versions of resources.
2. Each answer is right (:mod:`.truth`), or goes wrong in the way of the fault that strikes it; what
   struck whom is written down, and excuses nobody else.
3. Faults of the way upstream begin with the end of every connection on it, and last.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint

from tests.soak.plan import Window, dice, struck
from tests.soak.table import PLAIN, TUNNEL
from tests.soak.truth import Told, document, events, identity
from tests.support.answers import chunk, head
from tests.support.authority import Authority, Identity, self_signed
from tests.support.proxy import FakeProxy, refusal
from tests.support.records import RecordList
from tests.support.requests import Field, Request
from tests.support.serving import FakeServer, Script
from tests.support.steps import Answer, AnswerBeforeBody, Close, Dribble, Pause, Reset, Step, Wait
from tests.support.upstream import FakeUpstream

HOST, PROXY = "api.openai.test", "proxy.test"
"""Names that the daemons know only from their file."""

WRITES = (b"PUT", b"PATCH", b"DELETE")
STATUSES = (500, 502, 503, 504, 429, 404)
"""Of an upstream that fails, with an answer."""

NONSENSE = (
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
"""What is no answer."""

EARLY = ("/v1/files",)
"""Paths whose requests stream through the daemon, so that an answer may come before their end."""


class Passing(RecordList[Any]):
    """Counts what it is told and keeps nothing: a soak is long."""

    count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, record: Any) -> None:
        self.count += 1
        self.changed()


def keep_nothing(server: FakeServer) -> None:
    """Let *server* count its requests, not collect them."""
    server.requests = Passing(server.reactor)
    server.wait_for = server.requests.wait_for
    server.wait_until = server.requests.wait_until


def number_of(request: Request) -> int:
    """The number that the client gave to its request."""
    address = (request.header(b"x-forwarded-for") or b"::").decode("latin-1")
    return int(ipaddress.IPv6Address(address.split(",")[0])) & (2**64 - 1)


def is_write(request: Request) -> bool:
    return request.method in WRITES


class FaultyUpstream(FakeUpstream):
    """One of the two upstreams of a :class:`World`."""

    def __init__(self, reactor: Any, world: World) -> None:
        super().__init__(reactor)
        keep_nothing(self)
        self._world = world

    def default_script(self, request: Request) -> Script:
        world, number = self._world, number_of(request)
        fault = world.strike(number)
        if fault == "early answer" and request.path.startswith(EARLY):
            early: list[bytes | Step] = [AnswerBeforeBody()]
            rng = dice(world.seed, "early", number)
            end: Step = rng.choice((Close(), Reset()))
            if rng.random() < 0.7:
                # No body of ours can tell what was asked: it has not come yet.
                early.append(head(413, [(b"Content-Length", b"0"), (b"Connection", b"close")]))
            return Script(request.path, [*early, end])
        return Script(request.path, lambda whole: world.answer(whole, number, fault))


class FaultyProxy(FakeProxy):
    """An egress proxy with moods.

    :ivar mood: ``""``, ``refuses``, ``nonsense`` or ``stalls``.
    """

    mood = ""

    def __init__(self, reactor: Any, seed: int) -> None:
        super().__init__(reactor)
        keep_nothing(self)
        self._seed = seed

    def _answer(self, request: Request) -> Answer:
        del self.tunnels[:-1000]  # nobody looks at old ones
        match self.mood:
            case "refuses":
                rng = dice(self._seed, "refuses", len(self.requests))
                return refusal(rng.choice((403, 407, 502, 503)))
            case "nonsense":
                return [b"220 smtp.test ESMTP\r\n\r\n", Close()]
            case "stalls":
                return [Pause()]
        return super()._answer(request)


class World:
    """Everything around the daemons.

    :param directory: for the files of names.
    :ivar windows: the faults of the cycle, by :meth:`enter`.
    :ivar strikes: by a request's number, and by its identity: when which fault struck it.
    """

    def __init__(self, reactor: Any, seed: int, authority: Authority, directory: Path) -> None:
        self.reactor = reactor
        self.seed = seed
        self.windows: tuple[Window, ...] = ()
        self.began = 0.0
        self.strikes: dict[int | str, list[tuple[float, str]]] = {}
        self.versions: dict[tuple[bytes, str], int] = {}
        self.polls: dict[bytes, int] = {}
        self.asked = 0
        self.attempts: dict[int, int] = {}
        self.plain = FaultyUpstream(reactor, self)
        self.secure = FaultyUpstream(reactor, self)
        self.proxy = FaultyProxy(reactor, seed)
        self.plain_port = self.proxy_port = 0
        self._authority = authority
        self._tls_ports: dict[str, int] = {}
        self.names = {PLAIN: directory / "names-plain", TUNNEL: directory / "names-tunnel"}
        self._faults: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "upstream down": (self._upstream_down, self._upstream_up),
            "no name": (lambda: self._name(PLAIN, ""), lambda: self._name(PLAIN, HOST)),
            "connections dropped": (lambda: None, lambda: None),
            "proxy down": (self._proxy_down, self._proxy_up),
            "proxy's name gone": (
                lambda: self._name(TUNNEL, ""),
                lambda: self._name(TUNNEL, PROXY),
            ),
            "proxy refuses": (lambda: self._mood("refuses"), lambda: self._mood("")),
            "proxy talks nonsense": (lambda: self._mood("nonsense"), lambda: self._mood("")),
            "proxy stalls": (lambda: self._mood("stalls"), lambda: self._mood("")),
            "proxy has no name": (self.proxy.names.clear, lambda: self._lead("good")),
            "tunnels reset": (lambda: None, lambda: None),
            "certificate expired": (lambda: self._lead("expired"), lambda: self._lead("good")),
            "certificate of another": (lambda: self._lead("other"), lambda: self._lead("good")),
            "certificate of nobody": (lambda: self._lead("nobody"), lambda: self._lead("good")),
            "no TLS at all": (lambda: self._lead("none"), lambda: self._lead("good")),
        }

    # Its beginning and its end.

    async def open(self) -> None:
        """Listen everywhere."""
        self._name(PLAIN, HOST)
        self._name(TUNNEL, PROXY)
        self.plain_port = await self.plain.listen(self._tcp(0))
        self.proxy_port = await self.proxy.listen(self._tcp(0))
        issue = self._authority
        certificates: dict[str, Identity] = {
            "good": issue.issue(HOST),
            "expired": issue.expired(),
            "other": issue.wrong_name(),
            "nobody": self_signed(HOST),
        }
        for name, certificate in certificates.items():
            endpoint: Any = SSL4ServerEndpoint(
                self.reactor, 0, certificate.options(), interface="127.0.0.1"
            )
            self._tls_ports[name] = await self.secure.listen(endpoint)
        self._tls_ports["none"] = await self.secure.listen(self._tcp(0))
        self._lead("good")

    async def close(self) -> None:
        """Listen nowhere, and hold no connection."""
        for server in (self.plain, self.proxy, self.secure):
            await server.close()

    def _tcp(self, port: int) -> Any:
        return TCP4ServerEndpoint(self.reactor, port, backlog=500, interface="127.0.0.1")

    # Faults of the way upstream.

    def enter(self, windows: tuple[Window, ...]) -> None:
        """A cycle begins, with its faults."""
        self.windows = windows
        self.began = self.reactor.seconds()
        self.attempts.clear()

    def begin(self, window: Window) -> None:
        """A fault begins."""
        way = self._faults.get(window.fault.name)
        if way is not None:
            way[0]()
            self.drop(window.fault.where)

    def end(self, window: Window) -> None:
        """A fault ends."""
        way = self._faults.get(window.fault.name)
        if way is not None:
            way[1]()

    def drop(self, where: str) -> None:
        """Break off every connection of that daemon's way upstream."""
        servers = (self.plain,) if where == PLAIN else (self.proxy, self.secure)
        for server in servers:
            for connection in list(server.connections):
                connection.transport.abortConnection()

    @property
    def connections(self) -> dict[str, int]:
        """Open ones, by the daemon that holds them."""
        return {PLAIN: len(self.plain.connections), TUNNEL: len(self.proxy.connections)}

    def _name(self, where: str, name: str) -> None:
        """Let *name* be the only one that the daemon can look up, or none."""
        half = self.names[where].with_suffix(".half")  # which nobody reads
        half.write_text(f"{name} 127.0.0.1\n" if name else "")
        half.replace(self.names[where])

    def _mood(self, mood: str) -> None:
        self.proxy.mood = mood

    def _lead(self, to: str) -> None:
        self.proxy.names[f"{HOST}:443"] = ("127.0.0.1", self._tls_ports[to])

    def _upstream_down(self) -> Any:
        return _go(self.plain.stop_listening())

    def _upstream_up(self) -> Any:
        return _go(self.plain.listen(self._tcp(self.plain_port)))

    def _proxy_down(self) -> Any:
        return _go(self.proxy.stop_listening())

    def _proxy_up(self) -> Any:
        return _go(self.proxy.listen(self._tcp(self.proxy_port)))

    # Faults of single answers.

    def strike(self, number: int) -> str:
        """The fault that strikes the request, or none; written down."""
        attempt = self.attempts[number] = self.attempts.get(number, -1) + 1
        now = self.reactor.seconds()
        fault = struck(self.seed, number, attempt, now - self.began, self.windows)
        if fault is None:
            return ""
        self.strikes.setdefault(number, []).append((now, fault.name))
        return fault.name

    def answer(self, request: Request, number: int, fault: str) -> Answer:
        """What is said to *request*, struck by *fault*."""
        self.asked += 1
        credential = request.header(b"authorization") or b""
        who = identity(request.method, request.target, credential, request.sha256)
        if fault:
            self.strikes.setdefault(who, []).append((self.reactor.seconds(), fault))
        rng = dice(self.seed, "how", number)
        # A write that fails may have been done all the same.
        if not fault or fault in HARMLESS or rng.random() < 0.5:
            self._apply(request, credential)
        code = rng.choice(STATUSES) if fault == "failing" else 200
        said = Said(request, self._told(request, who, credential, code), rng)
        return said.struck(fault) if fault else said.right()

    def _apply(self, request: Request, credential: bytes) -> None:
        if not is_write(request):
            return
        path = request.path
        while path != "/v1":
            version = self.versions.get((credential, path), 0)
            self.versions[credential, path] = version + 1
            path = path.rpartition("/")[0]

    def _told(self, request: Request, who: str, credential: bytes, code: int) -> Told:
        version = self.versions.get((credential, request.path), 0)
        if code != 200 or not request.path.startswith("/v1/batches/"):
            return Told(who, version, code)
        polls = self.polls[request.target] = self.polls.get(request.target, 0) + 1
        wanted = int(parse_qs(request.target.partition(b"?")[2].decode())["polls"][0])
        state = "completed" if polls >= wanted else "in_progress"
        return Told(who, min(polls, wanted), code, state)


HARMLESS = ("dribbled body", "interim", "closing", "close-delimited")
"""Faults behind which all is right."""


def _go(steps: Any) -> Any:
    """Let *steps*, none of which waits, be done now."""
    return Deferred.fromCoroutine(steps)


class Said:
    """One answer, and the ways in which it may fail."""

    def __init__(self, request: Request, told: Told, rng: Any) -> None:
        self._rng = rng
        self._told = told
        asked = _asked(request)
        self._interval = float(asked.get("interval", 0))
        size, count = int(asked.get("size", 200)), int(asked.get("events", 0))
        self._stream = count > 0 and told.code == 200
        self._pieces = events(told, count, size) if self._stream else [document(told, size)]
        # The same question has the same answer, framing and all: it may be asked for again.
        self._chunked = self._stream or int(told.identity, 16) % 3 == 0

    def _head(self, *more: Field, framed: bool = True) -> bytes:
        kind = b"text/event-stream" if self._stream else b"application/json"
        fields = [(b"Content-Type", kind), (b"X-Request-Id", b"%08x" % self._rng.getrandbits(32))]
        if framed and self._chunked:
            fields.append((b"Transfer-Encoding", b"chunked"))
        elif framed:
            fields.append((b"Content-Length", b"%d" % sum(map(len, self._pieces))))
        return head(self._told.code, [*fields, *more])

    def _body(self) -> list[bytes]:
        if not self._chunked:
            return self._pieces
        return [*map(chunk, self._pieces), chunk(b"")]

    def right(self, *more: Field) -> list[bytes | Step]:
        """As it should be."""
        first, *rest = self._body()
        steps: list[bytes | Step] = [self._head(*more) + first]
        if not self._interval:
            return [*steps, b"".join(rest)]
        for piece in rest:
            steps += [Wait(self._interval), piece]
        return steps

    def struck(self, fault: str) -> list[bytes | Step]:
        """As *fault* has it."""
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
                return [self._rng.choice(NONSENSE)]
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
                return [hints, Wait(self._rng.random() / 20), *self.right()]
            case "closing" if self._rng.random() < 0.5:
                return [*self.right((b"Connection", b"close")), Close()]
            case "closing":
                return [*self.right(), Close()]
            case "close-delimited":
                return [self._head(framed=False), b"".join(self._pieces), Close()]
        return self.right()


def _asked(request: Request) -> dict[str, Any]:
    """The size, and so on, that the answer shall have."""
    query = parse_qs(request.target.partition(b"?")[2].decode())
    asked: dict[str, Any] = {name: values[0] for name, values in query.items()}
    if request.header(b"content-type") == b"application/json" and request.body:
        asked |= request.json()
    return asked
