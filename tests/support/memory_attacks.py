"""Attacks that make a daemon hold memory. Each leaves its connections open.

All are bounded in number and size. The upstream is a :class:`~.slow_upstream.SlowUpstream`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from tests.support.attacks import MIB, Attackers, get_request, large_head, post_request

Attack = Callable[[Attackers], None]

CONNECTIONS = 1000
"""The most connections of an attack."""


def heads_without_end(attackers: Attackers) -> None:
    attackers.send_all([large_head(b"/v1/models", each)[:-2] for each in range(CONNECTIONS)])


def trailers_without_end(attackers: Attackers) -> None:
    client = attackers.connect()
    head = b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with suppress(OSError):  # the daemon refuses the trailers
        client.sendall(head + b"1\r\nx\r\n0\r\n")
        for _ in range(340):
            client.sendall(b"a:\r\n" * 25_000)


def bodies_that_are_collected(attackers: Attackers) -> None:
    bodies = [b"%d" % each + b"x" * (9 * MIB) for each in range(20)]
    attackers.send_all([post_request(b"/v1/embeddings", each, 1) for each in bodies])


def bodies_of_requests_in_progress(attackers: Attackers) -> None:
    bodies = [b"%d" % each + b"x" * 60_000 for each in range(CONNECTIONS)]
    attackers.send_all([post_request(b"/v1/embeddings?stall=/stall", each) for each in bodies])


def bodies_of_requests_that_hits_answer(attackers: Attackers) -> None:
    message = post_request(b"/v1/embeddings?size=1500000", b"x" * (9 * MIB))
    first = attackers.connect()
    first.sendall(message)
    first.recv(1)
    attackers.send_all([message] * 20, receive_bytes=4096)


def bodies_that_share_an_upstream_request(attackers: Attackers) -> None:
    message = post_request(b"/v1/embeddings?stall=/stall", b"x" * (9 * MIB))
    attackers.send_all([message] * 20)


def uploads_that_the_upstream_does_not_read(attackers: Attackers) -> None:
    message = post_request(b"/v1/files/unread", b"x" * MIB, 50 * MIB)
    attackers.send_all([message] * 200)


def pipelined_requests(attackers: Attackers) -> None:
    requests = get_request(b"/v1/models") * 1_500
    attackers.send_all(
        [get_request(b"/v1/stall?%d" % each) + requests for each in range(CONNECTIONS)]
    )


def large_heads_of_requests_in_progress(attackers: Attackers) -> None:
    attackers.send_all([large_head(b"/v1/stall", each) for each in range(CONNECTIONS)])


def large_heads_of_idle_connections(attackers: Attackers) -> None:
    requests = [large_head(b"/health/live", each, 7_000, 60) for each in range(CONNECTIONS // 2)]
    requests += [large_head(b"/health/live", each) for each in range(CONNECTIONS // 2)]
    attackers.send_all(requests)


def refused_targets(attackers: Attackers) -> None:
    for each in range(600):
        with suppress(OSError):
            attackers.connect().sendall(b"GET /v1/%d" % each + b"x" * 80_000)


def slow_readers_of_misses(attackers: Attackers) -> None:
    messages = [get_request(b"/v1/models?%d&size=%d" % (each, 4 * MIB)) for each in range(200)]
    attackers.send_all(messages, receive_bytes=4096)


def slow_readers_of_small_hits(attackers: Attackers) -> None:
    messages = [get_request(b"/v1/models?size=60000") * 200] * (CONNECTIONS // 2)
    attackers.send_all(messages, receive_bytes=4096)


def slow_readers_of_evicted_entries(attackers: Attackers) -> None:
    """Read each entry a bit: the next ones evict it."""
    for each in range(40):
        message = get_request(b"/v1/models?%d&size=1900000" % each)
        reader = attackers.connect()
        reader.settimeout(5.0)
        reader.sendall(message)
        received, expected = 0, 1_900_002
        while received < expected:
            data = reader.recv(MIB)
            if data.startswith(b"HTTP/1.1 503"):
                break
            received += len(data)
        reader.close()
        slow = attackers.connect(receive_bytes=4096)
        slow.sendall(message)
        slow.recv(1)


ATTACKS: tuple[Attack, ...] = (
    heads_without_end,
    trailers_without_end,
    bodies_that_are_collected,
    bodies_of_requests_in_progress,
    bodies_of_requests_that_hits_answer,
    bodies_that_share_an_upstream_request,
    uploads_that_the_upstream_does_not_read,
    pipelined_requests,
    large_heads_of_requests_in_progress,
    large_heads_of_idle_connections,
    refused_targets,
    slow_readers_of_misses,
    slow_readers_of_small_hits,
    slow_readers_of_evicted_entries,
)
