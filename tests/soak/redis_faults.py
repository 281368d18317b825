"""``python -m tests.soak.redis_faults``: what requests take before, during and after a fault.

Two services share a Redis server, under the load of :mod:`tests.process.state_load`. The times are
those that the services log: until the first byte of the response, without the upstream.

==========  ======================================================================================
before      without a fault
fault       from the beginning of the fault until the circuit breakers have opened
opened      the second after that
away        until the end of the fault
back        without a fault, the shared state in use again
==========  ======================================================================================
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from tests.process.daemon_process import eventually
from tests.process.redis_faults import FAULTS, RedisFault, Site, redis_site
from tests.process.redis_services import serving, state, until_state
from tests.process.state_load import LIMIT, Load, Outcome
from tests.process.worker_service import Service, upstream_server
from tests.support.authority import Authority

PHASES = ("before", "fault", "opened", "away", "back")

OPENED_SECONDS = 1.0

OPENING_SECONDS = 5.0
"""The longest time that is waited for the circuit breakers; some faults do not open them."""

COLUMNS = "| fault | phase | requests | wrong | median | 99 % | longest |"


@attrs.define(eq=False)
class Run:
    """The load during one fault.

    :ivar starts: of the phases, in monotonic seconds.
    """

    name: str
    services: list[Service]
    starts: list[float] = attrs.field(factory=list)
    waits: list[dict[str, Any]] = attrs.field(factory=list)

    def measure(self, fault: RedisFault, site: Site, seconds: float) -> Load:
        pause = threading.Event()
        for each in self.services:
            until_state(each, "ok")
        before = [state(each)["opened"] for each in self.services]
        with Load(self.services) as load:
            self._begin()
            pause.wait(seconds)
            self._begin()
            fault.begin(site)
            deadline = time.monotonic() + OPENING_SECONDS
            while time.monotonic() < deadline and not all(
                state(each)["opened"] > then
                for each, then in zip(self.services, before, strict=True)
            ):
                pause.wait(0.01)
            self._begin()
            pause.wait(OPENED_SECONDS)
            self._begin()
            pause.wait(seconds)
            fault.end(site)
            for each in self.services:
                until_state(each, "ok")
            self._begin()
            pause.wait(seconds)
        self.waits = [state(each)["wait"] for each in self.services]
        return load

    def _begin(self) -> None:
        self.starts.append(time.monotonic())

    def rows(self, load: Load) -> Iterator[str]:
        """Yield a row of the table for each phase."""
        held = self._held(load)
        ends = [*self.starts[1:], float("inf")]
        for phase, start, end in zip(PHASES, self.starts, ends, strict=True):
            outcomes = [each for each in load.outcomes if start <= each.began < end]
            times = sorted(held[each.request_id] for each in outcomes if each.request_id in held)
            wrong = sum(1 for each in outcomes if each.problem)
            figures = (median(times), times[int(len(times) * 0.99)], times[-1]) if times else ()
            shown = " | ".join(f"{each:.1f} ms" for each in figures)
            yield f"| {self.name} | {phase} | {len(outcomes)} | {wrong} | {shown} |"

    def _held(self, load: Load) -> dict[str, float]:
        """Return the milliseconds for which the services held each request."""
        wanted = {each.request_id for each in load.outcomes}
        last: Outcome = next(each for each in reversed(load.outcomes) if each.request_id)
        found: dict[str, float] = {}

        def are_logged() -> bool:
            for service in self.services:
                for line in service.process.requests:
                    if line["request_id"] in wanted:
                        ms = line["ms"]
                        found[line["request_id"]] = ms.get("proxy", ms["total"])
            return last.request_id in found

        eventually(are_logged)
        return found


@contextmanager
def services_of(directory: Path, secured: bool) -> Iterator[tuple[Site, list[Service]]]:
    """Run two services and their server."""
    with (
        redis_site(directory, Authority(directory), secured) as site,
        upstream_server() as upstream,
        serving(directory, upstream, site.redis) as serve,
    ):
        settings = {"RATE_LIMIT": str(LIMIT), **site.settings()}
        yield site, [serve(**settings) for _ in range(2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each of the long phases")
    parser.add_argument("faults", nargs="*", help="; ".join(FAULTS))
    given = parser.parse_args()
    print(COLUMNS)
    print("|---|---|---|---|---|---|---|")
    for name in given.faults or FAULTS:
        fault = FAULTS[name]
        with (
            tempfile.TemporaryDirectory() as directory,
            services_of(Path(directory), fault.secured) as (site, services),
        ):
            run = Run(name, services)
            load = run.measure(fault, site, given.seconds)
            print(*run.rows(load), sep="\n", flush=True)
            print(f"    waits for Redis: {json.dumps(run.waits)}", flush=True)


if __name__ == "__main__":
    main()
