"""The address that ``goproxyai health`` asks, from the texts of the settings."""

from __future__ import annotations

import pytest

from goproxyai.cli.local_address import DEFAULT_LISTEN, DEFAULT_PORT, local_address
from goproxyai.config.variables import VARIABLES


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"PORT": "", "LISTEN": " ", "ADMIN_LISTEN": ""}, "http://127.0.0.1:8080"),
        ({"PORT": "9090"}, "http://127.0.0.1:9090"),
        ({"PORT": "9090", "LISTEN": "tcp6:$PORT"}, "http://[::1]:9090"),
        ({"LISTEN": "tcp:80:interface=10.0.0.7"}, "http://10.0.0.7:80"),
        ({"LISTEN": "tcp:80:interface=0.0.0.0"}, "http://127.0.0.1:80"),
        ({"LISTEN": r"tcp6:port=80:interface=\:\:"}, "http://[::1]:80"),
        ({"LISTEN": r"tcp6:port=80:interface=fd00\:\:1"}, "http://[fd00::1]:80"),
        ({"LISTEN": "ssl:8443:privateKey=a.pem:certKey=b.pem"}, "https://127.0.0.1:8443"),
        ({"LISTEN": "unix:/run/a.sock:mode=660"}, "unix:/run/a.sock"),
        ({"LISTEN": "unix:mode=660:address=/run/a.sock"}, "unix:/run/a.sock"),
        ({"LISTEN": "ssl:8443:privateKey=a haproxy:tcp:1 tcp:2"}, "http://127.0.0.1:2"),
        ({"LISTEN": "ssl:8443:privateKey=a", "ADMIN_LISTEN": "tcp:8081"}, "http://127.0.0.1:8081"),
        ({"LISTEN": "systemd:domain=INET6:index=0", "ADMIN_LISTEN": "tcp:8081"},
         "http://127.0.0.1:8081"),
        ({"LISTEN": "systemd:domain=INET6:index=0"}, "None"),
        ({"PORT": "0"}, "None"),
        ({"LISTEN": "unix:"}, "None"),
    ],
)  # fmt: skip
def test_address_is_that_of_the_listeners(texts: dict[str, str], expected: str) -> None:
    assert str(local_address(texts)) == expected


def test_proxy_protocol_and_tls_are_found() -> None:
    address = local_address({"LISTEN": "haproxy:ssl:8443:privateKey=a.pem"})
    assert address is not None
    assert (address.announced, address.tls, address.port) == (True, True, 8443)


def test_defaults_are_those_of_the_settings() -> None:
    defaults = {variable.name: variable.default for variable in VARIABLES}
    assert defaults["PORT"] == DEFAULT_PORT
    assert defaults["LISTEN"].startswith(DEFAULT_LISTEN)
    assert defaults["ADMIN_LISTEN"] == ""
