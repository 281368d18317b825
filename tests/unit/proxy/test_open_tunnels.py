"""The idle timeout of tunnels."""

from __future__ import annotations

from goproxyai.proxy.open_tunnels import HALF_CLOSED_SECONDS, OpenTunnels


class FakeTunnel:
    def __init__(self) -> None:
        self.is_active = False
        self.is_half_closed = False
        self.delivering = False
        self.expires_at = 0.0
        self.expired = 0

    def is_delivering(self) -> bool:
        return self.delivering

    def expire(self) -> None:
        self.expired += 1


def test_tunnel_expires_after_its_silence() -> None:
    tunnels, tunnel = OpenTunnels(10.0), FakeTunnel()
    tunnels.add(tunnel)
    for now in (100.0, 105.0, 109.9):
        tunnels.tick(now)
    assert tunnel.expired == 0
    tunnels.tick(110.0)
    assert tunnel.expired == 1


def test_active_tunnel_starts_again() -> None:
    tunnels, tunnel = OpenTunnels(10.0), FakeTunnel()
    tunnels.add(tunnel)
    tunnels.tick(100.0)
    tunnel.is_active = True
    tunnels.tick(109.0)
    tunnels.tick(118.9)
    assert tunnel.expired == 0
    tunnels.tick(119.0)
    assert tunnel.expired == 1


def test_changed_timeout_applies_after_the_next_activity() -> None:
    tunnels, tunnel = OpenTunnels(10.0), FakeTunnel()
    tunnels.add(tunnel)
    tunnels.tick(100.0)
    tunnels.idle_seconds = 5.0
    tunnels.tick(106.0)
    assert tunnel.expired == 0
    tunnel.is_active = True
    tunnels.tick(107.0)
    tunnels.tick(112.0)
    assert tunnel.expired == 1


def test_half_closed_tunnel_expires_after_a_short_silence() -> None:
    tunnels, tunnel = OpenTunnels(3600.0), FakeTunnel()
    tunnels.add(tunnel)
    tunnels.tick(100.0)
    tunnel.is_active = tunnel.is_half_closed = True
    tunnels.tick(200.0)
    tunnel.is_active = True  # the other side goes on sending
    tunnels.tick(200.0 + HALF_CLOSED_SECONDS)
    tunnels.tick(199.9 + 2 * HALF_CLOSED_SECONDS)
    assert tunnel.expired == 0
    tunnels.tick(200.0 + 2 * HALF_CLOSED_SECONDS)
    assert tunnel.expired == 1


def test_half_closed_tunnel_does_not_outlive_the_idle_timeout() -> None:
    tunnels, tunnel = OpenTunnels(10.0), FakeTunnel()
    tunnel.is_half_closed = True
    tunnels.add(tunnel)
    tunnels.tick(100.0)
    tunnels.tick(110.0)
    assert tunnel.expired == 1


def test_delivery_to_a_slow_peer_is_no_silence() -> None:
    tunnels, tunnel = OpenTunnels(10.0), FakeTunnel()
    tunnels.add(tunnel)
    tunnel.delivering = True
    for now in (100.0, 110.0, 120.0):
        tunnels.tick(now)
    tunnel.delivering = False
    tunnels.tick(129.9)
    assert tunnel.expired == 0
    tunnels.tick(130.0)
    assert tunnel.expired == 1


def test_standstill_is_no_silence() -> None:
    tunnels, tunnel = OpenTunnels(10.0), FakeTunnel()
    tunnels.add(tunnel)
    tunnels.tick(100.0)
    tunnels.postpone(20.0, 120.0)
    tunnels.tick(129.9)
    assert tunnel.expired == 0
    tunnels.tick(130.0)
    assert tunnel.expired == 1


def test_ended_tunnel_is_forgotten() -> None:
    tunnels, tunnel = OpenTunnels(10.0), FakeTunnel()
    tunnels.add(tunnel)
    assert len(tunnels) == 1
    tunnels.discard(tunnel)
    tunnels.discard(tunnel)
    assert len(tunnels) == 0
    tunnels.tick(1000.0)
    assert tunnel.expired == 0
