"""A daemon whose upstream has the name of a container."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import attrs
import pytest

from tests.process.daemon_process import TIMEOUT_SECONDS, Start, start
from tests.support.authority import Authority

__all__ = ["start"]  # the fixture

pytestmark = pytest.mark.process

NAME = "my_service"

STUB_RESOLVER = f"""
import socket
getaddrinfo = socket.getaddrinfo
def stub(host, *arguments, **options):
    known = {{"{NAME}": "127.0.0.1", "{NAME}.": "127.0.0.1"}}
    return getaddrinfo(known.get(host, host), *arguments, **options)
socket.getaddrinfo = stub
"""


@attrs.define(eq=False)
class TLSUpstream:
    """An HTTPS server.

    :ivar seen: SNI and ``Host`` of each request.
    """

    server: HTTPServer
    seen: list[tuple[str, str]] = attrs.field(factory=list)

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])


@pytest.fixture
def upstream(authority: Authority, tmp_path: Path) -> Iterator[TLSUpstream]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            one.seen.append((names[-1], self.headers["Host"]))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: object) -> None:
            pass

    names: list[str] = []
    pem = tmp_path / "identity.pem"
    pem.write_bytes(authority.issue_unchecked(NAME).pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.sni_callback = lambda _, name, __: names.append(name)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    one = TLSUpstream(server)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield one
    server.shutdown()
    server.server_close()
    thread.join(TIMEOUT_SECONDS)


@pytest.mark.parametrize("name", [NAME, NAME + "."])
def test_upstream_named_like_a_container_is_verified_by_its_name(
    start: Start, tmp_path: Path, authority: Authority, upstream: TLSUpstream, name: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(STUB_RESOLVER)
    process = start(
        is_forked=False,
        OPENAI_API_URL=f"https://{name}:{upstream.port}",
        SSL_CERT_FILE=str(authority.pem),
    )
    (port,) = process.listening()
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    connection.request("GET", "/v1/models")
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (200, {})
    connection.close()
    assert upstream.seen == [(NAME, f"{NAME}:{upstream.port}")]
    assert "Traceback" not in process.out + process.err
