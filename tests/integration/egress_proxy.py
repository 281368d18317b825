"""What the tests of the egress proxy share."""

from __future__ import annotations

import base64

from tests.support.answers import response
from tests.support.harness import ProxyHarness
from tests.support.proxy import FakeProxy

CREDENTIALS = ("user", "p@ss")
BASIC = b"Basic " + base64.b64encode(b"user:p@ss")
TARGET = "api.openai.test:443"


async def start_with_egress_proxy(
    harness: ProxyHarness,
    userinfo: str = "",
    credentials: tuple[str, str] | None = None,
    upstream: str = "https://api.openai.test",
    scheme: str = "http",
    **texts: str,
) -> FakeProxy:
    """Start an egress proxy and a daemon that uses it.

    :param userinfo: of ``PROXY_URL``, with its ``@``.
    :param credentials: what the proxy requires.
    :param scheme: of ``PROXY_URL``.
    """
    if upstream.startswith("https"):
        await harness.listen_with_tls()
    else:
        harness.upstream_port = await harness.upstream.listen(harness.loopback())
    proxy, port = await harness.egress(credentials, tls=scheme == "https")
    await harness.start(upstream, PROXY_URL=f"{scheme}://{userinfo}127.0.0.1:{port}", **texts)
    return proxy


def proxy_refusal(status: int) -> bytes:
    """Return a proxy's answer that has a challenge and closes the connection."""
    challenge = (b"Proxy-Authenticate", b'Basic realm="fake"')
    return response(b"no", status, [challenge, (b"Connection", b"close")], b"text/plain")
