"""The state that clients and upstreams of a simulation share."""

from __future__ import annotations

from random import Random

from twisted.internet.task import Clock

from goproxyai.cache.store import Store
from tests.simulation.plans import COMPLETIONS, AnswerPlan, draw_plan


class Environment:
    """Parameters drawn at the start, and the state of the run.

    :ivar repeat_probability: that an upstream repeats its previous answer.
    :ivar success_probability: weight of a complete answer.
    :ivar slow_probability: that a client reads slowly.
    :ivar shared: whether credentials share the answers to GETs.
    :ivar max_clients: clients at a time.
    :ivar failing: whether most upstream attempts fail at the moment.
    :ivar draining: whether no client connects any more, and everything ends.
    :ivar epoch: how often the cache was cleared; upstreams send other answers in each.
    """

    def __init__(self, seed: int) -> None:
        rng = self.rng = Random(seed)
        self.clock = Clock()
        self.clock.advance(1000)
        self.store = Store(rng.choice([15_000, 40_000, 200_000]), rng.choice([0, 50, 50]))
        self.repeat_probability = rng.choice([1, 1, 0.8])
        self.success_probability = rng.choice([0.8, 0.95, 0.5])
        self.slow_probability = rng.choice([0, 0.3, 0.7, 1])
        self.shared = rng.random() < 0.4
        self.max_clients = rng.choice([2, 5, 15, 40])
        self.failing = self.draining = False
        self.epoch = 0
        targets = self.targets = [b"/v1/models/%d" % n for n in range(rng.choice([1, 2, 4]))]
        self.plans: dict[bytes, AnswerPlan] = {
            name: draw_plan(rng) for name in (*targets, COMPLETIONS)
        }

    def clear_cache(self) -> None:
        """Clear the cache, so that earlier answers are outdated."""
        self.store.clear()
        self.epoch += 1
