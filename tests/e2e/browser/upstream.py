"""An upstream in a thread, with blocking sockets, because the browser tests have no reactor.

Its answers have what the dashboard shows: token usage, event streams, errors, and closed
connections.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON = Any

STREAM_PIECES = 6
"""Content events in a stream."""


class Upstream:
    """Listens from its creation until :meth:`close`.

    :ivar delay: returns the seconds until the next answer begins.
    :ivar refusals: statuses of the next answers, 0 for a proper one; the last one stays.
    :ivar requests: number of requests received.
    """

    def __init__(self, delay: Callable[[], float] = lambda: 0.0) -> None:
        self.delay = delay
        self.refusals: list[int] = [0]
        self.requests = 0
        upstream = self

        class Handler(_Handler):
            def answer(self) -> None:
                upstream.requests += 1
                time.sleep(upstream.delay())
                status = upstream.next_refusal()
                if status:
                    self.refuse(status, f"req_{upstream.requests:012x}")
                else:
                    self.route()

            do_GET = do_POST = answer

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def next_refusal(self) -> int:
        return self.refusals.pop(0) if len(self.refusals) > 1 else self.refusals[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, address: Any) -> None:
        """Ignore the error: the daemon closes its connections when it stops."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def route(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        document = json.loads(self.rfile.read(length) or b"{}")
        match self.path.partition("?")[0].split("/")[2:]:
            case ["models"]:
                self._reply({"object": "list", "data": []})
            case ["models", model]:
                self._reply({"object": "model", "id": model})
            case ["chat", "completions"] if document.get("stream"):
                self._stream(document)
            case ["chat", "completions"]:
                message = {"role": "assistant", "content": "Yes."}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                usage = _usage(document)
                self._reply({"model": document["model"], "choices": [choice], "usage": usage})
            case ["embeddings"]:
                usage = {"prompt_tokens": 8, "total_tokens": 8}
                data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
                self._reply({"model": document["model"], "data": data, "usage": usage})
            case ["gone", *_]:
                self.close_connection = True  # without an answer
            case _:
                self._reply({"error": {"message": "the upstream failed"}}, 500)

    def refuse(self, status: int, request_id: str) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._reply({"error": {"message": "refused"}}, status, request_id)

    def _reply(self, document: JSON, status: int = 200, request_id: str = "") -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        if request_id:
            self.send_header("x-request-id", request_id)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, request: JSON) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        frame = {"model": request["model"]}
        delta = {"index": 0, "delta": {"content": "so "}}
        for _ in range(STREAM_PIECES):
            self._event({**frame, "choices": [delta]})
            time.sleep(request.get("pause", 0.0))
        self._event({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self._event({**frame, "choices": [], "usage": _usage(request)})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, document: JSON) -> None:
        self.wfile.write(f"data: {json.dumps(document)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name in the base class
        pass


def _usage(request: JSON) -> dict[str, int]:
    prompt, completion = len(json.dumps(request["messages"])), int(request.get("max_tokens", 20))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
