"""The paths of the admin app, so that a request is refused without the web framework.

The table is read from the Klein tree, with the existing files in place of ``/dashboard/<name>``.
"""

from __future__ import annotations

from typing import Final

import attrs

from goproxyai.admin.app import AdminApp
from goproxyai.admin.assets import PAGES, assets

_HEALTH: Final = b"/health"
_OPEN: Final = frozenset((b"/", b"/dashboard"))
"""Paths that every client may request: the index, and the page that asks for the token."""


@attrs.frozen
class AdminRoute:
    """One path.

    :ivar methods: the methods that its endpoint has.
    :ivar refuses: whether a client that is not an operator gets 403 without the endpoint.
    :ivar free: whether requests for it spend no token of the rate limit.
    """

    methods: frozenset[bytes]
    refuses: bool
    free: bool


AdminRoutes = dict[bytes, AdminRoute]
"""Routes by path."""


def health_routes() -> AdminRoutes:
    """Return the routes that a listener of clients serves if operators have their own listener."""
    return {path: route for path, route in admin_routes().items() if route.free}


def admin_routes() -> AdminRoutes:
    """Return the routes of all paths that the admin app serves."""
    routes: AdminRoutes = {}
    for rule in AdminApp.app.url_map.iter_rules():
        methods = frozenset(method.encode("ascii") for method in rule.methods or ())
        if rule.rule == "/dashboard/<name>":
            for name in assets():
                if name not in PAGES:
                    path = f"/dashboard/{name}".encode("ascii")
                    routes[path] = AdminRoute(methods, refuses=False, free=False)
        elif "<" not in rule.rule and not rule.endpoint.startswith("relayed"):
            path = rule.rule.encode("ascii")
            free = path == _HEALTH or path.startswith(_HEALTH + b"/")
            routes[path] = AdminRoute(methods, refuses=not (free or path in _OPEN), free=free)
    return routes
