"""Hosts in network namespaces, each with a link of its own to a server on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import attrs
import pytest


def _ip(*arguments: str, check: bool = True) -> bool:
    done = subprocess.run(["ip", *arguments], capture_output=True, check=False)
    assert not check or done.returncode == 0, (arguments, done.stderr)
    return done.returncode == 0


@lru_cache
def why_not() -> str:
    """Return why this process cannot make namespaces; empty if it can."""
    if shutil.which("ip") is None:
        return "the program ip (iproute2) is not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"goproxyai-{os.getpid()}"
    if not _ip("netns", "add", name, check=False):
        return "network namespaces are not permitted here"
    has_links = _ip("-n", name, "link", "add", "probe", "type", "veth", check=False)
    _ip("netns", "del", name)
    return "" if has_links else "network links are not permitted here"


def skip_without_namespaces() -> None:
    """Skip the test of the caller where namespaces cannot be made."""
    if why_not():
        pytest.skip(why_not())


@attrs.frozen
class Host:
    """A namespace with two links to this machine: one for the state, one for all else.

    :ivar address: of the host.
    :ivar gateway: address of this machine on the link for all else.
    :ivar state_gateway: address of this machine on the link for the state.
    """

    name: str
    address: str
    gateway: str
    state_gateway: str
    _state_link: str

    def command(self, command: list[str]) -> list[str]:
        """Return the command line that runs *command* in the namespace."""
        return ["ip", "netns", "exec", self.name, *command]

    def cut(self) -> None:
        """Drop all packets between the host and the state, without a word to either."""
        _ip("link", "set", self._state_link, "down")

    def heal(self) -> None:
        _ip("link", "set", self._state_link, "up")


@contextmanager
def network_hosts(count: int) -> Iterator[list[Host]]:
    """Make *count* hosts."""
    hosts = []
    network = f"10.{100 + os.getpid() % 150}"
    try:
        for number in range(count):
            name = f"goproxyai-{os.getpid()}-{number}"
            _ip("netns", "add", name)
            gateways, links = [], []
            for kind in range(2):
                link = f"gpx{os.getpid() % 100000}.{number}{kind}"
                _ip("link", "add", link, "type", "veth", "peer", "name", "to", "netns", name)
                subnet = f"{network}.{number * 2 + kind}"
                _ip("addr", "add", f"{subnet}.1/24", "dev", link)
                _ip("link", "set", link, "up")
                _ip("-n", name, "link", "set", "to", "name", f"to{kind}")
                _ip("-n", name, "addr", "add", f"{subnet}.2/24", "dev", f"to{kind}")
                _ip("-n", name, "link", "set", f"to{kind}", "up")
                gateways.append(f"{subnet}.1")
                links.append(link)
            _ip("-n", name, "link", "set", "lo", "up")
            address = f"{network}.{number * 2}.2"
            hosts.append(Host(name, address, gateways[0], gateways[1], links[1]))
        yield hosts
    finally:
        for number in range(count):
            _ip("netns", "del", f"goproxyai-{os.getpid()}-{number}", check=False)
