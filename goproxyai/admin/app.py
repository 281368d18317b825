"""The endpoints that are not relayed, in one Klein tree.

The tree declares every route of the daemon. It serves all of them except the relayed ones: the
router calls the proxy handler for these, without Klein (see :mod:`goproxyai.router`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import attrs
from klein import Klein
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import RequestRedirect

from goproxyai import __version__
from goproxyai.admin.assets import PAGE, PAGES, REFUSED_PAGE, SECURITY_HEADERS, assets, refused_page
from goproxyai.admin.authorization import authorize
from goproxyai.admin.events import EventStream
from goproxyai.admin.metrics import CONTENT_TYPE, Metrics
from goproxyai.admin.refusals import draining, method_not_allowed, not_found
from goproxyai.admin.remote_pages import METRICS, STATS, RemotePages
from goproxyai.admin.sources import state_of
from goproxyai.admin.stats import Stats
from goproxyai.cache.store import Store
from goproxyai.config.settings import Settings
from goproxyai.errors import ProxyError, json_bytes
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.web_adapter import AdminRequest
from goproxyai.proxy.relayed_routes import METHODS, RELAYED, RelayedRoutes
from goproxyai.proxy.upstreams import Upstreams
from goproxyai.state.shared_state import NO_SHARED_STATE, SharedState

EVENTS_PATH: Final = "/dashboard/events"

_log = Logger(namespace="goproxyai.admin.app")

_Endpoint = Callable[..., Any]


def _respond(
    request: AdminRequest, status: int, document: object, content_type: bytes = b"application/json"
) -> bytes:
    """Set status and headers of the response, and return its body.

    :param document: the body in bytes, or a value to be encoded as JSON.
    """
    body = document if isinstance(document, bytes) else json_bytes(document)
    _begin(request, status, content_type)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    return body


def _respond_with_asset(
    request: AdminRequest, name: str, status: int = 200, content: bytes | None = None
) -> bytes:
    """Respond with a file of the page, or with *content* in its place."""
    content_type, file = assets()[name]
    for header, value in SECURITY_HEADERS:
        request.setHeader(header, value)
    return _respond(request, status, file if content is None else content, content_type)


def _begin(request: AdminRequest, status: int, content_type: bytes) -> None:
    request.setResponseCode(status)
    request.responseHeaders.removeHeader(b"Server")  # discloses Twisted's version
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"X-Proxy", b"goproxyai")
    request.setHeader(b"Cache-Control", b"no-store")


def _relayed_routes(app: Klein, routes: RelayedRoutes) -> Callable[[_Endpoint], _Endpoint]:
    """Return a decorator that declares *routes* in the tree of *app*."""

    def declare(endpoint: _Endpoint) -> _Endpoint:
        for prefix in routes.prefixes:
            app.route(prefix, methods=routes.methods, branch=True)(endpoint)
        return endpoint

    return declare


@attrs.define(eq=False)
class AdminApp:
    """The admin endpoints.

    :ivar settings: the current settings; a reload replaces them.
    :ivar events: the dashboard's event stream.
    :param shared: is told to clear the caches of other processes.
    :param remote: renders the pages, if several processes share the numbers in them.
    """

    settings: Settings
    stats: Stats
    events: EventStream
    _metrics: Metrics
    _store: Store
    _upstreams: Upstreams
    _clock: IReactorTime
    _shared: SharedState = NO_SHARED_STATE
    _remote: RemotePages | None = None

    def __attrs_post_init__(self) -> None:
        assets()  # read now: after an upgrade of the package the files may be of another version

    app = Klein()
    app.url_map.merge_slashes = False

    @_relayed_routes(app, RELAYED)
    def relayed(self, request: AdminRequest) -> bytes:
        """Answer 404: only a router without relayed routes takes such a request to the tree."""
        raise not_found()

    @app.route("/", methods=["GET"])
    def index(self, request: AdminRequest) -> bytes:
        """Redirect browsers to the dashboard, and send the endpoints to other clients."""
        document = {
            "name": "goproxyai",
            "version": __version__,
            "endpoints": _endpoints(
                () if self.settings.admin_listen else self.settings.relay_paths
            ),
        }
        request.setHeader(b"Vary", b"Accept")
        if b"text/html" not in (request.exchange.get(b"accept") or b""):
            return _respond(request, 200, document)
        request.setHeader(b"Location", b"/dashboard")
        return _respond(request, 302, document)

    @app.route("/health", methods=["GET"])
    @app.route("/health/", methods=["GET"])
    def health(self, request: AdminRequest) -> bytes:
        """Tell load balancers that the process answers."""
        return _respond(
            request,
            200,
            {
                "status": "healthy",
                "service": "openai-proxy",
                "timestamp": str(int(time.time())),
            },
        )

    @app.route("/health/live", methods=["GET"])
    def liveness(self, request: AdminRequest) -> bytes:
        """Tell supervisors that no restart is needed."""
        return _respond(request, 200, {"status": "live"})

    @app.route("/health/ready", methods=["GET"])
    def readiness(self, request: AdminRequest) -> bytes:
        """Tell load balancers whether to send requests: 503 while stopping or without upstream."""
        if not self.stats.ready:
            raise draining()
        now = self._clock.seconds()
        if not self._upstreams.reachable(now) and not self._others_reachable():
            raise self._upstreams.refusal(now)
        state = self.stats.sources.state
        shared = {} if state is None else {"state": state_of(state)}
        return _respond(request, 200, {"status": "ready", **shared})

    def _others_reachable(self) -> bool:
        """Return whether another process may reach an upstream."""
        return self._remote is not None and self._remote.any_reachable

    @app.route("/stats", methods=["GET"])
    def statistics(self, request: AdminRequest) -> bytes | Deferred[bytes]:
        self._authorize(request)
        if self._remote is not None:
            return self._remote.page(STATS).addCallback(partial(_respond, request, 200))
        return _respond(request, 200, self.stats.document())

    @app.route("/metrics", methods=["GET"])
    def metrics(self, request: AdminRequest) -> bytes | Deferred[bytes]:
        self._authorize(request)
        if self._remote is not None:
            respond = partial(_respond, request, 200, content_type=CONTENT_TYPE)
            return self._remote.page(METRICS).addCallback(respond)
        return _respond(request, 200, self._metrics.text(), CONTENT_TYPE)

    @app.route("/dashboard", methods=["GET"])
    def dashboard(self, request: AdminRequest) -> bytes:
        """Serve the page.

        An unauthorized browser gets status 403: with the page, which asks for the token, or without
        a token with a page that says what to set.
        """
        error = self.denial(request.exchange)
        if error is None:
            return _respond_with_asset(request, PAGE)
        request.setHeader(b"Vary", b"Accept")
        if b"text/html" not in (request.exchange.get(b"accept") or b""):
            raise error
        request.problem_code = error.code
        if self.settings.admin_token:
            return _respond_with_asset(request, PAGE, error.status)
        content = refused_page(error.message, request.exchange.connection.peer)
        return _respond_with_asset(request, REFUSED_PAGE, error.status, content)

    @app.route(EVENTS_PATH, methods=["GET"])
    def dashboard_events(self, request: AdminRequest) -> bytes | Deferred[bytes]:
        self._authorize(request)
        if self.stats.draining:
            raise draining()
        _begin(request, 200, b"text/event-stream")
        if request.method == b"HEAD":
            return b""
        request.setHeader(b"X-Accel-Buffering", b"no")  # nginx buffers the stream otherwise
        return self.events.subscribe(request)

    @app.route("/dashboard/<name>", methods=["GET"])
    def dashboard_asset(self, request: AdminRequest, name: str) -> bytes:
        """Serve a file of the page, without authorization: the files hold no data."""
        if name in PAGES or name not in assets():
            raise not_found()
        return _respond_with_asset(request, name)

    @app.route("/cache", methods=["DELETE"])
    def clear_cache(self, request: AdminRequest) -> Deferred[bytes]:
        """Drop all cache entries, or those of the path that the query names."""
        self._authorize(request)
        clearing = []
        for path in _paths_to_clear(request.exchange.target, self.settings.relay_paths):
            self._store.clear(path)
            clearing.append(self._shared.announce_clearing(path))
        document = {"message": "Cache cleared successfully"}
        return gatherResults(clearing).addCallback(lambda _: _respond(request, 200, document))

    @app.handle_errors(MethodNotAllowed)  # type: ignore[arg-type]  # Klein types the request as an interface
    def method_not_allowed(self, request: AdminRequest, failure: Failure) -> bytes:
        allowed = getattr(failure.value, "valid_methods", None) or ()
        error = method_not_allowed(method.encode("ascii") for method in allowed)
        return self._respond_with_error(request, error)

    @app.handle_errors(RequestRedirect, HTTPException)  # type: ignore[arg-type]  # Klein types the request as an interface
    def no_such_endpoint(self, request: AdminRequest, failure: Failure) -> bytes:
        """Answer 404, instead of Klein's redirects too: they would echo the client's ``Host``."""
        return self._respond_with_error(request, not_found())

    @app.handle_errors(ProxyError)  # type: ignore[arg-type]  # Klein types the request as an interface
    def proxy_error(self, request: AdminRequest, failure: Failure) -> bytes:
        """Answer with the error that an endpoint raised."""
        error = failure.value
        assert isinstance(error, ProxyError)
        return self._respond_with_error(request, error)

    @app.handle_errors(Exception)  # type: ignore[arg-type]  # Klein types the request as an interface
    def internal_error(self, request: AdminRequest, failure: Failure) -> bytes:
        """Log an unexpected exception, and answer without its details."""
        _log.failure("an admin endpoint failed", failure)
        message = "The proxy failed to handle this request. Its log has the traceback."
        return self._respond_with_error(request, ProxyError("internal_error", message))

    def _respond_with_error(self, request: AdminRequest, error: ProxyError) -> bytes:
        for name, value in error.headers:
            request.setHeader(name, value)
        request.problem_code = error.code
        return _respond(request, error.status, error.body())

    def denial(
        self, exchange: Exchange, token_field: bytes = b"authorization"
    ) -> ProxyError | None:
        """Return the 403 for a client that is no operator; ``None`` for an operator.

        :param token_field: see :func:`.authorize`.
        """
        try:
            authorize(exchange, self.settings, token_field)
        except ProxyError as error:
            return error
        return None

    def _authorize(self, request: AdminRequest) -> None:
        error = self.denial(request.exchange)
        if error is not None:
            raise error


def _endpoints(relay_paths: tuple[str, ...]) -> dict[str, str]:
    """Return the methods of each path that the app serves, and of the relayed prefixes."""
    found = {}
    for rule in AdminApp.app.url_map.iter_rules():
        if "<" not in rule.rule and not rule.endpoint.startswith("relayed"):
            found[rule.rule] = " ".join(sorted(rule.methods or ()))
    return dict.fromkeys(relay_paths, " ".join(METHODS)) | dict(sorted(found.items()))


def _paths_to_clear(target: bytes, relay_paths: tuple[str, ...]) -> set[bytes | None]:
    """Return the path in the query of *target*, both as sent and decoded; ``None`` is every path.

    :param relay_paths: a path must start with one of these prefixes.
    :raises ProxyError: ``bad_request`` for any other query, because clearing the whole cache is
        not what such a request asks for.
    """
    query = target.partition(b"?")[2]
    if not query:
        return {None}
    name, _, raw = query.partition(b"=")
    decoded = unquote_to_bytes(raw)
    prefixes = tuple(prefix.encode("ascii") for prefix in relay_paths)
    if name != b"path" or not decoded.startswith(prefixes) or set(raw + decoded) & set(b"&?"):
        raise ProxyError(
            "bad_request",
            f"The query of DELETE /cache must be a single path under {' or '.join(relay_paths)}, "
            f"for example ?path={relay_paths[0]}models. Without a query, the whole cache is "
            "cleared.",
        )
    return {raw, decoded}
