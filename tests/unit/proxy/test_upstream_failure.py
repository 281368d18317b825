"""Which failures of upstream requests are local errors."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from twisted.internet.error import (
    ConnectBindError,
    ConnectError,
    ConnectionLost,
    DNSLookupError,
    getConnectError,
)
from twisted.python.failure import Failure

from goproxyai.errors import ProxyError, out_of_memory
from goproxyai.http11.errors import Awaited, ConnectionBroken, UpstreamTimeout
from goproxyai.proxy.error_response import proxy_error_for
from goproxyai.proxy.upstream_failure import is_local_error


@pytest.mark.parametrize(
    "exception",
    [
        ConnectBindError(errno.EMFILE, "Too many open files"),
        getConnectError(OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")),
        OSError(errno.ENFILE, "Too many open files in system"),
        ConnectionBroken(Failure(OSError(errno.ENOBUFS, "No buffer space available"))),
        MemoryError(),
    ],
)
def test_shortage_of_the_process_is_local(exception: Exception) -> None:
    assert is_local_error(Failure(exception))
    error = proxy_error_for(Failure(exception))
    assert (error.code, error.status) == ("overloaded", 503)
    assert type(exception).__name__ in error.detail or isinstance(exception, ConnectionBroken)


@pytest.mark.parametrize(
    "exception",
    [
        ConnectError(errno.ECONNREFUSED, "Connection refused"),
        ConnectionLost(),
        ConnectionBroken(Failure(ConnectionLost())),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        UpstreamTimeout(Awaited.CONNECTION),
        DNSLookupError("no results for hostname lookup: upstream"),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    ],
)
def test_failure_of_the_upstream_is_not_local(exception: Exception) -> None:
    assert not is_local_error(Failure(exception))


def test_budget_that_is_used_up_is_local() -> None:
    assert is_local_error(Failure(ConnectionBroken(Failure(out_of_memory()))))
    assert not is_local_error(Failure(ProxyError("upstream_unreachable", "It refused.")))


def test_failed_name_lookup_without_descriptors_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", refuse)
    assert is_local_error(Failure(DNSLookupError()))
