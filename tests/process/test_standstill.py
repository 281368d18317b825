"""A process that stands still for longer than its deadlines."""

from __future__ import annotations

import signal

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.process.daemon_process import Start, assert_clean, start
from tests.support.answers import response
from tests.support.harness import ProxyHarness, request
from tests.support.raw_client import RawClient
from tests.support.serving import loopback
from tests.support.steps import Pause

__all__ = ["start"]  # the fixture

pytestmark = pytest.mark.process

STANDSTILL_SECONDS = 2.5


@pytest_twisted.ensureDeferred
async def test_response_received_while_the_process_is_stopped_is_relayed(
    harness: ProxyHarness, start: Start
) -> None:
    """``REQUEST_TIMEOUT`` passes while the process is stopped, with the response in the kernel."""
    reactor, upstream = harness.reactor, harness.upstream
    pause = Pause()
    upstream.script("/v1/models", [pause, response(b"late")])
    upstream_port = await upstream.listen(loopback(reactor))
    process = start(OPENAI_API_URL=f"http://127.0.0.1:{upstream_port}", REQUEST_TIMEOUT="1s")
    (port,) = await deferToThread(process.listening)
    wire = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), RawClient(reactor))
    wire.send(request("/v1/models"))
    await upstream.wait_for(lambda one: one.paused)
    process.send(signal.SIGSTOP)
    pause.release()
    await deferLater(reactor, STANDSTILL_SECONDS)  # the standstill itself
    process.send(signal.SIGCONT)
    await wire.until(lambda: b"late" in wire.received or b"error" in wire.received)
    assert wire.received.startswith(b"HTTP/1.1 200 ")
    wire.abort()
    assert_clean(process)
