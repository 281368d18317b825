"""A WebSocket server of the ``websockets`` library, in a thread of its own."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests.support.authority import Identity
from tests.support.websocket import END_OF_HEAD, SWITCHED

Handler = Callable[[ServerConnection], None]


def echo(connection: ServerConnection) -> None:
    """Send every message back."""
    for message in connection:
        connection.send(message)


def realtime_api(connection: ServerConnection) -> None:
    """Be a Realtime API: a session, and its update."""
    session: dict[str, Any] = {"type": "realtime", "object": "realtime.session", "id": "sess_1"}
    connection.send(json.dumps(_event("session.created", session=session)))
    for message in connection:
        received = json.loads(message)
        assert received["type"] == "session.update"
        session |= received["session"]
        connection.send(json.dumps(_event("session.updated", session=session)))


def responses_api(connection: ServerConnection) -> None:
    """Be a Responses API: each request gets the events of a response."""
    for message in connection:
        received = json.loads(message)
        assert received["type"] == "response.create"
        response = {
            "id": "resp_1", "object": "response", "created_at": 1, "model": received["model"],
            "output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        }  # fmt: skip
        for number, name in enumerate(("created", "completed")):
            event = {"response": response, "sequence_number": number}
            connection.send(json.dumps(_event(f"response.{name}", **event)))


def _first_offered(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return offered[0] if offered else None


class _RawEcho(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with suppress(OSError):
            head = b""
            while END_OF_HEAD not in head:
                head += self.request.recv(4096)
            self.request.sendall(SWITCHED)
            while data := self.request.recv(4096):
                self.request.sendall(data)


class _RawServer(socketserver.ThreadingTCPServer):
    request_queue_size = 1024


@contextmanager
def raw_echo() -> Iterator[int]:
    """Switch protocols and send all bytes back; yields the port.

    A connection takes less memory and time than one of :func:`websocket_server`.
    """
    with _RawServer(("127.0.0.1", 0), _RawEcho) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "event_id": f"event_{kind}", **fields}


@contextmanager
def websocket_server(
    handler: Handler, identity: Identity | None = None, directory: Path | None = None
) -> Iterator[int]:
    """Serve with *handler*; yields the port.

    :param identity: for TLS; its file is written to *directory*.
    """
    context = None
    if identity is not None and directory is not None:
        file = directory / "server.pem"
        file.write_bytes(identity.pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
    server = serve(
        handler, "127.0.0.1", 0, ssl=context, select_subprotocol=_first_offered, max_size=None
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        thread.join()
