"""A real nginx in front of the daemon: the file of ``deploy/``, and nginx's defaults."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.threads import deferToThread

from tests.integration.infrastructure_headers import headers_behind
from tests.process.behind_a_proxy import (
    assert_stream_arrives_event_by_event,
    assert_websocket_echoes,
)
from tests.process.daemon_process import (
    DaemonProcess,
    Start,
    assert_clean,
    get,
    start,
)
from tests.process.programs import Run, check_configuration, deployed, needs, run
from tests.support.harness import ProxyHarness, request
from tests.support.ports import free_port
from tests.support.raw_client import RawClient
from tests.support.serving import loopback
from tests.support.websocket_server import echo, websocket_server

__all__ = ["run", "start"]  # fixtures

pytestmark = [pytest.mark.process, needs("nginx")]

MAIN = """
daemon off;
pid nginx.pid;
error_log stderr;
{user}
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    include deployed.conf;
    server {{
        listen 127.0.0.1:{defaults};
        location / {{ proxy_pass http://127.0.0.1:{daemon}; }}
    }}
}}
"""


@attrs.frozen
class Nginx:
    """A running nginx.

    :ivar deployed: the port of the server in ``deploy/nginx.conf``.
    :ivar defaults: the port of a server that has ``proxy_pass`` alone.
    """

    process: DaemonProcess
    deployed: int
    defaults: int


def start_nginx(run: Run, tmp_path: Path, daemon: int) -> Nginx:
    directory, port, defaults = tmp_path / "nginx", free_port(), free_port()
    directory.mkdir()
    (directory / "deployed.conf").write_text(
        deployed(
            "nginx.conf",
            {"listen 80;": f"listen 127.0.0.1:{port};", "127.0.0.1:8080": f"127.0.0.1:{daemon}"},
        )
    )
    user = "user root;" if os.geteuid() == 0 else ""  # the directory is closed to other users
    text = MAIN.format(user=user, defaults=defaults, daemon=daemon)
    (directory / "main.conf").write_text(text)
    arguments = ("-p", f"{directory}/", "-c", "main.conf", "-e", "stderr")
    check_configuration("nginx", *arguments, "-t", warning="[warn]")
    return Nginx(run("nginx", *arguments, port=port), port, defaults)


async def connect(harness: ProxyHarness, port: int) -> RawClient:
    endpoint = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port)
    return await connectProtocol(endpoint, RawClient(harness.reactor))


@pytest_twisted.ensureDeferred
async def test_stream_arrives_event_by_event(
    harness: ProxyHarness, start: Start, run: Run, tmp_path: Path
) -> None:
    upstream_port = await harness.upstream.listen(loopback(harness.reactor))
    process = start(OPENAI_API_URL=f"http://127.0.0.1:{upstream_port}")
    (port,) = await deferToThread(process.listening)
    nginx = await deferToThread(start_nginx, run, tmp_path, port)
    for number, each in enumerate((nginx.deployed, nginx.defaults)):
        client = await connect(harness, each)
        await assert_stream_arrives_event_by_event(harness, client, f"/v1/stream{number}")
    assert_clean(process)


@pytest_twisted.ensureDeferred
async def test_deployed_file_keeps_connections_and_names_the_client(
    harness: ProxyHarness, start: Start, run: Run, tmp_path: Path
) -> None:
    upstream_port = await harness.upstream.listen(loopback(harness.reactor))
    process = start(OPENAI_API_URL=f"http://127.0.0.1:{upstream_port}")
    (port,) = await deferToThread(process.listening)
    nginx = await deferToThread(start_nginx, run, tmp_path, port)
    client = await connect(harness, nginx.deployed)
    for _ in range(3):
        client.send(request("/v1/models", headers=[("X-Forwarded-For", "203.0.113.9")]))
        assert (await client.answer()).status == 200
    client.send(request("/stats"))
    assert (await client.answer()).status == 404
    client.send(request("/health/ready"))
    assert (await client.answer()).status == 200
    client.abort()
    _, stats = await deferToThread(get, port, "/stats")
    assert stats["connections"]["opened"] == 2  # nginx's, and that of this request
    await deferToThread(process.caught_up, port)
    clients = {line["client"] for line in process.requests if line["path"] == "/v1/models"}
    assert clients == {"203.0.113.9"}
    assert_clean(process)


@pytest_twisted.ensureDeferred
async def test_second_request_is_a_hit(
    harness: ProxyHarness, start: Start, run: Run, tmp_path: Path
) -> None:
    upstream_port = await harness.upstream.listen(loopback(harness.reactor))
    process = start(OPENAI_API_URL=f"http://127.0.0.1:{upstream_port}")
    (port,) = await deferToThread(process.listening)
    nginx = await deferToThread(start_nginx, run, tmp_path, port)
    for each in (nginx.deployed, nginx.defaults):
        for name in ("cloudflare", "w3c", "java-http-client", "curl-http2"):
            client = await connect(harness, each)
            labels = []
            for number in range(2):
                headers = [("X-Cache-Namespace", f"{each}{name}"), *headers_behind(name, number)]
                client.send(request("/v1/models", headers=headers))
                labels.append((await client.answer()).get("X-Cache"))
            assert (name, labels) == (name, [b"MISS", b"HIT"])
            client.abort()
    assert_clean(process)


def test_websocket_passes_through_nginx(start: Start, run: Run, tmp_path: Path) -> None:
    with websocket_server(echo) as upstream:
        process = start(OPENAI_API_URL=f"http://127.0.0.1:{upstream}")
        (port,) = process.listening()
        nginx = start_nginx(run, tmp_path, port)
        assert_websocket_echoes(nginx.deployed)
