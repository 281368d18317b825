"""On the Python path of a daemon under test: planned name resolution, and object counts.

1. ``SOAK_NAMES`` is a file of ``name address`` lines, read at each lookup: a host in the file has
   that address; another host, unless it is an IP address, does not resolve. No real resolver is
   used.
2. On SIGUSR2 the process writes to ``SOAK_COUNTS`` the number of objects that belong to one request
   or connection, and the reactor's delayed calls.
"""

from __future__ import annotations

import gc
import ipaddress
import json
import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

SHORT_LIVED = (
    "ServerConnection", "ClientConnection", "TunnelProtocol", "Exchange", "RequestBody",
    "BodyCollection", "RequestUpload", "Response", "Forward", "UpstreamRequest",
    "RetryState", "Flight", "SharedBody", "Subscriber", "SubscriberSet", "ResumedForward",
    "Recorder", "Replay", "TimedReplay", "ReplayWatch", "ExchangeChannel", "AdminRequest",
    "RequestTrace", "_PendingRequest", "RetryTimer", "_Race", "Tunnel", "TunnelEnd", "Direction",
)  # fmt: skip
"""Classes whose objects live no longer than a request or a connection."""

_getaddrinfo = socket.getaddrinfo


def planned_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    """Resolve *host* by the file of names only."""
    name = host.decode() if isinstance(host, bytes) else host
    try:
        ipaddress.ip_address(name)
    except ValueError:
        rows = Path(os.environ["SOAK_NAMES"]).read_text().splitlines()
        addresses = dict(row.split() for row in rows)
        if name not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
        name = addresses[name]
    return _getaddrinfo(name, *args, **kwargs)


def write_counts(*_: object) -> None:
    sys.modules["goproxyai.daemon.memory"].collect_and_trim()  # as the daemon does every 10 minutes
    counts = Counter(type(each).__name__ for each in gc.get_objects())
    reactor = sys.modules["twisted.internet.reactor"]
    calls = sorted(
        getattr(call.func, "__qualname__", type(call.func).__qualname__)
        for call in reactor.getDelayedCalls()
    )
    found = {
        "blocks": sys.getallocatedblocks(),
        "objects": {name: counts[name] for name in SHORT_LIVED if counts[name]},
        "calls": calls,
    }
    path = Path(os.environ["SOAK_COUNTS"])
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(found))
    unfinished.replace(path)


if "SOAK_NAMES" in os.environ:
    socket.getaddrinfo = planned_getaddrinfo
    signal.signal(signal.SIGUSR2, write_counts)
