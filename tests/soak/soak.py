"""The run: cycles of load and faults, and behind each a quiet moment in which all is measured.

1. Two daemons stand the same load at the same time: one goes to upstream directly and shares all it
   may, one goes with TLS through the egress proxy. nginx may stand in the place of the first.
2. In a quiet moment the faults are over, clients and upstreams hold no connection and the cache is
   empty. Then nothing may be left: no object of a request, no delayed call, no descriptor more than
   after the warm-up. Memory is compared with the first cycle's of the same process.
3. What happened is written down with its time, in seconds of the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater

from tests.soak.accounts import Accounts
from tests.soak.crowd import Crowd
from tests.soak.kinds import KINDS
from tests.soak.plan import Cycle, Plan, Window
from tests.soak.subject import Daemon, Measured, Nginx, Process
from tests.soak.table import PLAIN, TUNNEL
from tests.soak.wire import Call, dial
from tests.soak.world import HOST, PROXY, World
from tests.support.authority import Authority

MOST_GROWTH = 0.10
"""Of resident memory, from the first cycle of a process to its last."""

MOST_MORE_BLOCKS = 0.01
"""Of live blocks of memory, likewise: what the resident memory does not tell for its noise."""

QUIET_SECONDS = 8.0
"""In which all that was left by the load must be gone."""

ADDRESSES = 16 * 1024
"""Of clients, that the daemon remembers."""

PULSE_SECONDS, STILL_SECONDS = 0.1, 0.6
"""Between two looks at the clock, and what is too long between them."""

SETTINGS = {
    "RATE_LIMIT": "60000",
    "REQUEST_TIMEOUT": "2500ms",
    "CONNECT_TIMEOUT": "2500ms",
    "IDLE_TIMEOUT": "2500ms",
    "DRAIN_TIMEOUT": "2s",
    "CACHE_TTL": "3s",
    "MAX_CACHE_SIZE": "16",
    "LOG_FORMAT": "json",
}
"""Deadlines that a soak can wait for, and a cache that overflows."""


@attrs.define(eq=False)
class Deployment:
    """One subject, its clients and its books."""

    where: str
    process: Process
    accounts: Accounts
    crowd: Crowd
    measured: list[Measured] = attrs.field(factory=list)


class Soak:
    """A run of *plan*.

    :param directory: for logs and files of names.
    :param nginx: let nginx stand in the place of the daemons.
    :param strict: hold memory to :data:`MOST_GROWTH`; a short run is too short for that.
    :ivar events: what happened when, in seconds of the run.
    """

    def __init__(
        self,
        reactor: Any,
        plan: Plan,
        authority: Authority,
        directory: Path,
        nginx: bool = False,
        strict: bool = True,
        told: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.plan = plan
        self.world = World(reactor, plan.seed, authority, directory)
        self.deployments: list[Deployment] = []
        self.events: list[str] = []
        self.strict = strict
        self._reactor = reactor
        self._authority = authority
        self._directory = directory
        self._nginx = nginx
        self._told = told
        self._began = reactor.seconds()
        self._restarting: list[Deferred[None]] = []
        self._pulsed = 0.0
        self._pulsing = LoopingCall(self._pulse)
        self._pulsing.clock = reactor

    @property
    def complaints(self) -> list[str]:
        """Everything that is not as it must be."""
        return [
            *(text for deployment in self.deployments for text in deployment.accounts.complaints),
            *(f"{deployment.where}: {text}" for deployment in self.deployments
              for text in deployment.process.complaints),
        ]  # fmt: skip

    async def run(self) -> None:
        """All of it."""
        try:
            await self.world.open()
            self._set_up()
            await gatherResults(
                [
                    Deferred.fromCoroutine(deployment.process.start())
                    for deployment in self.deployments
                ]
            )
            self._note("all listen")
            for deployment in self.deployments:
                await self._fill(deployment)
            self._pulsed = self._reactor.seconds()
            self._pulsing.start(PULSE_SECONDS)
            for cycle in self.plan.cycles:
                await self._cycle(cycle)
            await self._settle()
        finally:
            if self._pulsing.running:
                self._pulsing.stop()
            for deployment in self.deployments:
                deployment.process.kill()
            await self.world.close()

    def _note(self, text: str) -> None:
        line = f"{self._reactor.seconds() - self._began:8.2f}  {text}"
        self.events.append(line)
        self._told(line)

    def _set_up(self) -> None:
        if self._nginx:
            directory = self._made("nginx")
            self._stand(PLAIN, Nginx(self._reactor, directory, self.world.plain_port, 2))
            return
        world = self.world
        settings = {"OPENAI_API_URL": f"http://{HOST}:{world.plain_port}", "COALESCE": "all"}
        self._daemon(PLAIN, CACHE_STALE="5s", **settings)
        self._daemon(
            TUNNEL,
            OPENAI_API_URL=f"https://{HOST}",
            PROXY_URL=f"http://{PROXY}:{world.proxy_port}",
            SSL_CERT_FILE=str(self._authority.pem),
        )

    def _made(self, name: str) -> Path:
        directory = self._directory / name
        directory.mkdir()
        return directory

    def _daemon(self, where: str, **settings: str) -> None:
        names = self.world.names[where]
        directory = self._made(where)
        process = Daemon(self._reactor, directory, names, {**SETTINGS, **settings})
        self._stand(where, process)

    def _stand(self, where: str, process: Process) -> None:
        world = self.world
        first = (
            len(self.deployments) * 2**40
        )  # so that upstream can tell everybody's requests apart
        accounts = Accounts(where, world.strikes, ours=not self._nginx)
        crowd = Crowd(
            self._reactor, self.plan.seed, where, process.port, accounts, world.versions, KINDS,
            first,
        )  # fmt: skip
        self.deployments.append(Deployment(where, process, accounts, crowd))

    # A cycle.

    async def _cycle(self, cycle: Cycle) -> None:
        self._note(f"cycle {cycle.number} begins")
        self.world.enter(tuple(cycle.windows))
        timers = []
        for window in cycle.windows:
            timers.append(self._reactor.callLater(window.begin, self._begin, window))
            if window.fault.name != "restart":
                timers.append(self._reactor.callLater(window.end, self._end, window))
        await gatherResults(
            [
                Deferred.fromCoroutine(deployment.crowd.during(cycle.seconds, tuple(cycle.windows)))
                for deployment in self.deployments
            ]
        )
        for window, timer in zip(cycle.windows, timers, strict=False):
            assert not (timer.active() and window.begin < cycle.seconds), "the plan is longer"
        for timer in timers:  # a fault that ends with its cycle
            if timer.active():
                timer.reset(0)
        await gatherResults(self._restarting)
        self._restarting = []
        await deferLater(self._reactor, 0.05)
        self.world.enter(())
        await self._measure(cycle)

    def _begin(self, window: Window) -> None:
        self._note(f"{window.fault.name} begins ({window.fault.where})")
        if window.fault.name == "restart":
            for deployment in self.deployments:
                if deployment.where == TUNNEL:
                    self._restarting.append(Deferred.fromCoroutine(self._restart(deployment)))
            return
        self.world.begin(window)
        for deployment in self._struck(window):
            deployment.accounts.fault_began(window.fault.name, self._reactor.seconds())

    def _end(self, window: Window) -> None:
        self._note(f"{window.fault.name} ends ({window.fault.where})")
        self.world.end(window)
        for deployment in self._struck(window):
            deployment.accounts.fault_ended(window.fault.name, self._reactor.seconds())

    def _struck(self, window: Window) -> list[Deployment]:
        """All whose requests the fault may strike unseen."""
        fault = window.fault
        return [one for one in self.deployments if fault.around or one.where == fault.where]

    def _pulse(self) -> None:
        """Notice that the harness itself was kept from its work."""
        now = self._reactor.seconds()
        if now - self._pulsed > STILL_SECONDS:
            self._note(f"the harness stood still for {now - self._pulsed:.2f} s")
            for deployment in self.deployments:
                deployment.accounts.stood_still(self._pulsed, now)
        self._pulsed = now

    async def _restart(self, deployment: Deployment) -> None:
        deployment.accounts.fault_began("restart", self._reactor.seconds())
        await deployment.process.stop()
        self._note(f"{deployment.where} has ended")
        await deployment.process.start()
        self._note(f"{deployment.where} listens again")
        deployment.accounts.fault_ended("restart", self._reactor.seconds())
        await self._fill(deployment)

    async def _fill(self, deployment: Deployment) -> None:
        """Fill what the daemon remembers of clients' addresses, whose memory is bounded.

        Every request here comes from an address of its own, so that it would fill slowly, and pass
        for a leak. What is asked for is not in the cache, and nobody asks upstream.
        """
        if not self.strict or self._nginx:
            return
        line = await dial(self._reactor, deployment.process.port)
        assert line is not None, "it listened a moment ago"
        client = deployment.crowd.operator("filling")
        for _ in range(ADDRESSES // 512):
            calls = []
            for _ in range(512):
                call, head, _ = client.request(
                    "GET", "/v1/filling", more="Cache-Control: only-if-cached\r\n"
                )
                line.ask(call, head)
                calls.append(call)
            for call in calls:
                await client.end(call)
        line.leave(orderly=True)

    # A quiet moment.

    async def _measure(self, cycle: Cycle) -> None:
        self.world.drop(PLAIN)
        self.world.drop(TUNNEL)
        for deployment in self.deployments:
            if isinstance(deployment.process, Daemon):
                await self._ask(deployment, "DELETE", "/cache")
        if self.strict:  # what was cleared is freed at the next look
            await deferLater(self._reactor, 2 * EVICTION_INTERVAL_SECONDS)
        for deployment in self.deployments:
            if isinstance(deployment.process, Daemon):
                one = await self._quiet(deployment, deployment.process)
                deployment.measured.append(one)
                self._note(f"{deployment.where} at rest behind cycle {cycle.number}: {one}")

    async def _quiet(self, deployment: Deployment, process: Daemon) -> Measured:
        """Measure *process* once nothing is left in it; complain if something stays."""
        before = [one for one in deployment.measured if one.process == process.number][:1]
        deadline = self._reactor.seconds() + QUIET_SECONDS
        while True:
            await deferLater(self._reactor, 0.2)
            now = await process.measure()
            left = _left(now, before[0] if before else None)
            if not left:
                return now
            if self._reactor.seconds() > deadline:
                deployment.accounts.complain(f"when all is quiet there is left: {'; '.join(left)}")
                return now

    async def _ask(self, deployment: Deployment, method: str, target: str) -> Any:
        """A question of an operator's; it has its line in the log as all have."""
        crowd = deployment.crowd
        line = await dial(self._reactor, crowd.port)
        assert line is not None, "nobody listens when all is quiet"
        client = crowd.operator()
        call, head, _ = client.request(method, target)
        answered: Call = await line.ask(call, head)
        document = json.loads(answered.body)
        line.leave(orderly=True)
        await line.gone
        call.outcome = "ok"
        deployment.accounts.outcomes["ok"] += 1
        return document

    # The end.

    async def _settle(self) -> None:
        for deployment in self.deployments:
            process = deployment.process
            if not isinstance(process, Daemon):
                await process.stop()
                continue
            self._check_memory(deployment)
            stats = await self._ask(deployment, "GET", "/stats")
            await process.stop()
            lines = []
            for number in range(1, process.number + 1):
                own = process.lines(number)
                lines += self._requests(deployment, own)
            last = self._requests(deployment, process.lines(process.number), silent=True)
            (asking,) = [line for line in last if line["path"] == "/stats"]
            deployment.accounts.compare_stats(stats, [line for line in last if line is not asking])
            deployment.accounts.compare(lines)
            if process.said():
                deployment.accounts.complain(f"it said: {process.said()[-2000:]}")
        self._note("all have ended")

    def _requests(
        self, deployment: Deployment, lines: list[dict[str, Any]], silent: bool = False
    ) -> list[dict[str, Any]]:
        """The lines of requests; of the others none may be worse than a warning."""
        for line in lines:
            text = str(line.get("message", ""))
            if not silent and (
                line["level"] not in ("debug", "info", "warn") or "Traceback" in text
            ):
                deployment.accounts.complain(f"the log says: {text[-2000:]}")
        return [line for line in lines if line["event"] == "request"]

    def _check_memory(self, deployment: Deployment) -> None:
        """The last measurement, against that behind the first whole cycle of the same process.

        What is measured first is the warm-up, or the rest of a cycle in which it was started.
        """
        last = deployment.measured[-1]
        same = [one for one in deployment.measured if one.process == last.process][1:]
        if not self.strict or len(same) < 2:
            return
        if last.rss > same[0].rss * (1 + MOST_GROWTH):
            deployment.accounts.complain(f"memory grew from {same[0].rss} to {last.rss} bytes")
        if last.blocks > same[0].blocks * (1 + MOST_MORE_BLOCKS):
            deployment.accounts.complain(f"{same[0].blocks} blocks of memory became {last.blocks}")


def _left(now: Measured, before: Measured | None) -> list[str]:
    """What a process at rest holds that it should not."""
    left = [f"{count} {name}" for name, count in now.objects.items()]
    if before is not None:
        more = list(now.calls)
        for call in before.calls:
            if call in more:
                more.remove(call)
        left += [f"a call of {call}" for call in more]
        if now.descriptors != before.descriptors:
            left.append(f"{now.descriptors} descriptors, {before.descriptors} at first")
    return left
