"""One large upload and one large download; every byte is compared."""

from __future__ import annotations

import dataclasses

from bench.gauge import gauge
from bench.peers import Peer
from bench.results import Measure, Run
from bench.testbed import Testbed
from bench.workload import StreamingWorkload, with_cpu_usage

WITHOUT_QUERY = {"original"}
"""Peers that drop the query of the target, which has the length of the download."""


@dataclasses.dataclass
class Transfer(StreamingWorkload):
    """An upload and a download, one after the other."""

    name: str = "transfer"
    peers: tuple[str, ...] = ("direct", "nginx", "original", "goproxyai")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The rates; a MB is 10**6 bytes."""
        size = f"{self.scale.megabytes} MB"
        return (
            Measure("up", f"{size} up", "MB/s"),
            Measure("down", f"{size} down", "MB/s"),
        )

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        running = self.running(testbed, peer)
        size = self.scale.megabytes * 1_000_000
        up, use_up = with_cpu_usage(running, lambda: gauge("transfer", running.plain_port, up=size))
        values, others = {"up": up["mb_per_second"]}, use_up.others
        if peer.name not in WITHOUT_QUERY:
            down, usage = with_cpu_usage(
                running, lambda: gauge("transfer", running.plain_port, down=size)
            )
            values["down"], others = down["mb_per_second"], max(others, usage.others)
        return Run(values, others)
