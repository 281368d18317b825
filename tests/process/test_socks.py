"""Egress through microsocks, a SOCKS 5 server that others have written."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.process.programs import Run, needs, run
from tests.support.harness import ProxyHarness, request
from tests.support.ports import free_port

__all__ = ["run"]  # the fixture

pytestmark = [pytest.mark.process, needs("microsocks")]


async def ask_through(
    harness: ProxyHarness, run: Run, scheme: str, tls: bool, userinfo: str = "user:p%40ss@"
) -> tuple[int, bytes]:
    """Return status and body of a request through a microsocks that requires credentials."""
    port = free_port()
    arguments = ("-i", "127.0.0.1", "-p", str(port), "-u", "user", "-P", "p@ss")
    await deferToThread(run, "microsocks", *arguments, port=port)
    if tls:
        upstream = f"https://localhost:{await harness.listen_with_tls()}"
    else:
        harness.upstream_port = await harness.upstream.listen(harness.loopback())
        upstream = f"http://localhost:{harness.upstream_port}"
    await harness.start(upstream, PROXY_URL=f"{scheme}://{userinfo}127.0.0.1:{port}")
    answer = await harness.ask(request())
    harness.pool.close()
    return answer.status, answer.body


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest_twisted.ensureDeferred
async def test_request_through_microsocks(
    harness: ProxyHarness, run: Run, scheme: str, tls: bool
) -> None:
    status, _ = await ask_through(harness, run, scheme, tls)
    assert status == 200


@pytest.mark.parametrize("userinfo", ["", "user:wr0ng@"])
@pytest_twisted.ensureDeferred
async def test_microsocks_refuses_wrong_credentials(
    harness: ProxyHarness, run: Run, userinfo: str
) -> None:
    status, body = await ask_through(harness, run, "socks5h", False, userinfo)
    assert status == 502
    assert b"egress_proxy_refused" in body
    assert b"check the user and the password in PROXY_URL" in body
