"""What a failed upstream request says about the upstream."""

from __future__ import annotations

import errno
import os
from typing import Final

from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.python.failure import Failure

from goproxyai.egress.tls import CERTIFICATE_ERRORS
from goproxyai.errors import ProxyError
from goproxyai.http11.errors import ConnectionBroken, UpstreamTimeout
from goproxyai.messages.connect_errors import ConnectRefused
from goproxyai.messages.socks5 import SocksRefused

LOCAL_ERRNOS: Final = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
)
"""Shortages of the own process or machine: descriptors, memory, ports."""

_RECURRING_FAILURES = (UpstreamTimeout, ConnectTimeout, DeferredTimeout, *CERTIFICATE_ERRORS)
"""Connect failures that the same upstream would repeat, or that have taken long enough."""


def is_local_error(reason: Failure) -> bool:
    """Return whether *reason* is a shortage of the proxy's own process or machine, or budget.

    Such an error says nothing about the upstream, and must not open its circuit.
    """
    exception = reason.value
    while isinstance(exception, ConnectionBroken):
        exception = exception.reason.value
    match exception:
        case DNSLookupError():  # `getaddrinfo` does not tell that it has got no descriptor
            return not _has_descriptors()
        case ConnectError():  # Twisted gives the number in place of the exception
            return exception.osError in LOCAL_ERRNOS
        case OSError():
            return exception.errno in LOCAL_ERRNOS
        case ProxyError():
            return exception.code == "overloaded"
    return isinstance(exception, MemoryError)


def _has_descriptors() -> bool:
    """Return whether a descriptor can be opened."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in LOCAL_ERRNOS
    return True


def would_recur(reason: Failure) -> bool:
    """Return whether the same upstream would fail to connect once more, for *reason*."""
    exception = reason.value
    if isinstance(exception, ConnectRefused):
        return exception.status < 500
    if isinstance(exception, SocksRefused):
        return exception.would_recur
    return reason.check(*_RECURRING_FAILURES) is not None
