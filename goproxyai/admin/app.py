"""Every route, declared in one Klein tree; and the front that takes each exchange to its route.

Requests under ``/v1/`` never become ``twisted.web`` requests: what the tree says about them, the
prefix and the methods, is asked once, at the start, and remembered (:class:`Router`).
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from types import MethodType
from typing import Any
from urllib.parse import unquote_to_bytes

import attrs
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Site
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import RequestRedirect

from goproxyai.admin.assets import HEADERS, PAGE, assets
from goproxyai.admin.events import EventStream
from goproxyai.admin.metrics import CONTENT_TYPE, Metrics
from goproxyai.admin.stats import Stats
from goproxyai.config.settings import Settings
from goproxyai.errors import ProxyError, compact
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.web_adapter import AdminRequest, ExchangeChannel
from goproxyai.proxy import replay as respond
from goproxyai.proxy.handler import ProxyHandler
from goproxyai.proxy.request_id import GIVEN, RequestIds

RELAYED = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]
"""Methods that are relayed."""

_EVENTS = b"/dashboard/events"

_log = Logger(namespace="goproxyai.admin.app")


def _answer(
    request: Any, status: int, document: object, kind: bytes = b"application/json"
) -> bytes:
    body = document if isinstance(document, bytes) else compact(document)
    _begin(request, status, kind)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    return body


def _begin(request: Any, status: int, kind: bytes) -> None:
    request.setResponseCode(status)
    request.responseHeaders.removeHeader(b"Server")  # nobody needs our versions
    request.setHeader(b"Content-Type", kind)
    request.setHeader(b"X-Proxy", b"goproxyai")
    request.setHeader(b"Cache-Control", b"no-store")


def _asset(request: Any, name: str, status: int = 200) -> bytes:
    kind, content = assets()[name]
    for header, value in HEADERS:
        request.setHeader(header, value)
    return _answer(request, status, content, kind)


@attrs.define(eq=False)
class AdminApp:
    """The endpoints that are not relayed.

    :ivar settings: asked anew for each request; others may be put in their place.
    :ivar stats: what is said of the daemon. :ivar live: to those who look on.
    """

    settings: Settings
    relay: ProxyHandler
    stats: Stats
    live: EventStream
    _metrics: Metrics = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._metrics = Metrics(self.relay, self.stats.slots)
        assets()  # which may be others' by the time that they are asked for

    app = Klein()
    app.url_map.merge_slashes = False

    @app.route("/v1/<path:rest>", methods=RELAYED, endpoint="relay")
    def relayed(self, exchange: Any, rest: str = "") -> None:
        """Everything of the API; called by :class:`Router` with an exchange."""
        self.relay.handle(exchange)

    @app.route("/health", methods=["GET"])
    def health(self, request: AdminRequest) -> bytes:
        """For load balancers: the process answers."""
        return _answer(
            request,
            200,
            {
                "status": "healthy",
                "service": "openai-proxy",
                "timestamp": str(int(time.time())),
            },
        )

    @app.route("/health/live", methods=["GET"])
    def alive(self, request: AdminRequest) -> bytes:
        """For supervisors: no restart is needed."""
        return _answer(request, 200, {"status": "live"})

    @app.route("/health/ready", methods=["GET"])
    def readiness(self, request: AdminRequest) -> bytes:
        """For load balancers: new work is taken."""
        if not self.stats.ready:
            raise draining()
        now = self.relay.seconds()
        if not self.relay.upstreams.reachable(now):
            raise self.relay.upstreams.refusal(now)
        return _answer(request, 200, {"status": "ready"})

    @app.route("/stats", methods=["GET"])
    def statistics(self, request: AdminRequest) -> bytes:
        """For operators: what it is set to and what it did."""
        self._admit(request)
        return _answer(request, 200, self.stats.document())

    @app.route("/metrics", methods=["GET"])
    def metrics(self, request: AdminRequest) -> bytes:
        """For Prometheus: the same, in its text format."""
        self._admit(request)
        return _answer(request, 200, self._metrics.text(), CONTENT_TYPE)

    @app.route("/dashboard", methods=["GET"])
    def dashboard(self, request: AdminRequest) -> bytes:
        """For operators: the same, to look at. Who may give a token is given a page to do so."""
        try:
            self._admit(request)
        except ProxyError as refused:
            accepted = request.exchange.get(b"accept") or b""
            if not self.settings.admin_token or b"text/html" not in accepted:
                raise
            request.problem_code = refused.code
            return _asset(request, PAGE, refused.status)
        return _asset(request, PAGE)

    @app.route("/dashboard/events", methods=["GET"])
    def look(self, request: AdminRequest) -> bytes | Deferred[bytes]:
        """For the page: how things are, as they change."""
        self._admit(request)
        if not self.stats.ready:
            raise draining()
        _begin(request, 200, b"text/event-stream")
        if request.method == b"HEAD":
            return b""
        request.setHeader(b"X-Accel-Buffering", b"no")  # nginx keeps it to itself else
        return self.live.watch(request)

    @app.route("/dashboard/<name>", methods=["GET"])
    def asset(self, request: AdminRequest, name: str) -> bytes:
        """For the page: what it is made of, for anybody."""
        if name == PAGE or name not in assets():
            raise nowhere()
        return _asset(request, name)

    @app.route("/cache", methods=["DELETE"])
    def clear(self, request: AdminRequest) -> bytes:
        """For operators: forget every stored answer, or those of ``?path=``."""
        self._admit(request)
        for path in self._paths_to_clear(request):
            self.relay.store.clear(path)
        return _answer(request, 200, {"message": "Cache cleared successfully"})

    def _paths_to_clear(self, request: AdminRequest) -> set[bytes | None]:
        """The one ``path`` of the query, as it stands there and decoded; ``None`` is everything.

        :raises Problem: where the query says anything else: clearing all would be too much.
        """
        query = request.exchange.target.partition(b"?")[2]
        if not query:
            return {None}
        name, _, raw = query.partition(b"=")
        decoded = unquote_to_bytes(raw)
        if name != b"path" or not decoded.startswith(b"/v1/") or set(raw + decoded) & set(b"&?"):
            raise ProxyError(
                "bad_request",
                "The query of DELETE /cache is one path under /v1/, such as ?path=/v1/models.",
            )
        return {raw, decoded}

    @app.handle_errors(MethodNotAllowed)  # type: ignore[arg-type]  # Klein types the request as an interface
    def wrong_method(self, request: AdminRequest, failure: Failure) -> bytes:
        """405, with what is allowed."""
        error = failure.value
        allowed = getattr(error, "valid_methods", None) or ()
        request.setHeader(b"Allow", ", ".join(sorted(allowed)).encode("ascii"))
        return self._problem(
            request,
            ProxyError("method_not_allowed", "This path does not know that method; see Allow."),
        )

    @app.handle_errors(RequestRedirect, HTTPException)  # type: ignore[arg-type]  # Klein types the request as an interface
    def elsewhere(self, request: AdminRequest, failure: Failure) -> bytes:
        """404: whatever else the tree refuses is no path of ours."""
        return self._problem(request, nowhere())

    @app.handle_errors(ProxyError)  # type: ignore[arg-type]  # Klein types the request as an interface
    def refused(self, request: AdminRequest, failure: Failure) -> bytes:
        """What an endpoint raised to be answered."""
        problem = failure.value
        assert isinstance(problem, ProxyError)
        return self._problem(request, problem)

    @app.handle_errors(Exception)  # type: ignore[arg-type]  # Klein types the request as an interface
    def defect(self, request: AdminRequest, failure: Failure) -> bytes:
        """A defect of ours: logged, and answered without its details."""
        _log.failure("a defect in a system endpoint", failure)
        return self._problem(
            request,
            ProxyError("internal_error", "The proxy failed to handle this request; see its log."),
        )

    def _problem(self, request: AdminRequest, problem: ProxyError) -> bytes:
        for name, value in problem.headers:
            request.setHeader(name, value)
        request.problem_code = problem.code
        return _answer(request, problem.status, problem.body())

    def _admit(self, request: AdminRequest) -> None:
        """Operators only: an address in ``ADMIN_ALLOW``, or a bearer of ``ADMIN_TOKEN``."""
        exchange = request.exchange
        if self.settings.admin_allow.contains(self.relay.admission.client(exchange)):
            if not _of_another_site(exchange):
                return
        token = self.settings.admin_token
        scheme, _, given = (exchange.get(b"authorization") or b"").partition(b" ")
        if token and scheme.lower() == b"bearer":
            if hmac.compare_digest(given.strip(), token.encode("utf-8")):
                return
        raise ProxyError(
            "admin_forbidden",
            "This page is for operators: call from an address in ADMIN_ALLOW, or with the "
            "ADMIN_TOKEN as bearer.",
        )


def _of_another_site(exchange: Exchange) -> bool:
    """Whether a page of somebody else's has an operator's browser ask (W3C Fetch Metadata).

    A link there may be followed.
    """
    site, mode = exchange.get(b"sec-fetch-site"), exchange.get(b"sec-fetch-mode")
    return site == b"cross-site" and mode != b"navigate"


def draining() -> ProxyError:
    """The 503 while the process is stopping."""
    return ProxyError("draining", "The proxy is stopping; try again, elsewhere or in a moment.")


class Router:
    """Takes each exchange to its route; the one entry from the engine."""

    def __init__(self, system: AdminApp, names: RequestIds) -> None:
        self._system = system
        self._stats = system.stats
        self._counters = system.stats.counters
        self._name, self._given = names.ours, names.given
        self._site = Site(system.app.resource())
        self._prefix, self._methods, self._relay = _remembered(system)

    def dispatch(self, exchange: Exchange) -> None:
        """See to it that *exchange* is answered."""
        self._counters.requests += 1
        head = exchange.head
        named = GIVEN in head.fields
        exchange.request_id = self._given(exchange) if named else self._name()
        if exchange.problem is not None:
            self._refuse(exchange, exchange.problem)
            return
        if not self._stats.ready:
            exchange.keep_alive = False
            if not (exchange.first or head.target.startswith(b"/health")):
                self._refuse(exchange, draining())
                return
        if not head.target.startswith(self._prefix):
            path = head.target.partition(b"?")[0]
            if b"%" in path or path.startswith(b"//"):  # which the tree would tidy up
                self._refuse(exchange, nowhere())
            else:
                self._serve(exchange)
        elif head.method in self._methods:
            self._relay(exchange)
        else:
            allow = ", ".join(RELAYED).encode("ascii")
            self._refuse(
                exchange,
                ProxyError(
                    "method_not_allowed",
                    "That method is not relayed; see Allow.",
                    ((b"Allow", allow),),
                ),
            )

    def _refuse(self, exchange: Exchange, problem: ProxyError) -> None:
        relay = self._system.relay
        tracer = relay.log.tracer
        if tracer is not None and exchange.target.startswith(self._prefix):
            exchange.trace = tracer.begin(exchange)
        respond.problem(exchange, problem)
        relay.log.over(exchange, relay.admission.client(exchange), "-", code=problem.code)

    def _serve(self, exchange: Exchange) -> None:
        relay = self._system.relay

        def over(ended: str, code: str) -> None:
            client = relay.admission.client(exchange)
            at_once = 0.0 if exchange.target.startswith(_EVENTS) else -1.0
            relay.log.over(exchange, client, "-", code=code, ended=ended, first_seconds=at_once)

        ExchangeChannel(exchange, self._site, over).serve()


def nowhere() -> ProxyError:
    """The 404."""
    return ProxyError("not_found", "Nothing lives at this path; the API is under /v1/.")


def _remembered(system: AdminApp) -> tuple[bytes, frozenset[bytes], Callable[[Exchange], Any]]:
    """What the tree says about relayed requests: their prefix, their methods, their handler."""
    app = AdminApp.app
    (rule,) = [rule for rule in app.url_map.iter_rules() if rule.endpoint == "relay"]
    prefix = rule.rule.partition("<")[0].encode("ascii")
    methods = frozenset(method.encode("ascii") for method in rule.methods or ())
    handler = app.endpoints["relay"].__wrapped__  # type: ignore[attr-defined]  # the method itself
    return prefix, methods, MethodType(handler, system)
