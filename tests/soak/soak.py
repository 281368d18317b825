"""The run: cycles of load with faults, and after each a measurement of the idle processes.

1. Two daemons are under the same load at the same time. One connects to the upstream directly and
   shares answers as much as possible; the other connects with TLS through the egress proxy. The
   first one may connect with TLS too. nginx may replace the first.
2. Before a measurement the faults have ended, clients and upstreams hold no connection and the
   cache is empty. Then no object of a request, no new delayed call and no new file descriptor may
   be left. Memory is compared with that of the same process after its first cycle.
3. Events are logged with their time in seconds of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater

from goproxyai.daemon.eviction import EVICTION_INTERVAL_SECONDS
from tests.soak.audit import Audit
from tests.soak.client_kinds import KINDS
from tests.soak.connection import Door
from tests.soak.deployment import Deployment
from tests.soak.environment import HOST, PROXY, Environment
from tests.soak.faults import PLAIN, TUNNEL
from tests.soak.lateness import PULSE_SECONDS, Lateness
from tests.soak.load import ADMIN_TOKEN, Load
from tests.soak.log_check import check_levels, check_log, check_stats
from tests.soak.plan import Cycle, Plan, Window
from tests.soak.process import DaemonProcess, NginxProcess, ServerProcess
from tests.support.authority import Authority

SETTINGS = {
    "RATE_LIMIT": "60000",
    "REQUEST_TIMEOUT": "2500ms",
    "CONNECT_TIMEOUT": "2500ms",
    "IDLE_TIMEOUT": "2500ms",
    "TUNNEL_IDLE_TIMEOUT": "2500ms",
    "DRAIN_TIMEOUT": "2s",
    "CACHE_TTL": "3s",
    "MAX_CACHE_SIZE": "16",
    "LOG_FORMAT": "json",
    "ADMIN_TOKEN": ADMIN_TOKEN,
}
"""Deadlines that expire within a soak, and a cache that overflows."""


class Soak:
    """A run of *plan*.

    :param directory: for logs and files of names.
    :param nginx: run nginx instead of the daemons.
    :param tls: let the first daemon connect to its upstream with TLS, and both accept clients with
        TLS: half of those that open tunnels or leave.
    :param strict: compare the memory; a short run is too short for that.
    :param log: called with each event.
    :ivar events: all events, with their time.
    """

    def __init__(
        self,
        reactor: Any,
        plan: Plan,
        authority: Authority,
        directory: Path,
        nginx: bool = False,
        strict: bool = True,
        log: Callable[[str], None] = lambda line: None,
        tls: bool = False,
    ) -> None:
        self.plan = plan
        self.environment = Environment(reactor, plan.seed, authority, directory, tls)
        self._tls = tls
        self._scheme = "https" if tls else "http"
        self.deployments: list[Deployment] = []
        self.events: list[str] = []
        self._strict = strict
        self._reactor = reactor
        self._authority = authority
        self._directory = directory
        self._nginx = nginx
        self._log = log
        self._began = reactor.seconds()
        self._restarts: list[Deferred[None]] = []
        self._lateness = Lateness(self._began)
        self._pulse = LoopingCall(self._check_pulse)
        self._pulse.clock = reactor

    @property
    def problems(self) -> list[str]:
        """Everything that must not happen."""
        return [
            *(text for one in self.deployments for text in one.audit.problems),
            *(f"{one.where}: {text}" for one in self.deployments for text in one.process.problems),
        ]

    async def run(self) -> None:
        try:
            await self.environment.open()
            self._deploy_all()
            await gatherResults(
                [Deferred.fromCoroutine(one.process.start()) for one in self.deployments]
            )
            self._note("all processes listen")
            await self._fill_buckets(*self.deployments)
            self._lateness = Lateness(self._reactor.seconds())
            self._pulse.start(PULSE_SECONDS)
            for cycle in self.plan.cycles:
                await self._run_cycle(cycle)
            await self._finish()
        finally:
            if self._pulse.running:
                self._pulse.stop()
            for deployment in self.deployments:
                deployment.process.kill()
            await self.environment.close()

    def _note(self, text: str) -> None:
        line = f"{self._reactor.seconds() - self._began:8.2f}  {text}"
        self.events.append(line)
        self._log(line)

    def _deploy_all(self) -> None:
        environment = self.environment
        if self._nginx:
            directory = self._made("nginx")
            process = NginxProcess(self._reactor, directory, environment.plain_port, 2)
            self._deploy(PLAIN, process)
            return
        self._deploy_daemon(
            PLAIN,
            OPENAI_API_URL=f"{self._scheme}://{HOST}:{environment.plain_port}",
            SSL_CERT_FILE=str(self._authority.pem),
            COALESCE="all",
            CACHE_STALE="5s",
        )
        self._deploy_daemon(
            TUNNEL,
            OPENAI_API_URL=f"https://{HOST}",
            PROXY_URL=f"http://{PROXY}:{environment.proxy_port}",
            SSL_CERT_FILE=str(self._authority.pem),
        )

    def _made(self, name: str) -> Path:
        directory = self._directory / name
        directory.mkdir()
        return directory

    def _deploy_daemon(self, where: str, **settings: str) -> None:
        names = self.environment.names[where]
        directory, identity = self._made(where), None
        if self._tls:
            identity = directory / "identity.pem"
            identity.write_bytes(self._authority.good().pem)
        process = DaemonProcess(self._reactor, directory, names, {**SETTINGS, **settings}, identity)
        self._deploy(where, process)

    def _deploy(self, where: str, process: ServerProcess) -> None:
        state = self.environment.state
        first = len(self.deployments) * 2**40  # the upstream needs unique numbers
        audit = Audit(where, state.injections, is_goproxyai=not self._nginx)
        door = Door(process.port)
        if isinstance(process, DaemonProcess):
            door = Door(process.port, process.tls_port, self._authority.trust_root())
        load = Load(self._reactor, self.plan.seed, where, door, audit, state.versions, KINDS, first)
        self.deployments.append(Deployment(where, process, audit, load))

    # A cycle.

    async def _run_cycle(self, cycle: Cycle) -> None:
        self._note(f"cycle {cycle.number} begins")
        self.environment.state.enter_cycle(tuple(cycle.windows))
        timers = []
        for window in cycle.windows:
            timers.append(self._reactor.callLater(window.begin, self._begin_fault, window))
            if window.fault.name != "restart":
                timers.append(self._reactor.callLater(window.end, self._end_fault, window))
        await gatherResults(
            [
                Deferred.fromCoroutine(one.load.run(cycle.seconds, tuple(cycle.windows)))
                for one in self.deployments
            ]
        )
        for timer in timers:  # a fault that ends with its cycle
            if timer.active():
                timer.reset(0)
        await gatherResults(self._restarts)
        self._restarts = []
        await deferLater(self._reactor, 0.05)
        self.environment.state.enter_cycle(())
        await self._measure_all(cycle)

    def _begin_fault(self, window: Window) -> None:
        fault = window.fault
        self._note(f"{fault.name} begins ({fault.where})")
        if fault.name == "restart":
            for deployment in self.deployments:
                if deployment.where == TUNNEL:
                    self._restarts.append(Deferred.fromCoroutine(self._restart(deployment)))
            return
        self.environment.begin(window)
        for deployment in self._affected(window):
            deployment.audit.faults.began(fault.name, self._reactor.seconds())

    def _end_fault(self, window: Window) -> None:
        fault = window.fault
        self._note(f"{fault.name} ends ({fault.where})")
        self.environment.end(window)
        for deployment in self._affected(window):
            deployment.audit.faults.ended(fault.name, self._reactor.seconds())

    def _affected(self, window: Window) -> list[Deployment]:
        """The deployments in which the fault may affect requests without being injected."""
        fault = window.fault
        return [
            one for one in self.deployments if fault.nearby_outcomes or one.where == fault.where
        ]

    def _check_pulse(self) -> None:
        """Record when the harness itself could not run."""
        now = self._reactor.seconds()
        stall = self._lateness.pulse(now)
        if stall is not None:
            began, late = stall
            self._note(f"the harness was late by {late:.2f} s in {now - began:.2f} s")
            for deployment in self.deployments:
                deployment.audit.faults.stalled(began, now)

    async def _restart(self, deployment: Deployment) -> None:
        faults = deployment.audit.faults
        faults.began("restart", self._reactor.seconds())
        await deployment.process.stop()
        self._note(f"{deployment.where} has stopped")
        await deployment.process.start()
        self._note(f"{deployment.where} listens again")
        faults.ended("restart", self._reactor.seconds())
        await self._fill_buckets(deployment)

    async def _fill_buckets(self, *deployments: Deployment) -> None:
        if self._strict and not self._nginx:
            for deployment in deployments:
                await deployment.fill_buckets()

    # Measurements of idle processes.

    async def _measure_all(self, cycle: Cycle) -> None:
        self.environment.abort_connections(PLAIN)
        self.environment.abort_connections(TUNNEL)
        for deployment in self.deployments:
            if isinstance(deployment.process, DaemonProcess):
                await deployment.request("DELETE", "/cache")
        if self._strict:  # the next eviction frees the cleared entries
            await deferLater(self._reactor, 2 * EVICTION_INTERVAL_SECONDS)
        for deployment in self.deployments:
            if isinstance(deployment.process, DaemonProcess):
                measurement = await deployment.measure(deployment.process)
                self._note(f"{deployment.where} idle after cycle {cycle.number}: {measurement}")

    # The end.

    async def _finish(self) -> None:
        for deployment in self.deployments:
            process, audit = deployment.process, deployment.audit
            if not isinstance(process, DaemonProcess):
                await process.stop()
                continue
            if self._strict:
                deployment.check_memory()
            stats = await deployment.request("GET", "/stats")
            await process.stop()
            by_process = [process.log_lines(n) for n in range(1, process.number + 1)]
            for lines in by_process:
                check_levels(audit, lines)
            requests = [[line for line in lines if line["event"] == "request"]
                        for lines in by_process]  # fmt: skip
            last = [line for line in requests[-1] if line["path"] != "/stats"]
            check_stats(audit, stats, last)
            check_log(audit, [line for lines in requests for line in lines])
            if process.output():
                audit.report(f"output of the process: {process.output()[-2000:]}")
        self._note("all processes have ended")
