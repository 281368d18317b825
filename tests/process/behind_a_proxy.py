"""What every proxy in front of the daemon must let through."""

from __future__ import annotations

from websockets.sync.client import connect as websocket_connect

from tests.support.answers import chunk, head
from tests.support.harness import ProxyHarness, request
from tests.support.raw_client import RawClient
from tests.support.steps import Pause


async def assert_stream_arrives_event_by_event(
    harness: ProxyHarness, client: RawClient, path: str
) -> None:
    """Request a stream at *path* over *client*, a connection to the proxy, and reset it."""
    pause = Pause()
    fields = [(b"Content-Type", b"text/event-stream"), (b"Transfer-Encoding", b"chunked")]
    harness.upstream.script(
        path,
        [head(200, fields), chunk(b"data: 1\n\n"), pause, chunk(b"data: 2\n\n"), chunk(b"")],
    )
    client.send(request(path))
    await client.until(lambda: b"data: 1" in client.received)
    assert b"data: 2" not in client.received
    pause.release()
    answer = await client.answer()
    assert (answer.body, answer.cut) == (b"data: 1\n\ndata: 2\n\n", False)
    client.abort()


def assert_websocket_echoes(port: int) -> None:
    """Exchange messages with an echo server through the proxy at *port*."""
    url = f"ws://127.0.0.1:{port}/v1/realtime"
    with websocket_connect(url, proxy=None, max_size=None) as client:
        for message in ("text", b"x" * 1_000_000):
            client.send(message)
            assert client.recv(timeout=10) == message
    assert client.close_code == 1000
