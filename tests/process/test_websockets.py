"""WebSockets of real clients to real servers, through a daemon."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.process.daemon_process import DaemonProcess, Start, eventually, get, start
from tests.support.attacks import memory_of
from tests.support.authority import Authority
from tests.support.harness import ProxyHarness
from tests.support.websocket_server import (
    Handler,
    echo,
    raw_echo,
    realtime_api,
    responses_api,
    websocket_server,
)

pytestmark = pytest.mark.process

__all__ = ["start"]  # the fixture

TUNNELS = 500
MAX_TUNNEL_BYTES = 32 * 1024
KEY = "sk-good"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


def started(start: Start, stack: ExitStack, handler: Handler, **settings: str) -> DaemonProcess:
    """Start a daemon in front of a server with *handler*."""
    port = stack.enter_context(websocket_server(handler))
    settings = {"RATE_LIMIT": "0", **settings}
    return start(OPENAI_API_URL=f"http://127.0.0.1:{port}", **settings)


def opened(port: int, **options: Any) -> ClientConnection:
    """Open a WebSocket through the daemon on *port*."""
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"ws://127.0.0.1:{port}/v1/realtime?model=m"
    options = {"max_size": None, "proxy": None, "additional_headers": headers, **options}
    return connect(url, **options)


def client_of(port: int) -> openai.OpenAI:
    return openai.OpenAI(
        api_key=KEY,
        base_url=f"http://127.0.0.1:{port}/v1",
        websocket_base_url=f"ws://127.0.0.1:{port}/v1",
        http_client=openai.DefaultHttpxClient(trust_env=False, timeout=20),
        max_retries=0,
    )


def test_messages_pass_both_ways(start: Start, stack: ExitStack) -> None:
    process = started(start, stack, echo)
    (port,) = process.listening()
    with opened(port, subprotocols=["realtime"]) as client:
        assert client.subprotocol == "realtime"
        assert client.response is not None
        assert client.response.headers["X-Proxy"] == "goproxyai"
        for message in ("text", b"binary", "x" * 3_000_000, b""):
            client.send(message)
            assert client.recv(timeout=10) == message
        client.send(["frag", "ment", "ed"])
        assert client.recv(timeout=10) == "fragmented"
        assert client.ping().wait(10)
    assert client.close_code == 1000
    eventually(lambda: process.requests)
    (line,) = process.requests
    assert (line["status"], line["cache"], line["ended"]) == (101, "upgrade", "ok")
    assert line["bytes_in"] > 0
    assert line["bytes_out"] > 0


def test_close_of_the_server_reaches_the_client(start: Start, stack: ExitStack) -> None:
    def refuse(connection: Any) -> None:
        connection.recv()
        connection.close(4000, "enough")

    (port,) = started(start, stack, refuse).listening()
    with opened(port) as client:
        client.send("first")
        with pytest.raises(ConnectionClosedError) as caught:
            client.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4000, "enough")


def test_upgrades_off_answers_426(start: Start, stack: ExitStack) -> None:
    (port,) = started(start, stack, echo, UPGRADES="off").listening()
    with pytest.raises(InvalidStatus) as caught:
        opened(port)
    response = caught.value.response
    assert (response.status_code, response.headers["Upgrade"]) == (426, "websocket")
    assert json.loads(response.body)["error"]["code"] == "upgrade_refused"


SDK_WARNINGS = pytest.mark.filterwarnings(
    r"ignore:connect\(\) must be used as a context manager:DeprecationWarning"
)


@SDK_WARNINGS
def test_realtime_client_of_openai(start: Start, stack: ExitStack) -> None:
    (port,) = started(start, stack, realtime_api).listening()
    with client_of(port) as client, client.realtime.connect(model="gpt-realtime") as connection:
        assert connection.recv().type == "session.created"
        connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
        updated: Any = connection.recv()
        assert (updated.type, updated.session.instructions) == ("session.updated", "Be brief.")


@SDK_WARNINGS
def test_beta_realtime_client_of_openai(start: Start, stack: ExitStack) -> None:
    (port,) = started(start, stack, realtime_api).listening()
    with client_of(port) as client, client.beta.realtime.connect(model="gpt-4o") as connection:
        assert connection.recv().type == "session.created"


@SDK_WARNINGS
def test_responses_client_of_openai(start: Start, stack: ExitStack) -> None:
    (port,) = started(start, stack, responses_api).listening()
    with client_of(port) as client, client.responses.connect() as connection:
        for _ in range(2):
            connection.response.create(model="gpt-5", input="Hello")
            assert connection.recv().type == "response.created"
            assert connection.recv().type == "response.completed"


@pytest_twisted.ensureDeferred
async def test_through_connect_proxy_and_tls(
    harness: ProxyHarness, authority: Authority, start: Start, stack: ExitStack, tmp_path: Path
) -> None:
    server = websocket_server(echo, authority.good(), tmp_path)
    harness.upstream_port = stack.enter_context(server)
    proxy, proxy_port = await harness.egress(("user", "secret"), tls=True)
    process = start(
        OPENAI_API_URL="https://api.openai.test",
        PROXY_URL=f"https://user:secret@localhost:{proxy_port}",
        SSL_CERT_FILE=str(authority.pem),
    )
    (port,) = await deferToThread(process.listening)

    def exchange() -> Any:
        with opened(port) as client:
            client.send("x" * 300_000)
            return client.recv(timeout=10)

    assert await deferToThread(exchange) == "x" * 300_000
    await proxy.wait_until(lambda: len(proxy.tunnels) == 1 and not proxy.tunnels[0].open)


def test_sigterm_waits_for_a_tunnel(start: Start, stack: ExitStack) -> None:
    process = started(start, stack, echo)
    (port,) = process.listening()
    with opened(port) as client:
        process.send(signal.SIGTERM)
        process.until(lambda: "draining 1 connections" in process.out)
        client.send("still here")
        assert client.recv(timeout=10) == "still here"
    assert process.ended() in (0, -15)


def test_many_tunnels_at_once(start: Start, stack: ExitStack) -> None:
    handshake = (
        b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk-good\r\n"
        b"User-Agent: OpenAI/Python 3.57.0\r\nOpenAI-Beta: realtime=v1\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    process = start(
        OPENAI_API_URL=f"http://127.0.0.1:{stack.enter_context(raw_echo())}",
        RATE_LIMIT="0", MAX_CONNECTIONS="600",
    )  # fmt: skip
    (port,) = process.listening()

    def tunnel() -> socket.socket:
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        client.sendall(handshake)
        assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
        return client

    tunnel().close()
    before = memory_of(process.pid)
    tunnels = [tunnel() for _ in range(TUNNELS)]
    for number, each in enumerate(tunnels):
        each.sendall(b"frame %d" % number)
    for number, each in enumerate(tunnels):
        assert each.recv(100) == b"frame %d" % number
    assert memory_of(process.pid) - before <= TUNNELS * MAX_TUNNEL_BYTES
    assert get(port, "/stats")[1]["tunnels"]["open"] == TUNNELS
    for each in tunnels:
        each.close()
    eventually(lambda: get(port, "/stats")[1]["tunnels"]["open"] == 0)
    eventually(lambda: get(port, "/stats")[1]["request_memory"]["bytes"] == 0)
