"""A real Envoy in front of the daemon: the file of ``deploy/``, and a sidecar's settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.threads import deferToThread

from tests.integration.infrastructure_headers import headers_behind
from tests.process.behind_a_proxy import (
    assert_stream_arrives_event_by_event,
    assert_websocket_echoes,
)
from tests.process.daemon_process import DaemonProcess, Start, assert_clean, start
from tests.process.programs import Run, check_configuration, deployed, needs, run
from tests.support.harness import ProxyHarness, request
from tests.support.ports import free_port
from tests.support.raw_client import RawClient
from tests.support.serving import loopback
from tests.support.websocket_server import echo, websocket_server

__all__ = ["run", "start"]  # fixtures

pytestmark = [pytest.mark.process, needs("envoy")]

CLIENT = "127.0.0.2"
"""For a client at 127.0.0.1, Envoy appends another address of the machine."""

PASSED = ("istio", "w3c", "b3", "datadog", "java-http-client")
"""The header sets that pass Envoy."""

ENVOYS_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

SIDECAR = {
    "use_remote_address: true": "use_remote_address: false",
    'domains: ["*"]': 'domains: ["*"]\n              include_request_attempt_count: true',
    "timeout: 0s ": "timeout: 600s ",
}
"""Envoy in a service mesh passes its peer's ``X-Envoy-*`` on, and adds an attempt and a timeout."""


def start_envoy(run: Run, tmp_path: Path, daemon: int, changed: dict[str, str]) -> int:
    """Start Envoy with the deployed file; return its port."""
    port = free_port()
    ports = {
        "address: 0.0.0.0, port_value: 80 ": f"address: 127.0.0.1, port_value: {port} ",
        "address: 127.0.0.1, port_value: 8080 ": f"address: 127.0.0.1, port_value: {daemon} ",
    }
    directory = tmp_path / "envoy"
    directory.mkdir()
    file = directory / "envoy.yaml"
    file.write_text(deployed("envoy.yaml", ports | changed))
    # Hot restart takes shared memory that all Envoys of the machine have in common.
    arguments = ("-c", str(file), "--disable-hot-restart", "--concurrency", "1")
    check_configuration("envoy", *arguments, "--mode", "validate", warning="[warning]")
    run("envoy", *arguments, port=port)
    return port


async def start_both(
    harness: ProxyHarness,
    start: Start,
    run: Run,
    tmp_path: Path,
    changed: dict[str, str] | None = None,
) -> tuple[DaemonProcess, int, int]:
    """Return a daemon, its port, and the port of an Envoy in front of the daemon."""
    upstream_port = await harness.upstream.listen(loopback(harness.reactor))
    process = start(
        OPENAI_API_URL=f"http://127.0.0.1:{upstream_port}", TRUSTED_PROXIES="127.0.0.1/32"
    )
    (port,) = await deferToThread(process.listening)
    envoy = await deferToThread(start_envoy, run, tmp_path, port, changed or {})
    return process, port, envoy


async def connect(harness: ProxyHarness, port: int) -> RawClient:
    endpoint = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port, bindAddress=(CLIENT, 0))
    return await connectProtocol(endpoint, RawClient(harness.reactor))


def test_websocket_passes_through_envoy(start: Start, run: Run, tmp_path: Path) -> None:
    with websocket_server(echo) as upstream:
        process = start(OPENAI_API_URL=f"http://127.0.0.1:{upstream}")
        (port,) = process.listening()
        envoy = start_envoy(run, tmp_path, port, {})
        assert_websocket_echoes(envoy)


@pytest_twisted.ensureDeferred
async def test_stream_arrives_event_by_event(
    harness: ProxyHarness, start: Start, run: Run, tmp_path: Path
) -> None:
    process, _, envoy = await start_both(harness, start, run, tmp_path)
    client = await connect(harness, envoy)
    await assert_stream_arrives_event_by_event(harness, client, "/v1/stream")
    assert_clean(process)


@pytest_twisted.ensureDeferred
async def test_client_has_the_address_that_envoy_appended(
    harness: ProxyHarness, start: Start, run: Run, tmp_path: Path
) -> None:
    process, port, envoy = await start_both(harness, start, run, tmp_path)
    client = await connect(harness, envoy)
    for forged in ([], [("X-Forwarded-For", "203.0.113.9")]):
        client.send(request("/v1/models", headers=forged))
        assert (await client.answer()).status == 200
    client.abort()
    await deferToThread(process.caught_up, port)
    clients = [line["client"] for line in process.requests if line["path"] == "/v1/models"]
    assert clients == [CLIENT] * 2
    assert_clean(process)


@pytest_twisted.ensureDeferred
async def test_deployed_file_publishes_relayed_paths_and_health_only(
    harness: ProxyHarness, start: Start, run: Run, tmp_path: Path
) -> None:
    process, port, envoy = await start_both(harness, start, run, tmp_path)
    client = await connect(harness, envoy)
    for path, status in (("/health/ready", 200), ("/stats", 404), ("/v1/models", 200)):
        client.send(request(path))
        assert (path, (await client.answer()).status) == (path, status)
    # Envoy does not decode the target: the daemon refuses it.
    client.send(request("/v1/%2e%2e/stats"))
    assert (await client.answer()).status == 400
    client.abort()
    await deferToThread(process.caught_up, port)
    assert "/stats" not in [line["path"] for line in process.requests]
    assert_clean(process)


@pytest.mark.parametrize("changed", [{}, SIDECAR], ids=["deployed", "sidecar"])
@pytest_twisted.ensureDeferred
async def test_second_request_is_a_hit(
    harness: ProxyHarness, start: Start, run: Run, tmp_path: Path, changed: dict[str, str]
) -> None:
    process, port, envoy = await start_both(harness, start, run, tmp_path, changed)
    client = await connect(harness, envoy)
    for name in ("plain", *PASSED):
        labels = []
        for number in range(2):
            headers = headers_behind(name, number) if name in PASSED else []
            client.send(request("/v1/models", headers=[("X-Cache-Namespace", name), *headers]))
            labels.append((await client.answer()).get("X-Cache"))
        assert (name, labels) == (name, [b"MISS", b"HIT"])
    client.abort()
    await deferToThread(process.caught_up, port)
    first, second, *_ = [
        line["request_id"] for line in process.requests if line["path"] == "/v1/models"
    ]
    assert first != second
    assert ENVOYS_ID.fullmatch(first)
    assert_clean(process)
