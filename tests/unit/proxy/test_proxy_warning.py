"""The warning about a reverse proxy that is not trusted."""

from __future__ import annotations

import pytest
from twisted.logger import capturedLogs

from goproxyai.limits.addresses import LOCAL_PEER, TrustedProxies
from goproxyai.proxy.proxy_warning import warn_if_untrusted
from tests.support.harness import lines

TRUSTED = TrustedProxies.parse("10.0.0.5")


@pytest.mark.parametrize(
    ("peer", "entry"),
    [("10.0.0.6", "its address"), ("fd00::1", "its address"), (LOCAL_PEER, "the word unix")],
)
def test_private_peer_is_warned_about(peer: str, entry: str) -> None:
    with capturedLogs() as events:
        assert warn_if_untrusted(peer, TRUSTED)
    (line,) = lines(events)
    assert line.startswith("warn: X-Forwarded-For from ")
    assert f"add {entry} to TRUSTED_PROXIES" in line


@pytest.mark.parametrize("peer", ["203.0.113.9", "2001:db8::1", "10.0.0.5"])
def test_public_or_trusted_peer_is_not_warned_about(peer: str) -> None:
    with capturedLogs() as events:
        assert not warn_if_untrusted(peer, TRUSTED)
    assert events == []
