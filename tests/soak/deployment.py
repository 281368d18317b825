"""One deployment: a server process, its clients, and measurements of the idle process."""

from __future__ import annotations

import json
from typing import Any

import attrs
from twisted.internet.task import deferLater

from tests.soak.audit import Audit
from tests.soak.connection import Call, connect
from tests.soak.load import ADMIN_TOKEN, Load
from tests.soak.process import DaemonProcess, Measurement, ServerProcess

MAX_RSS_GROWTH = 0.10
"""Of the resident memory, from the first cycle of a process to its last."""

MAX_BLOCK_GROWTH = 0.01
"""Of the live memory blocks, which vary less than the resident memory."""

MAX_IDLE_SECONDS = 8.0
"""After the load, the leftovers of requests must be gone within this time."""

BUCKETS = 16 * 1024
"""Client addresses that the daemon's rate limit remembers."""


@attrs.define(eq=False)
class Deployment:
    """A server process with its clients and the audit of their requests."""

    where: str
    process: ServerProcess
    audit: Audit
    load: Load
    measurements: list[Measurement] = attrs.field(factory=list)

    async def fill_buckets(self) -> None:
        """Fill the rate limit's table of addresses, whose memory is bounded.

        Every request has an address of its own, so the table would grow slowly during the run and
        look like a leak. The requests are neither cached nor sent to the upstream.
        """
        connection = await connect(self.load.reactor, self.load.door)
        assert connection is not None, "the process does not listen"
        client = self.load.operator("filling")
        for _ in range(BUCKETS // 512):
            calls = []
            for _ in range(512):
                call, head, _ = client.begin(
                    "GET", "/v1/filling", more="Cache-Control: only-if-cached\r\n"
                )
                connection.send(call, head)
                calls.append(call)
            for call in calls:
                await client.finish(call)
        connection.close(orderly=True)

    async def measure(self, process: DaemonProcess) -> Measurement:
        """Measure *process* when nothing is left in it; report what stays."""
        first = next((m for m in self.measurements if m.process == process.number), None)
        deadline = self.load.reactor.seconds() + MAX_IDLE_SECONDS
        while True:
            await deferLater(self.load.reactor, 0.2)
            measurement = await process.measure()
            left = _leftovers(measurement, first)
            if not left:
                break
            if self.load.reactor.seconds() > deadline:
                self.audit.report(f"left in the idle process: {'; '.join(left)}")
                break
        self.measurements.append(measurement)
        return measurement

    async def request(self, method: str, target: str) -> Any:
        """Send a request to the daemon itself; it is audited and logged as all others."""
        load = self.load
        connection = await connect(load.reactor, load.door)
        assert connection is not None, "the idle process refuses a connection"
        call, head, _ = load.operator().begin(method, target, b"Bearer " + ADMIN_TOKEN.encode())
        answered: Call = await connection.send(call, head)
        document = json.loads(answered.body)
        connection.close(orderly=True)
        await connection.disconnected
        call.outcome = "ok"
        self.audit.outcomes["ok"] += 1
        return document

    def check_memory(self) -> None:
        """Compare the last measurement with that after the first full cycle of the process.

        The very first one is after the warm-up, or after the rest of a cycle with a restart.
        """
        last = self.measurements[-1]
        same = [m for m in self.measurements if m.process == last.process][1:]
        if len(same) < 2:
            return
        first, report = same[0], self.audit.report
        if last.rss > first.rss * (1 + MAX_RSS_GROWTH):
            report(f"the memory grew from {first.rss} to {last.rss} bytes")
        if last.blocks > first.blocks * (1 + MAX_BLOCK_GROWTH):
            report(f"the memory blocks grew from {first.blocks} to {last.blocks}")


def _leftovers(now: Measurement, first: Measurement | None) -> list[str]:
    """What an idle process holds that it should not."""
    left = [f"{count} {name}" for name, count in now.objects.items()]
    if first is not None:
        more = list(now.calls)
        for call in first.calls:
            if call in more:
                more.remove(call)
        left += [f"a delayed call of {call}" for call in more]
        if now.descriptors != first.descriptors:
            left.append(f"{now.descriptors} descriptors, {first.descriptors} at first")
    return left
