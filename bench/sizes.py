"""The sizes of mixed traffic: a log-normal distribution, within bounds.

The sizes are quantiles, not random numbers: each run has the same ones, and even a thousand of them
have the distribution's mean. The order of the answers is random, so that a large question has as
often a small answer as any other.
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics

KB = 1000
COUNT = 1_000
"""The number of different questions."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A log-normal distribution of a number of bytes; ``sigma`` is that of the logarithm."""

    median: int
    sigma: float
    least: int
    most: int

    def draw(self, count: int) -> list[int]:
        """The middles of *count* equally probable intervals, in rising order."""
        normal = statistics.NormalDist()
        ratios = (math.exp(self.sigma * normal.inv_cdf((i + 0.5) / count)) for i in range(count))
        return [min(self.most, max(self.least, round(self.median * ratio))) for ratio in ratios]


QUESTIONS = Sizes(median=4 * KB, sigma=1.7, least=300, most=1000 * KB)
ANSWERS = Sizes(median=2 * KB, sigma=1.4, least=500, most=200 * KB)


def exchanges(count: int = COUNT) -> list[tuple[int, int]]:
    """The sizes of each question and of its answer in bytes, the same in each run."""
    shuffled = random.Random(1)
    questions, answers = QUESTIONS.draw(count), ANSWERS.draw(count)
    shuffled.shuffle(questions)
    shuffled.shuffle(answers)
    return list(zip(questions, answers, strict=True))


def sizes_file(pairs: list[tuple[int, int]]) -> str:
    """The text that gauge reads: a line for each question, with both sizes."""
    return "".join(f"{question} {answer}\n" for question, answer in pairs)
