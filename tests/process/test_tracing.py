"""Tracing of a daemon process, to a collector on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from twisted.internet.threads import deferToThread

from tests.integration.traced import no_otel_variables
from tests.process.daemon_process import (
    FEW_CONNECTIONS,
    ON_LOOPBACK,
    DaemonProcess,
    Start,
    command,
    environment,
    get,
    start,
)
from tests.support.harness import ProxyHarness, eventually
from tests.support.ports import free_port
from tests.support.serving import loopback

__all__ = ["no_otel_variables", "start"]  # fixtures

pytestmark = pytest.mark.process


class CollectorHandler(BaseHTTPRequestHandler):
    """Stores the messages that the daemon sends."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.messages.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Collector:
    """Receives OTLP over HTTP on loopback, in a thread."""

    def __init__(self) -> None:
        self._server: Any = ThreadingHTTPServer(("127.0.0.1", 0), CollectorHandler)
        self._server.messages = []
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def spans(self) -> list[Any]:
        """Return the spans received so far."""
        return [
            span
            for _, message in self._server.messages
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def resources(self) -> list[dict[str, str]]:
        return [
            {each.key: each.value.string_value for each in resource.resource.attributes}
            for _, message in self._server.messages
            for resource in message.resource_spans
        ]

    @property
    def paths(self) -> set[str]:
        return {path for path, _ in self._server.messages}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def tracing_to(port: int, upstream: str, **more: str) -> dict[str, str]:
    """Return settings with the collector at *port*, which no proxy of this machine is used for."""
    return {
        "NO_PROXY": "127.0.0.1",
        "TRACING": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OPENAI_API_URL": upstream,
        **more,
    }


@pytest_twisted.ensureDeferred
async def test_last_spans_are_sent_at_the_end(
    harness: ProxyHarness, start: Start, collector: Collector
) -> None:
    harness.upstream_port = await harness.upstream.listen(loopback(harness.reactor))
    proxy, proxy_port = await harness.egress()
    settings = tracing_to(collector.port, "http://api.openai.test") | {
        "PROXY_URL": f"http://127.0.0.1:{proxy_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=x",
    }
    process = start(**settings)
    (port,) = await deferToThread(process.listening)
    await deferToThread(get, port, "/v1/models")
    assert collector.spans() == []
    process.send(signal.SIGTERM)
    assert await deferToThread(process.ended) in (0, -signal.SIGTERM)
    (span,) = collector.spans()
    assert collector.paths == {"/v1/traces"}
    assert (span.name, span.kind) == ("GET /v1/models", 2)  # SPAN_KIND_SERVER
    assert [event.name for event in span.events] == ["forwarded", "upstream_head", "first_byte"]
    (sent,) = harness.upstream.requests[0].all(b"traceparent")
    assert sent == b"00-%b-%b-01" % (span.trace_id.hex().encode(), span.span_id.hex().encode())
    assert [one.target for one in proxy.requests] == [b"http://api.openai.test/v1/models"]
    (resource,) = collector.resources()
    assert resource["service.name"] == "goproxyai"
    assert resource["deployment.environment.name"] == "x"
    assert process.err == ""
    assert {line["level"] for line in process.log} == {"info"}


@pytest_twisted.ensureDeferred
async def test_background_process_sends_spans(
    harness: ProxyHarness, tmp_path: Path, collector: Collector
) -> None:
    upstream = f"http://127.0.0.1:{await harness.upstream.listen(loopback(harness.reactor))}"
    pid, log = tmp_path / "daemon.pid", tmp_path / "twistd.log"
    arguments = command(twistd=(f"--pidfile={pid}",))
    arguments.remove("--nodaemon")
    settings = tracing_to(
        collector.port, upstream, OTEL_BSP_SCHEDULE_DELAY="10", OTEL_SERVICE_NAME="edge",
        LISTEN=ON_LOOPBACK, MAX_CONNECTIONS=FEW_CONNECTIONS,
    )  # fmt: skip
    process = DaemonProcess(tmp_path, arguments, settings)
    assert await deferToThread(process.ended) == 0  # the foreground process
    number = int(pid.read_text())
    try:
        await eventually(harness.reactor, lambda: "listening on" in log.read_text())
        (port,) = re.findall(r"listening on \S*:(\d+)", log.read_text())
        await deferToThread(get, int(port), "/v1/models")
        await eventually(harness.reactor, collector.spans)
    finally:
        os.kill(number, signal.SIGTERM)
        await eventually(harness.reactor, lambda: not pid.exists())
    assert {resource["service.name"] for resource in collector.resources()} == {"edge"}
    assert {json.loads(line)["level"] for line in log.read_text().splitlines()} == {"info"}


@pytest_twisted.ensureDeferred
async def test_absent_collector_is_logged_and_affects_no_request(
    harness: ProxyHarness, start: Start
) -> None:
    upstream = f"http://127.0.0.1:{await harness.upstream.listen(loopback(harness.reactor))}"
    process = start(**tracing_to(free_port(), upstream, OTEL_BSP_SCHEDULE_DELAY="1"))
    (port,) = await deferToThread(process.listening)
    for number in range(5):
        status, _ = await deferToThread(get, port, f"/v1/models?{number}")
        assert status == 401  # the request has no key
    await deferToThread(process.until, lambda: "goproxyai.telemetry.tracing" in process.out)
    process.send(signal.SIGTERM)
    assert await deferToThread(process.ended) in (0, -signal.SIGTERM)
    assert process.err == ""
    warnings = [line for line in process.log if line["level"] != "info"]
    assert {line["source"] for line in warnings} == {"goproxyai.telemetry.tracing"}
    assert len(warnings) <= 3
    assert "retrying" in warnings[0]["message"]
    assert "Traceback" not in process.out


def start_error(directory: Path, **settings: str) -> str:
    """Return the one line of a failed start."""
    done = subprocess.run(
        command(),
        env=environment(LISTEN=ON_LOOPBACK, LOG_LEVEL="error", TRACING="otlp", **settings),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    logged = [json.loads(line)["message"] for line in done.stdout.splitlines()]
    (line,) = logged + done.stderr.splitlines()  # the log may be open already
    return line


def test_missing_extra_ends_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    missing = "raise ModuleNotFoundError('No module', name='opentelemetry')"
    (tmp_path / "opentelemetry" / "__init__.py").write_text(missing)
    line = start_error(tmp_path)
    assert line == "goproxyai: TRACING is otlp, expected goproxyai[otel] to be installed"


def test_invalid_otel_variable_ends_the_start_with_one_line(tmp_path: Path) -> None:
    line = start_error(tmp_path, OTEL_BSP_MAX_QUEUE_SIZE="0")
    assert line.startswith("goproxyai: TRACING is otlp, expected valid OTEL_* variables (")
    assert "max_queue_size" in line


BUILT = """
import sys
from twisted.internet import reactor
from goproxyai import plugin as tap
options = tap.Options({"LISTEN": "tcp:0", "TRACING": sys.argv[1]})
options.parseOptions([])
tap.makeService(options)
print(any(name.startswith(("opentelemetry", "google", "requests")) for name in sys.modules))
print(sys.getswitchinterval())
"""


@pytest.mark.parametrize(("tracing", "built"), [("off", "False 0.005"), ("otlp", "True 0.0005")])
def test_opentelemetry_is_imported_with_tracing_only(tracing: str, built: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUILT, tracing],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout.split() == built.split()
