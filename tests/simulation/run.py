"""Worlds by their seeds, lived to the end and judged."""

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
from tests.simulation.messages import Wrong
from tests.simulation.world import World

MOST_SHARED, SLICE = 3000, 256
"""What takes their place in the pipeline: bodies here are small."""


def lived(seed: int) -> tuple[World, str]:
    """The world of a *seed* when it is over, and what was wrong; empty where nothing was."""
    world = World(seed)
    observer = cast("ILogObserver", world.observe)
    with ExitStack() as stack:
        globalLogPublisher.addObserver(observer)
        stack.callback(globalLogPublisher.removeObserver, observer)
        for module, name, value in (
            (shared_body, "MAX_SHARED_BYTES", MOST_SHARED),
            (replay, "SLICE_BYTES", SLICE),
            (subscriber, "SLICE_BYTES", SLICE),
            (upstream_request, "random", world.chance.random),
            (
                recorder,
                "stored_lines",
                lambda _, named: response_head.stored_lines(0, named),
            ),  # the one wall clock
        ):
            stack.enter_context(patch.object(module, name, value))
        try:
            world.run()
        except Wrong as wrong:
            return world, f"seed {seed}: {wrong}"
        except Exception:
            return world, f"seed {seed}: {format_exc()}"
    return world, ""


def complaints(seeds: range) -> list[str]:
    """What is wrong with the worlds of *seeds*, each with its seed."""
    return [told for _, told in map(lived, seeds) if told]
