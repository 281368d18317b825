"""The router with a real Klein tree, and stubs for the proxy handler and the access log."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from goproxyai.admin.app import AdminApp
from goproxyai.config.settings import Settings
from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_body import whole_body
from goproxyai.http11.request_head import RequestHead
from goproxyai.proxy.relayed_routes import RELAYED, RelayedRoutes
from goproxyai.proxy.request_id import RequestIds
from goproxyai.router import Router
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.outcome import RequestOutcome

UNUSED: Any = None


@attrs.define(eq=False)
class Connection:
    """A client connection that keeps what is sent."""

    peer: str = "127.0.0.1"
    subject: str = ""
    sent: bytes = b""
    done: int = 0

    @property
    def output(self) -> Connection:
        return self

    def send(self, data: bytes) -> None:
        self.sent += data

    def exchange_done(self, exchange: Exchange, keep_alive: bool) -> None:
        self.done += 1

    def set_producer(self, producer: object) -> None:
        pass

    def abort(self) -> None:
        raise AssertionError("the connection was aborted")


@attrs.define(eq=False)
class Stats:
    draining: bool = False
    counters: Counters = attrs.field(factory=Counters)


@attrs.define(eq=False)
class Admission:
    """Limits clients when there are no tokens left."""

    per_minute: int = 60
    tokens: int = 1000

    def client(self, exchange: Exchange) -> str:
        return "192.0.2.1"

    def take_token(self, client: str) -> float:
        self.tokens -= 1
        return 0.0 if self.tokens >= 0 else 1.5


@attrs.define(eq=False)
class AccessLog:
    """Keeps the error code of each finished request."""

    tracer: None = None
    codes: list[str] = attrs.field(factory=list)

    def record(self, exchange: Exchange, client: str, outcome: RequestOutcome) -> None:
        self.codes.append(outcome.code)


@attrs.define(eq=False)
class Handler:
    relayed: list[Exchange] = attrs.field(factory=list)

    def handle(self, exchange: Exchange) -> None:
        self.relayed.append(exchange)


@attrs.define(eq=False)
class Fixture:
    """A router and its collaborators."""

    routes: RelayedRoutes = RELAYED
    stats: Any = attrs.field(factory=Stats)
    access_log: Any = attrs.field(factory=AccessLog)
    handler: Any = attrs.field(factory=Handler)
    admission: Any = attrs.field(factory=Admission)
    router: Router = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        settings = Settings.from_texts({"ADMIN_ALLOW": ""})
        self.router = Router(
            AdminApp(settings, UNUSED, UNUSED, UNUSED, UNUSED, UNUSED, UNUSED),
            self.handler,
            self.stats,
            self.admission,
            self.access_log,
            RequestIds(b"test"),
            self.routes,
        )

    def dispatch(self, method: str, target: str, problem: ProxyError | None = None) -> bytes:
        """Dispatch a request and return the response, if the router sent one."""
        connection = Connection()
        head = RequestHead(method.encode(), target.encode(), "1.1", [(b"Host", b"a")], True)
        exchange = Exchange(connection, 0.0, head, (), whole_body(b""), problem)
        self.router.dispatch(exchange)
        return connection.sent


@pytest.mark.parametrize("method", RELAYED.methods)
def test_relayed_request_goes_to_proxy_handler(method: str) -> None:
    fixture = Fixture()
    assert fixture.dispatch(method, "/v1/models?x=%2f") == b""
    (exchange,) = fixture.handler.relayed
    assert exchange.target == b"/v1/models?x=%2f"
    assert exchange.request_id.startswith(b"test-")
    assert fixture.stats.counters.requests == 1


def test_additional_prefix_is_relayed() -> None:
    fixture = Fixture(RelayedRoutes(("/v1/", "/openai/"), ("POST",)))
    for target in ("/v1/embeddings", "/openai/v1/embeddings"):
        assert fixture.dispatch("POST", target) == b""
    assert len(fixture.handler.relayed) == 2
    assert b"\r\nAllow: POST\r\n" in fixture.dispatch("GET", "/openai/v1/models")
    assert fixture.access_log.codes == ["method_not_allowed"]


def test_other_path_goes_to_klein_tree() -> None:
    fixture = Fixture()
    assert fixture.dispatch("GET", "/health").startswith(b"HTTP/1.1 200 OK\r\n")
    assert fixture.handler.relayed == []
    assert fixture.access_log.codes == [""]


def test_router_without_relayed_routes_answers_404_for_them() -> None:
    fixture = Fixture(RelayedRoutes((), ()))
    for target in ("/v1/", "/v1/models"):
        assert fixture.dispatch("GET", target).startswith(b"HTTP/1.1 404 ")
    assert fixture.handler.relayed == []
    assert fixture.access_log.codes == ["not_found"] * 2


@pytest.mark.parametrize("target", ["/v1/models", "/health"])
def test_invalid_request_is_refused_without_routing(target: str) -> None:
    fixture = Fixture()
    response = fixture.dispatch("GET", target, ProxyError("bad_request", "The Host is missing."))
    assert response.startswith(b"HTTP/1.1 400 ")
    assert fixture.handler.relayed == []
    assert fixture.access_log.codes == ["bad_request"]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1%2fmodels", 404),
        ("POST", "/health", 405),
        ("GET", "/cache", 405),
        ("TRACE", "/v1/models", 405),
        ("GET", "/stats", 403),
        ("GET", "/dashboard", 403),
        ("DELETE", "/cache", 403),
    ],
)
def test_refusal_takes_a_token(method: str, target: str, status: int) -> None:
    fixture = Fixture(admission=Admission(tokens=1))
    assert fixture.dispatch(method, target).startswith(b"HTTP/1.1 %d " % status)
    limited = fixture.dispatch(method, target)
    assert limited.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nRetry-After: 2\r\n" in limited
    assert fixture.stats.counters.limited == 1


def test_refused_invalid_request_takes_a_token() -> None:
    fixture = Fixture(admission=Admission(tokens=1))
    problem = ProxyError("bad_request", "The Host is missing.")
    assert fixture.dispatch("GET", "/health", problem).startswith(b"HTTP/1.1 400 ")
    assert fixture.dispatch("GET", "/health", problem).startswith(b"HTTP/1.1 429 ")


@pytest.mark.parametrize("target", ["/health", "/health/", "/health/live", "/health?x"])
def test_health_takes_no_token(target: str) -> None:
    fixture = Fixture(admission=Admission(tokens=0))
    for method in ("GET", "HEAD"):
        assert fixture.dispatch(method, target).startswith(b"HTTP/1.1 200 OK\r\n")
    assert fixture.admission.tokens == 0


def test_dashboard_file_takes_a_token() -> None:
    fixture = Fixture(admission=Admission(tokens=1))
    assert fixture.dispatch("GET", "/dashboard/style.css").startswith(b"HTTP/1.1 200 ")
    assert fixture.dispatch("GET", "/dashboard/style.css").startswith(b"HTTP/1.1 429 ")


def test_refusal_during_the_drain_takes_no_token() -> None:
    fixture = Fixture(stats=Stats(draining=True), admission=Admission(tokens=0))
    assert fixture.dispatch("GET", "/v1/models").startswith(b"HTTP/1.1 503 ")


def test_refusal_bypasses_the_web_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goproxyai.router.ExchangeChannel", UNUSED)
    fixture = Fixture()
    for method, target, code in (
        ("GET", "/nowhere", "not_found"),
        ("GET", "/dashboard/index.html", "not_found"),
        ("POST", "/health", "method_not_allowed"),
        ("GET", "/stats", "admin_forbidden"),
    ):
        assert code.encode() in fixture.dispatch(method, target)


@pytest.mark.parametrize("path", ["/chat/completions", "/models", "/responses?x"])
def test_api_path_without_v1_is_told_the_base_url(path: str) -> None:
    response = Fixture().dispatch("POST", path)
    assert response.startswith(b"HTTP/1.1 404 ")
    assert b"must end in /v1" in response
    assert b"must end in /v1" not in Fixture().dispatch("POST", "/modelsx")


@pytest.mark.parametrize("prefix", RELAYED.prefixes)
def test_klein_tree_declares_relayed_routes(prefix: str) -> None:
    tree = AdminApp.app.url_map.bind("localhost")
    for path in (prefix, f"{prefix}models", f"{prefix}files/a/content"):
        assert set(tree.allowed_methods(path)) == set(RELAYED.methods)
        assert {tree.match(path, method)[0] for method in RELAYED.methods} <= {
            "relayed", "relayed_branch"
        }  # fmt: skip
