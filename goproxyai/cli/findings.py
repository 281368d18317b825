"""What ``goproxyai check`` has found: one finding for each part that it looked at."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from textwrap import wrap
from typing import Any

import attrs

_MIN_WIDTH = 80
_NAME_WIDTH = 15
_RESULT_WIDTH = 13
_TIME_WIDTH = 11


class Result(StrEnum):
    """The outcome of one part."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_REACHED = "not reached"


@attrs.frozen
class Finding:
    """The outcome of one part of the check; no text contains a secret.

    :ivar name: of the part, such as ``DNS``.
    :ivar detail: what was found.
    :ivar advice: what to do; empty where nothing is to be done.
    :ivar seconds: how long the part took; ``None`` where that says nothing.
    :ivar upstream: the URL that was checked; empty for other parts.
    :ivar proxy: the egress proxy on the way to *upstream*.
    """

    name: str
    result: Result
    detail: str = ""
    advice: str = ""
    seconds: float | None = None
    upstream: str = ""
    proxy: str = ""

    def document(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        document = attrs.asdict(self)
        seconds = document.pop("seconds")
        document["ms"] = None if seconds is None else _milliseconds(seconds)
        return document


def has_failed(findings: Iterable[Finding]) -> bool:
    """Whether a part has failed."""
    return any(finding.result is Result.FAILED for finding in findings)


def report(findings: Iterable[Finding], width: int) -> str:
    """Return the findings as text, those of each upstream below its URL.

    :param width: characters in a line of advice.
    """
    margin = " " * (_NAME_WIDTH + _RESULT_WIDTH + _TIME_WIDTH)
    lines: list[str] = []
    heading = ""
    for finding in findings:
        here = finding.upstream + (f" via {finding.proxy}" if finding.proxy else "")
        if here != heading:
            lines += ["", here]
            heading = here
        indent = "  " if here else ""
        width = _NAME_WIDTH - len(indent)
        time = "" if finding.seconds is None else f"{_milliseconds(finding.seconds)} ms"
        first = (
            f"{indent}{finding.name:<{width}}{finding.result.value:<{_RESULT_WIDTH}}"
            f"{time:>{_TIME_WIDTH - 2}}  {finding.detail}"
        )
        lines.append(first.rstrip())
        lines += wrap(
            finding.advice, max(width, _MIN_WIDTH), initial_indent=margin, subsequent_indent=margin
        )
    return "\n".join(lines)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
