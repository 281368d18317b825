"""The entry from the HTTP engine: relayed paths go to the proxy, all others to the admin app.

A relayed request bypasses Klein and ``twisted.web``. A ``twisted.web`` request costs 45 us and
Klein's ``render`` another 46 us, whereas a cache hit costs 11 us in all
(``python -m bench.inside``). Refusals bypass both as well, and spend a token of the client's rate
limit, as all requests do except for ``/health`` and those of operators.

The router knows the relayed prefixes and methods from :mod:`goproxyai.proxy.relayed_routes`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs
from twisted.web.server import Site

from goproxyai.admin.app import EVENTS_PATH, AdminApp
from goproxyai.admin.refusals import draining, method_not_allowed, not_found
from goproxyai.admin.routes import AdminRoutes, admin_routes
from goproxyai.admin.stats import Stats
from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.web_adapter import ExchangeChannel
from goproxyai.limits.token_buckets import rate_limit_headers
from goproxyai.proxy.admission import Admission
from goproxyai.proxy.error_response import send_error, send_rate_limited
from goproxyai.proxy.explanation import EXPLAIN_FIELD, EXPLAIN_TOKEN_FIELD
from goproxyai.proxy.handler import ProxyHandler
from goproxyai.proxy.pending_admission import PendingAdmission
from goproxyai.proxy.relayed_routes import METHODS, RELAYED, RelayedRoutes
from goproxyai.proxy.request_id import REQUEST_ID_FIELD, RequestIds
from goproxyai.telemetry.access_log import AccessLog
from goproxyai.telemetry.outcome import Ending, RequestOutcome

_EVENTS = EVENTS_PATH.encode("ascii")


@attrs.frozen
class ExplainedRoutes:
    """What a listener explains to operators.

    :ivar routes: the relayed routes of the service.
    :ivar explain: answers an exchange.
    """

    routes: RelayedRoutes
    explain: Callable[[Exchange], None]


_OPERATORS_ONLY = (
    "Connect directly from an address in ADMIN_ALLOW, to an IP address, localhost or a name in "
    "ADMIN_HOSTS; or send ADMIN_TOKEN as a bearer token in Proxy-Authorization."
)


def _not_explained(advice: str) -> ProxyError:
    return ProxyError("admin_forbidden", f"X-Proxy-Explain is for operators. {advice}")


class Router:
    """Routes each exchange of a listener.

    :param stats: tells whether requests are refused, and counts them.
    :param admission: finds the client's address, and limits its rate of refusals.
    :param routes: the relayed routes; without prefixes, no path is relayed.
    :param served: the routes of the admin app that the listener serves.
    :param explained: the routes that the listener explains to operators.
    """

    def __init__(
        self,
        admin: AdminApp,
        handler: ProxyHandler,
        stats: Stats,
        admission: Admission,
        access_log: AccessLog,
        request_ids: RequestIds,
        routes: RelayedRoutes = RELAYED,
        served: AdminRoutes | None = None,
        explained: ExplainedRoutes | None = None,
    ) -> None:
        self._admin = admin
        self._explained = explained
        prefixes = () if explained is None else explained.routes.prefixes
        self._explained_prefixes = tuple(prefix.encode("ascii") for prefix in prefixes)
        every = admin_routes()
        self._admin_routes = every if served is None else served
        self._paths_elsewhere = every.keys() - self._admin_routes.keys()
        self._site = Site(admin.app.resource())
        self._relay = handler.handle
        self._stats = stats
        self._counters = stats.counters
        self._admission = admission
        self._access_log = access_log
        self._new_id, self._client_id = request_ids.generate, request_ids.of
        self._prefixes = tuple(prefix.encode("ascii") for prefix in routes.prefixes)
        self._methods = frozenset(method.encode("ascii") for method in routes.methods)
        self._allow = ((b"Allow", ", ".join(routes.methods).encode("ascii")),)
        self._allow_of_server = ((b"Allow", b", ".join(self._supported_methods())),)

    def _supported_methods(self) -> list[bytes]:
        """Return the methods that any path of the listener has."""
        served = [route.methods for route in self._admin_routes.values()]
        methods = self._methods.union(*served)
        order = [method.encode("ascii") for method in METHODS]
        return [method for method in order if method in methods]

    def dispatch(self, exchange: Exchange) -> None:
        """Answer *exchange*, now or later."""
        self._counters.requests += 1
        head = exchange.head
        has_id = REQUEST_ID_FIELD in head.fields
        exchange.request_id = self._client_id(exchange) if has_id else self._new_id()
        problem = exchange.problem
        if problem is not None:
            if problem.code == "method_not_allowed":  # the parser does not know the methods
                problem = ProxyError(problem.code, problem.message, self._allow_of_server)
            self._refuse(exchange, problem)
            return
        if self._stats.draining:
            exchange.keep_alive = False
            may_be_served = exchange.is_first and self._stats.serves_new_connections
            if not (may_be_served or exchange.target.startswith(b"/health")):
                self._answer(exchange, draining())
                return
        if not head.target.startswith(self._prefixes):
            self._serve_admin(exchange)
        elif head.method in self._methods:
            # A head that is repeated has a plan, and costs no look-up. A head with the field is
            # never relayed, and has no plan.
            if head.plan is None and EXPLAIN_FIELD in head.fields:
                self._explain(exchange)
            else:
                self._relay(exchange)
        else:
            message = "This method is not relayed; see the Allow header."
            self._refuse(exchange, ProxyError("method_not_allowed", message, self._allow))

    def _explain(self, exchange: Exchange) -> None:
        """Explain a request to an operator, see :mod:`.explanation`; refuse it to others."""
        explained = self._explained
        if explained is None:
            self._refuse(exchange, _not_explained("Send the request to ADMIN_LISTEN."))
        elif self._admin.denial(exchange, EXPLAIN_TOKEN_FIELD) is not None:
            self._refuse(exchange, _not_explained(_OPERATORS_ONLY))
        else:
            explained.explain(exchange)

    def _refuse(self, exchange: Exchange, error: ProxyError) -> None:
        """Answer with *error*, or with 429 if the client has used up its rate limit."""
        self._unless_limited(exchange, partial(self._answer, exchange, error))

    def _unless_limited(self, exchange: Exchange, then: Callable[[], None]) -> None:
        """Take a token of the client and call *then*; answer with 429 if there is none."""
        admission = self._admission
        client = admission.client(exchange)
        wait = admission.take_token(client)
        if wait >= 0:
            self._limit(exchange, then, wait)
            return
        PendingAdmission(
            exchange,
            partial(self._limit, exchange, then),
            partial(self._record, exchange, RequestOutcome(ending=Ending.CLIENT_GONE)),
            partial(self._answer, exchange),
        ).start(admission, client)

    def _limit(self, exchange: Exchange, then: Callable[[], None], wait: float) -> None:
        if not wait:
            then()
            return
        self._counters.limited += 1
        send_rate_limited(exchange, rate_limit_headers(self._admission.per_minute, wait))
        self._record(exchange, RequestOutcome())

    def _answer(self, exchange: Exchange, error: ProxyError) -> None:
        tracer = self._access_log.tracer
        if tracer is not None and exchange.target.startswith(self._prefixes):
            exchange.trace = tracer.begin(exchange)
        relayed = exchange.problem is not None or exchange.target.startswith(self._prefixes)
        send_error(exchange, error, relayed=relayed)
        self._record(exchange, RequestOutcome(code=error.code, detail=error.detail))

    def _serve_admin(self, exchange: Exchange) -> None:
        # Paths are compared byte by byte: `/v1%2fmodels` must not be mistaken for `/v1/models`.
        path = exchange.target.partition(b"?")[0]
        route = self._admin_routes.get(path)
        if route is None and path.startswith(self._explained_prefixes):
            if EXPLAIN_FIELD in exchange.head.fields:
                self._explain(exchange)
                return
        if route is None:
            elsewhere = path in self._paths_elsewhere
            self._refuse(exchange, not_found(path, self._prefixes, elsewhere=elsewhere))
            return
        if exchange.method not in route.methods:
            self._refuse(exchange, method_not_allowed(route.methods))
            return
        if not route.free:
            denial = self._admin.denial(exchange)
            if denial is not None:
                if route.refuses:
                    self._refuse(exchange, denial)
                    return
                self._unless_limited(exchange, partial(self._serve_page, exchange))
                return
        self._serve_page(exchange)

    def _serve_page(self, exchange: Exchange) -> None:
        # The first byte of the dashboard's event stream leaves at once. Otherwise, a dashboard
        # that stays open would be logged as a slow request.
        first_seconds = 0.0 if exchange.target.startswith(_EVENTS) else -1.0

        def record(ended: str, code: str) -> None:
            ending = Ending(ended)
            self._record(
                exchange, RequestOutcome(code=code, ending=ending, first_byte_seconds=first_seconds)
            )

        ExchangeChannel(exchange, self._site, record).serve()

    def _record(self, exchange: Exchange, outcome: RequestOutcome) -> None:
        self._access_log.record(exchange, self._admission.client(exchange), outcome)
