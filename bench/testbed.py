"""The upstreams and the daemons under test: started on first use, ended together."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.daemons import Command, Placement, daemon, nginx_command
from bench.machine import DAEMON_CORE, HERE, LOAD_CORE, Failed, built, free_port
from bench.peers import Peer, Role
from bench.wrk import COMPLETION, LARGE_ANSWER, MODELS, relays


@dataclasses.dataclass
class Running:
    """A daemon under test: its port and process, and those of its upstream.

    ``sent`` is the number of requests sent to it by workloads that count them.
    """

    port: int
    pid: int
    directory: Path
    upstream: int
    upstream_pid: int
    sent: int = 0

    @property
    def pids(self) -> list[int]:
        """The IDs of both processes, which are one without a proxy."""
        return list({self.pid, self.upstream_pid})


class Testbed:
    """Starts daemons in directories below *root*; all end with *stack*."""

    def __init__(self, root: Path, stack: contextlib.ExitStack) -> None:
        self._root, self._stack = root, stack
        self._numbers = itertools.count()
        self._upstreams: dict[str, tuple[int, int, Path]] = {}
        self._kept: dict[tuple[str, Role, str], Running | Failed] = {}

    def _place(self, name: str, upstream: int) -> Placement:
        directory = self._root / f"{next(self._numbers)}-{name}"
        directory.mkdir()
        return Placement(free_port(), upstream, directory)

    def _upstream(self, kind: str) -> tuple[int, int, Path]:
        if kind not in self._upstreams:
            placement = self._place(kind, 0)
            command = fixed_upstream(placement) if kind == "fixed" else gauge_upstream(placement)
            running = daemon(command, LOAD_CORE, placement, relays)
            try:
                pid = self._stack.enter_context(running)
            except Failed as failure:
                raise SystemExit(f"the upstream {failure}") from None
            self._upstreams[kind] = placement.port, pid, placement.directory
        return self._upstreams[kind]

    @contextlib.contextmanager
    def fresh(
        self,
        peer: Peer,
        role: Role,
        upstream: str,
        command: Callable[[Placement], Command] | None = None,
    ) -> Iterator[Running]:
        """A new daemon of *peer* in front of the upstream; *command* replaces the peer's own."""
        port, pid, directory = self._upstream(upstream)
        if peer.command is None:
            yield Running(port, pid, directory, port, pid)
            return
        placement = self._place(f"{peer.name}-{role.value}", port)
        chosen = command(placement) if command else peer.command(placement, role)
        with daemon(chosen, DAEMON_CORE, placement, peer.ready, peer.timeout) as own:
            yield Running(placement.port, own, placement.directory, port, pid)

    def keep(self, context: contextlib.AbstractContextManager[Running]) -> Running:
        """Keep a daemon running until the end of the testbed."""
        return self._stack.enter_context(context)

    def running(self, peer: Peer, role: Role, upstream: str) -> Running:
        """The shared daemon of *peer* in this role; a failed start is not repeated."""
        key = peer.name, role, upstream
        if key not in self._kept:
            try:
                self._kept[key] = self._stack.enter_context(self.fresh(peer, role, upstream))
            except Failed as failure:
                self._kept[key] = failure
        if isinstance(found := self._kept[key], Failed):
            raise found
        return found

    def started(self) -> Iterator[tuple[str, Role, Running]]:
        """The shared daemons that were started."""
        for (name, role, _), running in self._kept.items():
            if isinstance(running, Running):
                yield name, role, running


def fixed_upstream(placement: Placement) -> Command:
    """Nginx with constant answers: the fastest available upstream."""
    values = {"PORT": str(placement.port), "COMPLETION": COMPLETION, "MODELS": MODELS}
    (placement.directory / "large.json").write_text(LARGE_ANSWER)
    return nginx_command(HERE / "conf" / "upstream.conf", values, placement.directory)


def gauge_upstream(placement: Placement) -> Command:
    """Gauge's own upstream: streams, files, counters."""
    return Command([built("gauge"), "upstream", "-listen", f"127.0.0.1:{placement.port}"])
