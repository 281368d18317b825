"""The upstreams, and the daemons that stand before them: started on first use, ended together."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.daemons import Command, OwnerBucket, daemon, nginx_command
from bench.machine import DAEMON_CORE, HERE, LOAD_CORE, Failed, built, free_port
from bench.peers import Peer, Role
from bench.wrk import COMPLETION, LARGE_ANSWER, MODELS, relays


@dataclasses.dataclass
class Running:
    """A daemon under test: where it listens, its process, and its upstream's port and process.

    ``sent`` counts the requests that were sent to it, where a workload keeps count.
    """

    port: int
    pid: int
    directory: Path
    upstream: int
    upstream_pid: int
    sent: int = 0

    @property
    def pids(self) -> list[int]:
        """Both processes; without a proxy they are one."""
        return list({self.pid, self.upstream_pid})


class Stage:
    """Starts what a workload asks for, below ``root``; everything ends with ``stack``."""

    def __init__(self, root: Path, stack: contextlib.ExitStack) -> None:
        self._root, self._stack = root, stack
        self._numbers = itertools.count()
        self._upstreams: dict[str, tuple[int, int, Path]] = {}
        self._kept: dict[tuple[str, Role, str], Running | Failed] = {}

    def _place(self, name: str, upstream: int) -> OwnerBucket:
        directory = self._root / f"{next(self._numbers)}-{name}"
        directory.mkdir()
        return OwnerBucket(free_port(), upstream, directory)

    def _upstream(self, kind: str) -> tuple[int, int, Path]:
        if kind not in self._upstreams:
            place = self._place(kind, 0)
            command = fixed(place) if kind == "fixed" else moving(place)
            running = daemon(command, LOAD_CORE, place, relays)
            try:
                pid = self._stack.enter_context(running)
            except Failed as failure:
                raise SystemExit(f"the upstream {failure}") from None
            self._upstreams[kind] = place.port, pid, place.directory
        return self._upstreams[kind]

    @contextlib.contextmanager
    def fresh(
        self,
        peer: Peer,
        role: Role,
        upstream: str,
        command: Callable[[OwnerBucket], Command] | None = None,
    ) -> Iterator[Running]:
        """A peer of one's own, before the named upstream; ``command`` overrides how it starts."""
        port, pid, directory = self._upstream(upstream)
        if peer.command is None:
            yield Running(port, pid, directory, port, pid)
            return
        place = self._place(f"{peer.name}-{role.value}", port)
        asked = command(place) if command else peer.command(place, role)
        with daemon(asked, DAEMON_CORE, place, peer.ready, peer.patience) as own:
            yield Running(place.port, own, place.directory, port, pid)

    def keep(self, context: contextlib.AbstractContextManager[Running]) -> Running:
        """Have it last as long as the stage."""
        return self._stack.enter_context(context)

    def running(self, peer: Peer, role: Role, upstream: str) -> Running:
        """The peer in this role, started where it is not; one that did not start stays so."""
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
        """What was started and kept."""
        for (name, role, _), running in self._kept.items():
            if isinstance(running, Running):
                yield name, role, running


def fixed(place: OwnerBucket) -> Command:
    """A bare nginx with answers that never change: the fastest upstream there is."""
    values = {"PORT": str(place.port), "COMPLETION": COMPLETION, "MODELS": MODELS}
    (place.directory / "large.json").write_text(LARGE_ANSWER)
    return nginx_command(HERE / "conf" / "upstream.conf", values, place.directory)


def moving(place: OwnerBucket) -> Command:
    """The gauge's own upstream: streams, files, counters."""
    return Command([built("gauge"), "upstream", "-listen", f"127.0.0.1:{place.port}"])
