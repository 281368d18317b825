"""One large body up, and one down; every byte is compared."""

from __future__ import annotations

import dataclasses

from bench.gauge import gauge
from bench.peers import Peer
from bench.results import Measure, Run
from bench.stage import Stage
from bench.workload import Moving, watched

WITHOUT_QUERY = {"original"}
"""Peers that drop a target's query, in which a download says how long it is."""


@dataclasses.dataclass
class Transfer(Moving):
    """An upload and a download, one after the other."""

    name: str = "transfer"
    peers: tuple[str, ...] = ("direct", "nginx", "original", "goproxyai")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Their speeds; a MB is a million bytes."""
        size = f"{self.scale.megabytes} MB"
        return (
            Measure("up", f"{size} up", "MB/s"),
            Measure("down", f"{size} down", "MB/s"),
        )

    def run(self, stage: Stage, peer: Peer) -> Run:
        """Both ways."""
        running = self.running(stage, peer)
        size = self.scale.megabytes * 1_000_000
        up, use_up = watched(running, lambda: gauge("transfer", running.port, up=size))
        values, others = {"up": up["mb_per_second"]}, use_up.others
        if peer.name not in WITHOUT_QUERY:
            down, use = watched(running, lambda: gauge("transfer", running.port, down=size))
            values["down"], others = down["mb_per_second"], max(others, use.others)
        return Run(values, others)
