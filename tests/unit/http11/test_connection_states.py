"""State changes of connections follow :data:`goproxyai.http11.connection_states.TRANSITIONS`."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionLost

from goproxyai.http11.client_connection import ClientConnection
from goproxyai.http11.connection_states import (
    TRANSITIONS,
    ClientState,
    InputState,
    OutputState,
    ResponseInputState,
    TunnelState,
)
from goproxyai.http11.request_parser import RequestParser
from goproxyai.http11.response_output import ResponseOutput
from goproxyai.http11.response_parser import ResponseParser
from goproxyai.http11.tunnel_end import TunnelEnd
from tests.support.memory_server import MemoryServer, get, post, respond
from tests.support.memory_upstream import MemoryUpstream

OWNERS = (RequestParser, ResponseOutput, ClientConnection, ResponseParser, TunnelEnd)
TABLE = {(state, following) for state, states in TRANSITIONS.items() for following in states}

Steps = list[bytes | str]
"""Bytes to receive, and other steps by name."""

UPGRADE = (b"Connection: upgrade", b"Upgrade: a")
REQUESTS = [
    get(), get(b"/", b"Connection: close"), get()[:20], get()[20:], post(length=3),
    post(length=3) + b"abc", b"abc", post(), b"3\r\nabc\r\n", b"0\r\n\r\n", b"zz\r\n",
    get(b"/", *UPGRADE), post(*UPGRADE, length=3), b"\r\n", b"GET / HTTP/9.9\r\n\r\n",
]  # fmt: skip
OK = b"HTTP/1.1 200 OK\r\n"
RESPONSES = [
    OK, b"Content-Length: 3\r\n\r\n", b"abc", b"\r\n", b"Connection: close\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"zz\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n",
]  # fmt: skip


SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
TUNNEL_STEPS: dict[object, Callable[[TunnelEnd], None]] = {
    "end abort": TunnelEnd.abort,
    "end finish": TunnelEnd.finish,
    "end close": TunnelEnd.close,
}


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> set[tuple[Enum, Enum]]:
    """The changes of state of every object that is made while the fixture is in use."""
    seen: set[tuple[Enum, Enum]] = set()
    for owner in OWNERS:
        monkeypatch.setattr(owner, "state", _recording(owner.state, seen))
    return seen


def _recording(slot: Any, seen: set[tuple[Enum, Enum]]) -> property:
    def assign(instance: object, state: Enum) -> None:
        try:
            before = slot.__get__(instance)
        except AttributeError:  # the initial state
            before = state
        if before is not state:
            seen.add((before, state))
        slot.__set__(instance, state)

    return property(slot.__get__, assign)


def run_server(steps: Steps) -> None:
    server = MemoryServer(max_body_bytes=100)
    transport = server.transport
    for step in steps:
        if isinstance(step, bytes):
            if transport.reading and not transport.aborted:
                server.connection.dataReceived(step)
        elif step == "respond":
            for exchange in server.exchanges[-1:]:
                if not exchange.response_started:
                    respond(exchange)
        elif step == "block" and transport.producer is not None:
            server.block()
        elif step == "unblock" and transport.producer is not None:
            server.unblock()
        elif step == "wait":
            server.advance(100)
        elif step == "drain":
            server.connection.drain()
        elif step == "disconnect":
            server.disconnect()
            break


def run_client(steps: Steps) -> None:
    upstream = MemoryUpstream(tls=True)
    upstream.asks_for_websocket = True
    for step in steps:
        if isinstance(step, bytes):
            upstream.receive(step)
        elif step == "handshake" and upstream.connection.state is ClientState.CONNECTING:
            upstream.connection.handshakeCompleted()
        elif step in ("GET", "HEAD") and upstream.connection.state is ClientState.IDLE:
            upstream.send(method=step.encode())
        elif step == "wait":
            upstream.advance(100)
        elif step == "abort":
            upstream.connection.abort()
        elif step in TUNNEL_STEPS and upstream.end is not None:
            TUNNEL_STEPS[step](upstream.end)
        elif step == "lose":
            upstream.lose(ConnectionLost())
            break


SERVER_STEPS: list[Steps] = [
    [get(), "respond", get(b"/", b"Connection: close"), "respond", "disconnect"],
    [post(length=3) + b"abc", "respond", post(length=3), b"abc", "respond", "wait", "disconnect"],
    [post(*UPGRADE, length=3), b"abc", "respond", "drain", "disconnect"],
    [get()[:20], "wait", "respond", "disconnect"],
    [post(), b"zz\r\n", "disconnect"],
    [get(), "block", "unblock", "block", "disconnect"],
    [get(b"/", b"Connection: close"), "block", "respond", "disconnect"],
    ["disconnect"],
]
CLIENT_STEPS: list[Steps] = [
    ["abort", "lose"],
    ["lose"],
    ["handshake", "lose"],
    ["handshake", "wait", "abort", "lose"],
    ["handshake", "GET", "lose"],
    ["handshake", "GET", "wait", "lose"],
    ["handshake", "GET", b"HTTP/1.1 103 Early Hints\r\n\r\n", OK + b"\r\n", "lose"],
    ["handshake", "GET", OK + b"Content-Length: 3\r\n\r\n", b"abc", "GET", "lose"],
    ["handshake", "HEAD", OK + b"\r\n", "lose"],
    ["handshake", "GET", b"HTTP/1.1 204 X\r\n\r\n", "GET", "lose"],
    ["handshake", "GET", OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n", "wait", "lose"],
    ["handshake", "GET", OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n", "lose"],
    ["handshake", "GET", SWITCHED, "lose"],
    ["handshake", "GET", SWITCHED, "abort", "lose"],
    ["handshake", "GET", SWITCHED, "end abort", "lose"],
    ["handshake", "GET", SWITCHED, "end finish", "lose"],
    ["handshake", "GET", SWITCHED, "end finish", "end abort", "lose"],
    ["handshake", "GET", SWITCHED, "end finish", "end close", "lose"],
    ["handshake", "GET", SWITCHED, "end close", "end abort", "lose"],
]


def test_every_transition_of_the_table_occurs_and_no_other(
    changes: set[tuple[Enum, Enum]],
) -> None:
    for steps in SERVER_STEPS:
        run_server(steps)
    for steps in CLIENT_STEPS:
        run_client(steps)
    assert changes == TABLE


@given(
    st.lists(
        st.sampled_from([*REQUESTS, "respond", "block", "unblock", "wait", "drain", "disconnect"]),
        max_size=12,
    ),
    st.lists(
        st.sampled_from(
            [*RESPONSES, SWITCHED, *TUNNEL_STEPS, "GET", "HEAD", "wait", "abort", "lose"]
        ),
        max_size=12,
    ),
)
def test_random_steps_follow_the_table(server_steps: Steps, client_steps: Steps) -> None:
    with pytest.MonkeyPatch.context() as patch:
        seen: set[tuple[Enum, Enum]] = set()
        for owner in OWNERS:
            patch.setattr(owner, "state", _recording(owner.state, seen))
        run_server(server_steps)
        run_client(["handshake", "GET", *client_steps])
        assert seen - TABLE == set()


def test_table_has_every_state() -> None:
    assert set(TRANSITIONS) == {
        *InputState, *OutputState, *ClientState, *ResponseInputState, *TunnelState,
    }  # fmt: skip
