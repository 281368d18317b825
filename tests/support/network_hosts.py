"""Hosts in network namespaces, each with a link of its own to the servers of a test.

The test runs in a namespace too, so that nothing else on this machine sees the links: a browser
ends all its requests (``ERR_NETWORK_CHANGED``) when an address appears or disappears.
"""

from __future__ import annotations

import ctypes
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
    """A namespace with two links to that of the test: one for the state, one for all else.

    :ivar address: of the host.
    :ivar gateway: address of the test on the link for all else.
    :ivar state_gateway: address of the test on the link for the state.
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


CLONE_NEWNET = 0x40000000
"""The flag of unshare(2) and setns(2) for a network namespace."""


@contextmanager
def _other_network() -> Iterator[None]:
    """Put this thread, and the threads and processes that it starts, into a new namespace.

    ``os.unshare`` is for Python 3.12 and later.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            _ip("link", "set", "lo", "up")
            yield
        finally:
            assert libc.setns(before, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(before)


@contextmanager
def network_hosts(count: int) -> Iterator[list[Host]]:
    """Make *count* hosts, and move the test to the network at the other end of their links."""
    names = [f"goproxyai-{os.getpid()}-{number}" for number in range(count)]
    try:
        with _other_network():
            yield [_add_host(name, number) for number, name in enumerate(names)]
    finally:
        for name in names:
            _ip("netns", "del", name, check=False)


def _add_host(name: str, number: int) -> Host:
    _ip("netns", "add", name)
    _ip("-n", name, "link", "set", "lo", "up")
    subnets = [f"10.100.{number * 2 + kind}" for kind in range(2)]
    links = [f"host{number}.{kind}" for kind in range(2)]
    for kind, (subnet, link) in enumerate(zip(subnets, links, strict=True)):
        _ip("link", "add", link, "type", "veth", "peer", "name", "to", "netns", name)
        _ip("addr", "add", f"{subnet}.1/24", "dev", link)
        _ip("link", "set", link, "up")
        _ip("-n", name, "link", "set", "to", "name", f"to{kind}")
        _ip("-n", name, "addr", "add", f"{subnet}.2/24", "dev", f"to{kind}")
        _ip("-n", name, "link", "set", f"to{kind}", "up")
    gateway, state_gateway = (f"{subnet}.1" for subnet in subnets)
    return Host(name, f"{subnets[0]}.2", gateway, state_gateway, links[1])
