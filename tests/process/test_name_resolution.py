"""A daemon whose system resolver does not answer."""

from __future__ import annotations

import signal
from http.client import HTTPConnection
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

from tests.process.daemon_process import TIMEOUT_SECONDS, Start, start

__all__ = ["start"]  # the fixture

pytestmark = pytest.mark.process

REQUESTS = 20

HANGING_RESOLVER = """
import socket, time
getaddrinfo = socket.getaddrinfo
def hanging(host, *arguments, **options):
    if host != "upstream.test":
        return getaddrinfo(host, *arguments, **options)
    with open("lookups", "a") as lookups:
        lookups.write("1")
    time.sleep(600)
socket.getaddrinfo = hanging
"""


def test_requests_share_one_lookup_and_the_end_does_not_wait_for_it(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGING_RESOLVER)
    process = start(
        is_forked=False,
        OPENAI_API_URL="http://upstream.test:1",
        CONNECT_TIMEOUT="1s",
        DRAIN_TIMEOUT="1s",
        BREAKER="0",
    )
    (port,) = process.listening()

    def status(number: int) -> int:
        connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", f"/v1/models/{number}")
            return connection.getresponse().status
        finally:
            connection.close()

    with ThreadPool(REQUESTS) as pool:
        assert pool.map(status, range(REQUESTS)) == [504] * REQUESTS
    assert (tmp_path / "lookups").read_text() == "1"
    process.send(signal.SIGTERM)
    process.ended()  # in less than the time of a look-up
