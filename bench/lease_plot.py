"""What leases of different sizes cost and how far they miss the limit: a table, and a plot.

``python -m bench.lease_plot`` simulates four processes (:mod:`bench.lease_simulation`) and writes
``docs/explanation/leases.svg``. The result is the same on every machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import attrs
from twisted.internet.task import Clock

from bench.lease_simulation import Found, ParentService, Plan, RedisService, Service, Simulation
from bench.machine import CHECKOUT
from goproxyai.state import leases

PAGE = CHECKOUT / "docs" / "explanation" / "leases.svg"

MakeService = Callable[[Clock, Plan], Service]

DIVISORS = (1, 2, 4, 8, 16, 32, 64)
"""Leases in a bucket; the service has :data:`~goproxyai.state.leases.LEASES_PER_BUCKET`."""

SEEDS = range(5)

PLAN = Plan(load=3.0, burst_seconds=30.0, seconds=180.0)
"""Three times the limit for half a minute, then nothing for as long."""

SERVICES: dict[str, MakeService] = {
    "workers and their parent": ParentService,
    "machines and Redis": RedisService,
}

CASES = {
    "no faults": PLAN,
    "a process ends every 10 s": attrs.evolve(PLAN, ends=10.0),
    "one of them cut off for half of the time": attrs.evolve(PLAN, partition=10.0),
}

WIDTH, HEIGHT, LEFT, TOP, GAP, BOTTOM = 760, 330, 64, 40, 56, 62
STYLE = """
  svg { color-scheme: light dark; }
  .ground { fill: #ffffff; } text { fill: #24292f; font: 12px sans-serif; }
  .title { font-weight: bold; } .faint { fill: #6e7781; }
  .grid { stroke: #d8dee4; } .zero { stroke: #57606a; }
  .line { fill: none; stroke-width: 1.6; } .now { stroke: #ffffff; stroke-width: 1.5; }
  .c0 { stroke: #0969da; } .c1 { stroke: #bc4c00; } .c2 { stroke: #8250df; }
  .d0 { fill: #0969da; } .d1 { fill: #bc4c00; } .d2 { fill: #8250df; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; } text { fill: #e6edf3; } .faint { fill: #8d96a0; }
    .grid { stroke: #2a3038; } .zero { stroke: #8d96a0; } .now { stroke: #0d1117; }
    .c0 { stroke: #4493f8; } .c1 { stroke: #f0883e; } .c2 { stroke: #b083f0; }
    .d0 { fill: #4493f8; } .d1 { fill: #f0883e; } .d2 { fill: #b083f0; }
  }
"""


@dataclasses.dataclass(frozen=True)
class Point:
    """The result for leases of one size.

    :ivar round_trips: for each request.
    :ivar excess: above the limit, at worst, as a part of it. :ivar shortfall: below it.
    """

    divisor: int
    round_trips: float
    excess: float
    shortfall: float


@contextlib.contextmanager
def leases_per_bucket(divisor: int) -> Iterator[None]:
    """Change the size of leases."""
    usual = leases.LEASES_PER_BUCKET
    leases.LEASES_PER_BUCKET = divisor  # type: ignore[misc]  # a constant otherwise
    try:
        yield
    finally:
        leases.LEASES_PER_BUCKET = usual  # type: ignore[misc]


def point(found: Sequence[Found], divisor: int, per_minute: int) -> Point:
    """Sum up the runs of one plan: the worst of each."""
    return Point(
        divisor,
        sum(each.round_trips for each in found) / sum(each.requests for each in found),
        max(each.excess for each in found) / per_minute,
        max(each.shortfall for each in found) / per_minute,
    )


def points(service: MakeService, plan: Plan) -> list[Point]:
    """Simulate all sizes of leases."""
    results = []
    for divisor in DIVISORS:
        with leases_per_bucket(divisor):
            found = [Simulation(attrs.evolve(plan, seed=seed), service).run() for seed in SEEDS]
        results.append(point(found, divisor, plan.per_minute))
    return results


def plot(panels: dict[str, dict[str, list[Point]]]) -> str:
    """The plot; above zero is what the client got too much, below zero what it was refused."""
    found = [each for cases in panels.values() for case in cases.values() for each in case]
    top = max(0.1, *[each.excess for each in found])
    bottom = max(0.1, *[each.shortfall for each in found])
    right = max(each.round_trips for each in found)
    panel_width = (WIDTH - LEFT - 20 - GAP) / len(panels)
    low = HEIGHT - BOTTOM

    def y(part: float) -> float:
        return TOP + (top - part) / (top + bottom) * (low - TOP)

    rows = []
    for number, (title, cases) in enumerate(panels.items()):
        left = LEFT + number * (panel_width + GAP)

        def x(round_trips: float, left: float = left) -> float:
            return left + round_trips / right * panel_width

        rows.append(_text(left, TOP - 16, title, "title"))
        rows += _grid(left, panel_width, top, bottom, y)
        for tick in range(int(right * 5) + 1):
            rows.append(_text(x(tick / 5), low + 16, f"{tick / 5:g}", "faint", "middle"))
        rows.append(_text(left, low + 32, "round trips per request", "faint"))
        for color, case in enumerate(cases.values()):
            rows += _line([(x(each.round_trips), y(-each.shortfall)) for each in case], color)
            if any(each.excess > 0.001 for each in case):
                rows += _line([(x(each.round_trips), y(each.excess)) for each in case], color)
            for each in case:
                if each.divisor == leases.LEASES_PER_BUCKET:
                    for part in (each.excess, -each.shortfall):
                        rows.append(
                            f'<circle class="now d{color}" r="5" cx="{x(each.round_trips):.1f}"'
                            f' cy="{y(part):.1f}"/>'
                        )
    place = float(LEFT)
    for color, name in enumerate(CASES):
        rows.append(f'<circle class="d{color}" r="4" cx="{place:.0f}" cy="{HEIGHT - 14}"/>')
        rows.append(_text(place + 9, HEIGHT - 10, name, ""))
        place += 30 + 6.2 * len(name)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
            f' viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            "<title>Tokens above and below the limit, by round trips per request</title>",
            f"<style>{STYLE}</style>",
            '<rect class="ground" width="100%" height="100%" rx="6"/>',
            *rows,
            "</svg>\n",
        ]
    )


def _grid(left: float, width: float, top: float, bottom: float, y: object) -> list[str]:
    assert callable(y)
    rows = []
    for tick in range(-int(bottom * 5), int(top * 5) + 1):
        kind, at = "grid" if tick else "zero", y(tick / 5)
        rows.append(
            f'<line class="{kind}" x1="{left:.1f}" y1="{at:.1f}" x2="{left + width:.1f}"'
            f' y2="{at:.1f}"/>'
        )
        label = f"{tick * 20:+d} %" if tick else "limit"
        rows.append(_text(left - 6, at + 4, label, "faint", "end"))
    return rows


def _line(places: Sequence[tuple[float, float]], color: int) -> list[str]:
    path = " ".join([f"{x:.1f},{y:.1f}" for x, y in places])
    dots = [f'<circle class="d{color}" r="2" cx="{x:.1f}" cy="{y:.1f}"/>' for x, y in places]
    return [f'<polyline class="line c{color}" points="{path}"/>', *dots]


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{css}>{escape(text)}</text>'


def main(page: Path = PAGE) -> None:
    panels: dict[str, dict[str, list[Point]]] = {}
    for title, service in SERVICES.items():
        panels[title] = {name: points(service, plan) for name, plan in CASES.items()}
        for name, case in panels[title].items():
            for each in case:
                print(
                    f"{title:25} {name:42} lease 1/{each.divisor:<3} "
                    f"{each.round_trips:5.2f} round trips, at worst "
                    f"{each.excess:+6.1%} and {-each.shortfall:+6.1%}"
                )
    page.write_text(plot(panels))


if __name__ == "__main__":
    main()
