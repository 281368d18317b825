"""The facts that are logged at the start, and the banner."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from goproxyai.config.sources import ConfigSources
from goproxyai.daemon.listeners import shown_address
from goproxyai.daemon.start_report import StartReport, start_report

ANY = IPv6Address("TCP", "::", 8080)
LOOPBACK = IPv4Address("TCP", "127.0.0.1", 8081)
SOCKET = UNIXAddress(b"/run/goproxyai.sock")


def report(*addresses: Any, workers: int = 1, **texts: str) -> StartReport:
    config = ConfigSources({}, texts, "/").read()
    return start_report(
        "1.2", config.settings, config.shown, addresses or (ANY,), config.warnings, workers
    )


def test_banner_of_the_defaults() -> None:
    assert report().banner().split("\n") == [
        "goproxyai 1.2",
        "  API         http://localhost:8080/v1",
        "  upstream    https://api.openai.com",
        "  dashboard   http://localhost:8080/dashboard",
        "              for clients from 127.0.0.0/8 ::1/128",
        "  cache       100 MB, responses stay fresh for 5m0s",
        "  rate limit  60 requests per minute for each client",
        "  timeouts    connect 10s, response 30s, generation 10m0s, idle 5m0s",
    ]


def test_banner_has_one_line_for_each_upstream_and_masks_the_proxy() -> None:
    banner = report(
        OPENAI_API_URL="https://a.test/base https://b.test",
        PROXY_URL="http://me:hunter2@proxy.test:3128",
        NO_PROXY="b.test",
    ).banner()
    assert "  upstream    https://a.test/base via http://***:***@proxy.test:3128\n" in banner
    assert "  upstream    https://b.test\n" in banner
    assert "hunter2" not in banner


def test_banner_has_what_is_off_and_the_warnings() -> None:
    banner = report(RATE_LIMIT="0", CACHE_TTL="0", RATELIMIT="7").banner()
    assert "  cache       off\n" in banner
    assert "  rate limit  off\n" in banner
    assert "\n  warning     RATELIMIT is set and is not a setting" in banner


def test_banner_has_the_number_of_workers() -> None:
    assert "\n  workers     3" in report(workers=3).banner()


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"ADMIN_ALLOW": ""}, "for no client: set ADMIN_ALLOW or ADMIN_TOKEN"),
        ({"ADMIN_ALLOW": "", "ADMIN_TOKEN": "hunter2"}, "for clients with ADMIN_TOKEN"),
        (
            {"ADMIN_ALLOW": "10.0.0.0/8", "ADMIN_TOKEN": "hunter2"},
            "for clients from 10.0.0.0/8, others with ADMIN_TOKEN",
        ),
    ],
)
def test_banner_names_the_clients_of_the_dashboard(texts: dict[str, str], expected: str) -> None:
    banner = report(**texts).banner()
    assert f"\n              {expected}\n" in banner
    assert "hunter2" not in banner


def test_dashboard_is_that_of_the_listener_for_operators() -> None:
    facts = report(
        ANY, LOOPBACK, LISTEN="haproxy:ssl:8080:privateKey=k:certKey=c", ADMIN_LISTEN="tcp:8081"
    )
    assert facts.api == ("https://localhost:8080/v1",)
    assert facts.dashboard == "http://127.0.0.1:8081/dashboard"


def test_api_of_a_unix_socket_is_its_path_and_other_prefixes_are_shown() -> None:
    facts = report(SOCKET, LOOPBACK, LISTEN="unix:it tcp:8081", RELAY_PATHS="/openai/ /v1/")
    assert facts.api == ("unix:/run/goproxyai.sock", "http://127.0.0.1:8081/openai")


def test_report_without_an_address_has_no_dashboard() -> None:
    config = ConfigSources({}, {}, "/").read()
    facts = start_report("1.2", config.settings, config.shown, (), (), 1)
    assert "  dashboard   not served\n" in facts.banner()


def test_fields_of_the_event_are_plain_values() -> None:
    fields = report(PROXY_URL="http://me:hunter2@proxy.test:3128").fields()
    assert list(fields["upstreams"]) == [
        {"url": "https://api.openai.com", "proxy": "http://***:***@proxy.test:3128"}
    ]
    assert (fields["has_token"], fields["rate_limit"], fields["workers"]) == (False, 60, 1)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (ANY, "[::]:8080"),
        (LOOPBACK, "127.0.0.1:8081"),
        (SOCKET, "unix:/run/goproxyai.sock"),
        (UNIXAddress(None), "unix:"),
    ],
)
def test_address_is_shown_without_types(address: Any, expected: str) -> None:
    assert shown_address(address) == expected
