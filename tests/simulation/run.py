"""Runs simulations by their seeds, with all checks."""

from __future__ import annotations

from contextlib import ExitStack
from traceback import format_exc
from typing import cast
from unittest.mock import patch

from twisted.logger import ILogObserver, globalLogPublisher

from goproxyai.proxy import (
    recorder,
    replay,
    response_head,
    shared_body,
    subscriber,
    upstream_request,
)
from tests.simulation.checks import check_at_end, check_before_step, check_invariants
from tests.simulation.messages import CheckFailed
from tests.simulation.simulation import Simulation

MAX_SHARED_BYTES, SLICE_BYTES = 3000, 256
"""Bytes; they replace the proxy's constants of the same name, because the bodies here are small."""


def run_simulation(seed: int) -> tuple[Simulation, str]:
    """The simulation of *seed* after its end, and the failed check; empty if all passed."""
    simulation = Simulation(seed)
    observer = cast("ILogObserver", simulation.observe)
    with ExitStack() as stack:
        globalLogPublisher.addObserver(observer)
        stack.callback(globalLogPublisher.removeObserver, observer)
        for module, name, value in (
            (shared_body, "MAX_SHARED_BYTES", MAX_SHARED_BYTES),
            (replay, "SLICE_BYTES", SLICE_BYTES),
            (subscriber, "SLICE_BYTES", SLICE_BYTES),
            (upstream_request, "random", simulation.rng.random),
            # The only use of the wall clock.
            (recorder, "stored_lines", lambda _, named: response_head.stored_lines(0, named)),
        ):
            stack.enter_context(patch.object(module, name, value))
        try:
            simulation.run(
                after_turn=lambda: check_invariants(simulation),
                before_step=lambda attempt: check_before_step(simulation, attempt),
            )
            check_at_end(simulation)
        except CheckFailed as failed:
            return simulation, f"seed {seed}: {failed}"
        except Exception:
            return simulation, f"seed {seed}: {format_exc()}"
    return simulation, ""


def failed_checks(seeds: range) -> list[str]:
    """The failed checks of all *seeds*."""
    return [failure for _, failure in map(run_simulation, seeds) if failure]
