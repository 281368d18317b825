"""The process's limit on open files, and the number of connections that the limit allows."""

from __future__ import annotations

import resource
from typing import Any

from twisted.logger import Logger

from goproxyai.limits.connection_slots import ConnectionSlots, connections_for, descriptors_for

_log = Logger(namespace="goproxyai")


def fit_descriptor_limit(slots: ConnectionSlots[Any]) -> None:
    """Raise the soft limit on open files to the hard one, and lower the slots to fit it."""
    limit = _raise_limit()
    if limit == resource.RLIM_INFINITY:
        return
    wanted = slots.max_connections
    slots.max_connections = connections_for(limit, wanted)
    if slots.max_connections < wanted:
        _log.warn(
            "MAX_CONNECTIONS is {wanted}, which needs {needed} file descriptors, but the limit is "
            "{limit}: at most {most} connections are accepted; raise the limit (ulimit -n)",
            wanted=wanted,
            needed=descriptors_for(wanted),
            limit=limit,
            most=slots.max_connections,
        )


def _raise_limit() -> int:
    """Return the limit on open files, raised as far as the process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # a sandbox may forbid what the hard limit allows
        return soft
    return hard
