"""Endpoints within this process; ``tests/process/test_restart.py`` passes sockets to a daemon."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.endpoints import _SystemdParser
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.python.systemd import ListenFDs

from goproxyai.daemon.endpoints import (
    InheritedEndpoint,
    ListenError,
    describe_problem,
    parse_endpoints,
)
from goproxyai.daemon.listeners import Listeners
from tests.support.harness import ProxyHarness

PassSocket = Callable[[int], None]


@pytest.fixture
def pass_socket(monkeypatch: pytest.MonkeyPatch) -> PassSocket:
    """Pass a descriptor as systemd does, under the name ``web``."""

    def passed(descriptor: int) -> None:
        monkeypatch.setattr(_SystemdParser, "_sddaemon", ListenFDs([descriptor], ["web"]))

    return passed


def refusal(description: str) -> str:
    """Return the line with which the start ends for the endpoint *description*."""
    from twisted.internet import reactor

    with pytest.raises(ListenError) as caught:
        parse_endpoints(reactor, (description,))
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return str(caught.value)


@pytest.mark.parametrize("description", ["quic:80", "8080", "tcp:http-or-so", "tcp:"])
def test_invalid_endpoint_is_refused_with_one_line(description: str) -> None:
    line = refusal(description)
    assert line.startswith(
        f"goproxyai: LISTEN is {description!r}, expected a Twisted endpoint such as tcp:8080 ("
    )
    assert "\n" not in line


@pytest.mark.parametrize("description", ["haproxy:quic:80", "haproxy:haproxy:tcp:80", "haproxy:"])
def test_invalid_endpoint_with_proxy_protocol_is_refused_with_one_line(description: str) -> None:
    line = refusal(description)
    assert line.startswith(f"goproxyai: LISTEN is {description!r}, expected a Twisted endpoint ")
    assert "\n" not in line


def test_refusal_names_the_variable() -> None:
    from twisted.internet import reactor

    for description in ("quic:80", "haproxy:quic:80"):
        with pytest.raises(ListenError, match=f"goproxyai: ADMIN_LISTEN is '{description}'"):
            parse_endpoints(reactor, (description,), "ADMIN_LISTEN")


@pytest.mark.parametrize(
    ("key", "certificate", "problem"),
    [
        ("absent", "text", "No such file or directory: "),
        ("text", ".", "Is a directory: "),
        ("text", "text", "OpenSSL: "),
    ],
)
def test_certificate_that_cannot_be_read_is_refused_with_one_line(
    tmp_path: Path, key: str, certificate: str, problem: str
) -> None:
    (tmp_path / "text").write_text("text")
    line = refusal(f"ssl:0:privateKey={tmp_path / key}:certKey={tmp_path / certificate}")
    assert "expected a Twisted endpoint such as ssl:8443:privateKey=key.pem" in line
    assert problem in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        ("tcp:0:interface=192.0.2.1", "Cannot assign requested address"),
        (f"unix:{'x' * 200}", "AF_UNIX path too long"),
        ("unix:absent/web.sock", "No such file or directory: "),
    ],
)
@pytest_twisted.ensureDeferred
async def test_address_that_cannot_be_used_is_described(endpoint: str, problem: str) -> None:
    from twisted.internet import reactor

    ((_, parsed),) = parse_endpoints(reactor, (endpoint,))
    with pytest.raises(CannotListenError) as caught:
        await parsed.listen(Factory())
    assert describe_problem(caught.value).startswith(problem)


def test_endpoints_are_returned_with_their_descriptions() -> None:
    from twisted.internet import reactor

    descriptions = ("tcp:1", "unix:a")
    parsed = parse_endpoints(reactor, descriptions)
    assert [description for description, _ in parsed] == list(descriptions)


@pytest.mark.parametrize("socket_name", ["index=0", "name=web"])
def test_socket_that_was_not_passed_is_refused(socket_name: str) -> None:
    line = refusal(f"systemd:domain=INET:{socket_name}")
    assert line.startswith(
        f"goproxyai: cannot listen on systemd:domain=INET:{socket_name}: no such socket was passed"
    )


def test_passed_socket_of_another_domain_is_refused(pass_socket: PassSocket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        pass_socket(listening.fileno())
        assert refusal("systemd:domain=INET6:name=web").endswith(
            "the passed socket is of domain=INET"
        )


def test_passed_socket_that_does_not_listen_is_refused(pass_socket: PassSocket) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        pass_socket(bound.fileno())
        assert "does not listen; set Accept=no in its unit" in refusal(
            "systemd:domain=INET:index=0"
        )


def test_passed_descriptor_of_a_file_is_refused(pass_socket: PassSocket, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        pass_socket(file.fileno())
        assert "cannot be used (Socket operation on non-socket)" in refusal(
            "systemd:domain=INET:index=0"
        )


@pytest_twisted.ensureDeferred
async def test_passed_socket_listens_after_the_port_is_closed(pass_socket: PassSocket) -> None:
    from twisted.internet import reactor

    with socket.create_server(("127.0.0.1", 0)) as listening:
        pass_socket(listening.dup().detach())  # adopting closes the passed descriptor
        ((_, endpoint),) = parse_endpoints(reactor, ("systemd:domain=INET:name=web",))
        assert isinstance(endpoint, InheritedEndpoint)
        port = await endpoint.listen(Factory())
        assert port.getHost().port == listening.getsockname()[1]
        await port.stopListening()
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        with socket.create_connection(listening.getsockname(), 5):
            pass


@pytest_twisted.ensureDeferred
async def test_path_of_a_passed_unix_socket_stays(pass_socket: PassSocket, tmp_path: Path) -> None:
    from twisted.internet import reactor

    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(path))
        listening.listen()
        pass_socket(listening.dup().detach())  # adopting closes the passed descriptor
        ((_, endpoint),) = parse_endpoints(reactor, ("systemd:domain=UNIX:name=web",))
        port = await endpoint.listen(Factory())
        await port.stopListening()
    assert path.exists()


@pytest_twisted.ensureDeferred
async def test_port_in_use_is_refused_with_one_line(harness: ProxyHarness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken = f"tcp:{listening.getsockname()[1]}:interface=127.0.0.1"
        await harness.start()
        assert harness.daemon is not None
        endpoints = parse_endpoints(harness.reactor, (taken,))
        other = Listeners(harness.reactor, endpoints, harness.daemon.listeners.factory)
        with pytest.raises(ListenError, match=f"goproxyai: cannot listen on {taken}: .* in use"):
            other.startService()
        await other.close()
