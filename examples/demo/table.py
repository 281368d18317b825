"""The table that is printed, row by row as it happens."""

from __future__ import annotations

import attrs

from examples.demo.client import Outcome

WIDTHS = (22, 30, 6, 7, 8, 6, 8, 8)
TITLES = (
    "step", "request", "status", "X-Cache", "upstream", "tunnel", "first ms", "total ms", "verdict"
)  # fmt: skip
NUMBERS = range(4, 8)


@attrs.define
class Table:
    """Prints, and remembers what was wrong.

    :ivar wrong: one line for each complaint.
    """

    wrong: list[str] = attrs.Factory(list)
    _rows: int = 0

    def row(
        self,
        step: str,
        outcome: Outcome,
        upstream: int,
        tunnels: set[int | None],
        complaints: list[str],
    ) -> None:
        """A request: how many reached upstream by it, and through which tunnels."""
        through = sorted("none" if each is None else f"#{each}" for each in tunnels)
        self._print(
            (
                step,
                _short(outcome.line, WIDTHS[1]),
                str(outcome.status),
                outcome.headers.get("x-cache", "-"),
                f"+{upstream}" if upstream else "-",
                ",".join(through) or "-",
                f"{outcome.first * 1000:.1f}",
                f"{outcome.total * 1000:.1f}",
            ),
            complaints,
        )

    def note(self, step: str, right: bool, what: str) -> None:
        """Something that is not a request; *what* is shown beside it, or is the complaint."""
        cells = (step, what if right else "", *[""] * (len(WIDTHS) - 2))
        self._print(cells, [] if right else [what])

    @property
    def verdict(self) -> str:
        return f"{self._rows} rows, {len(self.wrong)} wrong" if self.wrong else "Everything is OK."

    def _print(self, cells: tuple[str, ...], complaints: list[str]) -> None:
        if not self._rows:
            print(_line(TITLES))
            print("-" * len(_line(TITLES)))
        self._rows += 1
        self.wrong += complaints
        verdict = f"WRONG: {'; '.join(complaints)}" if complaints else "OK"
        print(_line((*cells, verdict)), flush=True)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _line(cells: tuple[str, ...]) -> str:
    padded = [
        cell.rjust(width) if number in NUMBERS else cell.ljust(width)
        for number, (cell, width) in enumerate(zip(cells, WIDTHS, strict=False))
    ]
    return "  ".join([*padded, *cells[len(WIDTHS) :]])
