"""The upstreams and the daemons under test: started on first use, ended together."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.certificates import issue
from bench.daemons import Command, Placement, daemon, nginx_command
from bench.machine import HERE, LOAD_CORE, Failed, built, free_port
from bench.peers import Peer, Setup
from bench.sizes import exchanges, sizes_file
from bench.wrk import COMPLETION, LARGE_ANSWER, MODELS, get, relays, relays_securely


@dataclasses.dataclass(frozen=True)
class Upstream:
    """An upstream that listens on two ports, of which ``secure`` has TLS."""

    port: int
    secure: int
    pid: int
    directory: Path


@dataclasses.dataclass
class Running:
    """A daemon under test: its port and process, and those of its upstream.

    ``front`` is whether ``port`` has TLS. ``upstream`` is the upstream's port without TLS, ``url``
    the one that the daemon uses. ``helpers`` are further processes of the benchmark. ``sent`` is
    the number of requests sent to the daemon by workloads that count them. ``warm`` is set by the
    workload that has warmed the daemon up.
    """

    port: int
    pid: int
    directory: Path
    upstream: int
    upstream_pid: int
    front: bool = False
    url: str = ""
    helpers: tuple[int, ...] = ()
    sent: int = 0
    warm: bool = False

    @property
    def pids(self) -> list[int]:
        """The IDs of all processes; those of daemon and upstream are one without a proxy."""
        return list({self.pid, self.upstream_pid, *self.helpers})

    @property
    def plain_port(self) -> int:
        """The port for a load generator without TLS."""
        return self.upstream if self.pid == self.upstream_pid else self.port


class Testbed:
    """Starts daemons in directories below *root*; all end with *stack*."""

    def __init__(self, root: Path, stack: contextlib.ExitStack) -> None:
        self._root, self._stack = root, stack
        self._numbers = itertools.count()
        self._upstreams: dict[str, Upstream] = {}
        self._egress: tuple[int, int] | None = None
        self._kept: dict[tuple[str, Setup], Running | Failed] = {}
        self._certificates = issue(root)
        self.sizes = root / "sizes"
        self.sizes.write_text(sizes_file(exchanges()))

    def _directory(self, name: str) -> Path:
        directory = self._root / f"{next(self._numbers)}-{name}"
        directory.mkdir()
        return directory

    def _helper(self, placement: Placement, command: Command) -> int:
        """Run a program on the load core until the end; its process ID."""
        try:
            ready = _has_status if "connect" in command.argv else relays
            return self._stack.enter_context(daemon(command, LOAD_CORE, placement, ready))
        except Failed as failure:
            raise SystemExit(f"{command.argv}: {failure}") from None

    def _upstream(self, kind: str) -> Upstream:
        if kind not in self._upstreams:
            directory = self._directory(kind)
            placement = Placement(free_port(), 0, directory, self._certificates)
            secure = free_port()
            if kind == "fixed":
                command = fixed_upstream(placement, secure)
            else:
                command = gauge_upstream(placement, secure, self.sizes)
            pid = self._helper(placement, command)
            self._upstreams[kind] = Upstream(placement.port, secure, pid, directory)
        return self._upstreams[kind]

    def egress(self) -> tuple[int, int]:
        """The port and the process ID of the CONNECT proxy."""
        if self._egress is None:
            placement = Placement(free_port(), 0, self._directory("connect"))
            argv = [built("gauge"), "connect", "-listen", f"127.0.0.1:{placement.port}"]
            self._egress = placement.port, self._helper(placement, Command(argv))
        return self._egress

    @contextlib.contextmanager
    def fresh(
        self,
        peer: Peer,
        setup: Setup,
        command: Callable[[Placement], Command] | None = None,
    ) -> Iterator[Running]:
        """A new daemon of *peer*; *command* replaces the peer's own."""
        upstream = self._upstream(setup.upstream)
        if peer.command is None:
            port = upstream.secure if setup.tls else upstream.port
            directory, pid = upstream.directory, upstream.pid
            yield Running(port, pid, directory, upstream.port, pid, setup.tls)
            return
        egress, helpers = 0, tuple[int, ...]()
        if setup.egress:
            egress, pid = self.egress()
            helpers = (pid,)
        placement = Placement(
            free_port(),
            upstream.secure if setup.tls else upstream.port,
            self._directory(f"{peer.name}-{setup.role.value}"),
            self._certificates,
            setup.tls,
            setup.front,
            egress,
            setup.workers,
        )
        chosen = command(placement) if command else peer.command(placement, setup.role)
        ready = relays_securely if setup.front else peer.ready
        with daemon(chosen, setup.core, placement, ready, peer.timeout) as own:
            yield Running(
                placement.port,
                own,
                placement.directory,
                upstream.port,
                upstream.pid,
                setup.front,
                placement.openai,
                helpers,
            )

    def keep(self, context: contextlib.AbstractContextManager[Running]) -> Running:
        """Keep a daemon running until the end of the testbed."""
        return self._stack.enter_context(context)

    def running(self, peer: Peer, setup: Setup) -> Running:
        """The shared daemon of *peer* in this setup; a failed start is not repeated."""
        key = peer.name, setup
        if key not in self._kept:
            try:
                self._kept[key] = self._stack.enter_context(self.fresh(peer, setup))
            except Failed as failure:
                self._kept[key] = failure
        if isinstance(found := self._kept[key], Failed):
            raise found
        return found

    def started(self) -> Iterator[tuple[str, Setup, Running]]:
        """The shared daemons that were started."""
        for (name, setup), running in self._kept.items():
            if isinstance(running, Running):
                yield name, setup, running


def fixed_upstream(placement: Placement, secure: int = 0) -> Command:
    """Nginx with constant answers: the fastest available upstream; port *secure* has TLS."""
    values = {"PORT": str(placement.port), "COMPLETION": COMPLETION, "MODELS": MODELS}
    values["SECURE"] = ""
    if secure:
        files = placement.files
        values["SECURE"] = (
            f"listen 127.0.0.1:{secure} ssl backlog=4096; ssl_protocols TLSv1.2 TLSv1.3;"
            f" ssl_certificate {files.certificate}; ssl_certificate_key {files.key};"
        )
    (placement.directory / "large.json").write_text(LARGE_ANSWER)
    return nginx_command(HERE / "conf" / "upstream.conf", values, placement.directory)


def gauge_upstream(placement: Placement, secure: int, sizes: Path) -> Command:
    """Gauge's own upstream: streams, files, questions of all sizes, counters."""
    files = placement.files
    argv = [built("gauge"), "upstream", "-listen", f"127.0.0.1:{placement.port}"]
    argv += ["-tls-listen", f"127.0.0.1:{secure}"]
    argv += ["-cert", str(files.certificate), "-key", str(files.key), "-sizes", str(sizes)]
    return Command(argv)


def _has_status(port: int) -> bool:
    return get(port, "/status").startswith(b"{")
