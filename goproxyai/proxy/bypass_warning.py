"""The warning about a request header that keeps most requests from the cache.

A load balancer or a client library that adds an unknown header to every request makes all of them
bypass the cache. The warning names the header, so that the operator can decide on
``CACHE_IGNORE_HEADERS``.
"""

from __future__ import annotations

import re

from twisted.logger import Logger

from goproxyai.cache.request_fields import MAX_NEUTRAL_BYTES, is_neutral
from goproxyai.messages.redaction import mask_credentials
from goproxyai.telemetry.counters import Counters

WINDOW_SECONDS = 600.0
MIN_REQUESTS = 100
MAX_NAMES = 64
MAX_NAME_BYTES = 64

_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")
_log = Logger(namespace="goproxyai")


class BypassWarning:
    """Counts the requests that bypass the cache because of a header, and warns every ten minutes.

    A ticker calls it. The table of names is bounded by the algorithm of Misra and Gries: a header
    of more than half of the requests stays in it, whatever other names clients send. With over
    :data:`MAX_NAMES` names its count is too low by at most one in 65 requests.

    :param counters: has the requests that the cache was used for.
    :param now: seconds of the ticker's clock.
    """

    def __init__(self, counters: Counters, now: float) -> None:
        self._counters = counters
        self._names: dict[bytes, int] = {}
        self._open_window(now)

    def _open_window(self, now: float) -> None:
        self._ends = now + WINDOW_SECONDS
        self._looked_up_before = self._counters.looked_up
        self._bypassed = 0
        self._names = {}

    def count(self, name: bytes) -> None:
        """Count a request that would have been looked up but for a header.

        :param name: lower-cased name of the header.
        """
        self._bypassed += 1
        names, name = self._names, name[:MAX_NAME_BYTES]
        if name in names or len(names) < MAX_NAMES:
            names[name] = names.get(name, 0) + 1
        else:
            self._names = {each: count - 1 for each, count in names.items() if count > 1}

    def tick(self, now: float) -> None:
        """Warn at the end of a window if one header kept over half of the requests from the cache.

        The requests are those whose method and path may be answered from the cache.
        """
        if now < self._ends:
            return
        total = self._bypassed + self._counters.looked_up - self._looked_up_before
        if total >= MIN_REQUESTS and self._names:
            name, count = max(self._names.items(), key=lambda item: item[1])
            if 2 * count > total:
                _warn(name, count, total)
        self._open_window(now)

    def postpone(self, lost: float, now: float) -> None:
        """A standstill moves the end of the window."""
        self._ends += lost


def _warn(name: bytes, count: int, total: int) -> None:
    if name == b"cookie":
        advice = "If its cookies do not change responses, add their names to CACHE_IGNORE_COOKIES"
    elif name == b"x-stainless-poll-helper":
        advice = "The OpenAI library sends it when it polls, and needs the present state"
    elif is_neutral(name):
        advice = (
            "It does not change responses, but is the largest of such headers, which may have "
            f"{MAX_NEUTRAL_BYTES} bytes together. Let the sender or a load balancer shorten it"
        )
    else:
        advice = "If it does not change responses, add it to CACHE_IGNORE_HEADERS"
    _log.warn(
        "the request header {name} makes requests bypass the cache: {count} of the {total} "
        "cacheable requests of the last ten minutes. {advice}",
        name=mask_credentials(_UNPRINTABLE.sub("?", name.decode("latin-1"))),
        count=count,
        total=total,
        advice=advice,
    )
