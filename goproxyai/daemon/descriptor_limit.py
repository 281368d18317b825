"""The process's limit on open files, and the number of connections that the limit allows."""

from __future__ import annotations

import resource
from typing import Any

from twisted.logger import Logger

from goproxyai.limits.connection_slots import ConnectionSlots, descriptors, places

_log = Logger(namespace="goproxyai")


def fit_descriptor_limit(slots: ConnectionSlots[Any]) -> None:
    """Raise the soft limit on open files to the hard limit, and lower ``slots.most`` to fit it."""
    limit = _raise_limit()
    if limit == resource.RLIM_INFINITY:
        return
    wanted = slots.most
    slots.most = places(limit, wanted)
    if slots.most < wanted:
        _log.warn(
            "MAX_CONNECTIONS is {wanted}, which needs {needed} file descriptors, but the limit is "
            "{limit}: at most {most} connections are accepted; raise the limit (ulimit -n)",
            wanted=wanted,
            needed=descriptors(wanted),
            limit=limit,
            most=slots.most,
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
