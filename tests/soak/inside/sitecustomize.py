"""On the Python path of a daemon under test: names that resolve as planned, and a look inside.

1. ``FAULTS_NAMES`` is a file of ``name address`` lines, read anew at each look-up: a host that is
   in it has that address, one that is not (and is no address) has none. Nobody else is asked.
2. On SIGUSR2 ``FAULTS_LOOK`` is written: how many objects there are that belong to one request or
   one connection, and which delayed calls the reactor has. Nothing of it is looked at by a request.
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

PASSING = (
    "ServerConnection", "ClientConnection", "ConnectProtocol", "Exchange", "RequestBody",
    "WholeBody", "Response", "Upload", "Flight", "Rider", "Forward", "Resumed", "Recorder",
    "Replay", "PacedReplay", "ExchangeChannel", "SystemRequest", "_Attempt", "_Reading",
    "_Replaying",
)  # fmt: skip
"""What lives as long as a request or a connection."""

_ask = socket.getaddrinfo


def planned(host: Any, *more: Any, **named: Any) -> Any:
    """As ``socket.getaddrinfo``, of the names in the file."""
    name = host.decode() if isinstance(host, bytes) else host
    try:
        ipaddress.ip_address(name)
    except ValueError:
        rows = Path(os.environ["FAULTS_NAMES"]).read_text().splitlines()
        known = dict(row.split() for row in rows)
        if name not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
        name = known[name]
    return _ask(name, *more, **named)


def look(*_: object) -> None:
    """Write down what there is."""
    sys.modules[
        "goproxyai.daemon.memory"
    ].collect_and_trim()  # the daemon does so every ten minutes
    names = Counter(type(each).__name__ for each in gc.get_objects())
    reactor = sys.modules["twisted.internet.reactor"]
    calls = sorted(
        getattr(call.func, "__qualname__", type(call.func).__qualname__)
        for call in reactor.getDelayedCalls()
    )
    found = {
        "blocks": sys.getallocatedblocks(),
        "objects": {name: names[name] for name in PASSING if names[name]},
        "calls": calls,
    }
    path = Path(os.environ["FAULTS_LOOK"])
    half = path.with_suffix(".half")
    half.write_text(json.dumps(found))
    half.replace(path)


if "FAULTS_NAMES" in os.environ:
    socket.getaddrinfo = planned
    signal.signal(signal.SIGUSR2, look)
