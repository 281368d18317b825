"""The printed table."""

from __future__ import annotations

import attrs

from examples.demo.client import Outcome

WIDTHS = (22, 30, 6, 7, 8, 6, 8, 8)
TITLES = (
    "step", "request", "status", "X-Cache", "upstream", "tunnel", "first ms", "total ms", "verdict"
)  # fmt: skip
RIGHT_ALIGNED = range(4, 8)


@attrs.define
class Table:
    """Prints rows and collects problems.

    :ivar problems: one line for each.
    """

    problems: list[str] = attrs.Factory(list)
    _rows: int = 0

    def add_request(
        self,
        step: str,
        outcome: Outcome,
        upstream: int,
        tunnels: set[int | None],
        problems: list[str],
    ) -> None:
        """Add a request, the number of upstream requests that it caused, and their tunnels."""
        names = sorted("none" if each is None else f"#{each}" for each in tunnels)
        self._print(
            (
                step,
                _short(outcome.line, WIDTHS[1]),
                str(outcome.status),
                outcome.headers.get("x-cache", "-"),
                f"+{upstream}" if upstream else "-",
                ",".join(names) or "-",
                f"{outcome.first * 1000:.1f}",
                f"{outcome.total * 1000:.1f}",
            ),
            problems,
        )

    def add_note(self, step: str, right: bool, text: str) -> None:
        """Add a check that is not a request; *text* is the result or the problem."""
        cells = (step, text if right else "", *[""] * (len(WIDTHS) - 2))
        self._print(cells, [] if right else [text])

    @property
    def verdict(self) -> str:
        return (
            f"{self._rows} rows, {len(self.problems)} wrong"
            if self.problems
            else "All rows are OK."
        )

    def _print(self, cells: tuple[str, ...], problems: list[str]) -> None:
        if not self._rows:
            print(_line(TITLES))
            print("-" * len(_line(TITLES)))
        self._rows += 1
        self.problems += problems
        verdict = f"WRONG: {'; '.join(problems)}" if problems else "OK"
        print(_line((*cells, verdict)), flush=True)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _line(cells: tuple[str, ...]) -> str:
    padded = [
        cell.rjust(width) if number in RIGHT_ALIGNED else cell.ljust(width)
        for number, (cell, width) in enumerate(zip(cells, WIDTHS, strict=False))
    ]
    return "  ".join([*padded, *cells[len(WIDTHS) :]])
