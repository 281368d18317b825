"""A bar chart of ratios as SVG, with a light and a dark colour scheme.

The bars start at 1. The scale is logarithmic, so the bars of 2 and of 1/2 have equal length.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 760, 170, 60
ROW, BAR, HEADING, GAP, AXIS = 20, 13, 26, 12, 34
"""Heights in pixels: a bar with its gap, a bar, a heading, a gap between groups, the axis."""

STYLE = """
  svg { color-scheme: light dark; }
  .ground { fill: #ffffff; } text { fill: #24292f; font: 12px sans-serif; }
  .title { font-weight: bold; } .faint { fill: #6e7781; }
  .bar { fill: #a5b1be; } .ours { fill: #0969da; }
  .grid { stroke: #d8dee4; } .one { stroke: #57606a; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; } text { fill: #e6edf3; } .faint { fill: #8d96a0; }
    .bar { fill: #5b6673; } .ours { fill: #4493f8; }
    .grid { stroke: #2a3038; } .one { stroke: #8d96a0; }
  }
"""


@dataclasses.dataclass(frozen=True)
class Bar:
    """The ratio of one peer, above zero; ``ours`` highlights it."""

    label: str
    ratio: float
    ours: bool = False


@dataclasses.dataclass(frozen=True)
class Group:
    """The bars of one workload."""

    title: str
    bars: Sequence[Bar]


@dataclasses.dataclass(frozen=True)
class Scale:
    """The horizontal axis from 10**``lowest`` to 10**``highest``."""

    lowest: int
    highest: int

    @classmethod
    def over(cls, ratios: Sequence[float]) -> Scale:
        """The smallest scale with all ratios, 1/10 and 10."""
        powers = [math.log10(ratio) for ratio in ratios]
        return cls(
            min(-1, math.floor(min(powers, default=0))), max(1, math.ceil(max(powers, default=0)))
        )

    def x(self, ratio: float) -> float:
        """The horizontal position of *ratio* in pixels."""
        share = (math.log10(ratio) - self.lowest) / (self.highest - self.lowest)
        return LEFT + share * (WIDTH - LEFT - RIGHT)


def plot(groups: Sequence[Group], reference: str) -> str:
    """The chart; *reference* names the ratio 1."""
    scale = Scale.over([bar.ratio for group in groups for bar in group.bars])
    rows, y = [], GAP
    for group in groups:
        rows.append(_text(12, y + 16, group.title, "title"))
        y += HEADING
        for bar in group.bars:
            rows += _bar(bar, y, scale)
            y += ROW
        y += GAP
    height = y + AXIS
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
            f' viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{escape(f'Rates as multiples of {reference}: right of 1 is faster')}</title>",
            f"<style>{STYLE}</style>",
            '<rect class="ground" width="100%" height="100%" rx="6"/>',
            *_grid(scale, y, reference),
            *rows,
            "</svg>\n",
        ]
    )


def _grid(scale: Scale, bottom: int, reference: str) -> list[str]:
    parts = []
    for power in range(scale.lowest, scale.highest + 1):
        x, kind = scale.x(10.0**power), "one" if power == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" y1="{GAP}" x2="{x:.1f}" y2="{bottom}"/>')
        label = f"1 = {reference}" if power == 0 else f"{10.0**power:g}"
        parts.append(_text(x, bottom + 16, label, "faint", "middle"))
    return parts


def _bar(bar: Bar, y: int, scale: Scale) -> list[str]:
    one, end = scale.x(1), scale.x(bar.ratio)
    left, width = min(one, end), max(1.0, abs(end - one))
    label_x, anchor = (end + 5, "start") if end >= one else (end - 5, "end")
    kind = "ours" if bar.ours else "bar"
    return [
        _text(LEFT - 12, y + BAR - 2, bar.label, "title" if bar.ours else "", "end"),
        f'<rect class="{kind}" x="{left:.1f}" y="{y}" width="{width:.1f}" height="{BAR}"/>',
        _text(label_x, y + BAR - 2, f"{bar.ratio:.3g}", "faint", anchor),
    ]


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{css}>{escape(text)}</text>'
