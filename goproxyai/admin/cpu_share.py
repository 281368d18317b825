"""The share of a processor that the daemon has used in the last seconds."""

from __future__ import annotations


class CpuShare:
    """Compares CPU times; the last two of :meth:`note` are kept."""

    def __init__(self) -> None:
        self._before: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None

    def note(self, wall: float, cpu_ms: int) -> None:
        """Note the CPU time at the end of a slot.

        :param wall: Unix seconds.
        """
        self._before, self._last = self._last, (wall, cpu_ms)

    def share(self, wall: float, cpu_ms: int) -> float | None:
        """Return CPU seconds a second since the last slot but one; ``None`` if it is unknown.

        A sum of processes may shrink when one of them ends: the share is then 0.
        """
        start = self._before or self._last
        if start is None or wall <= start[0]:
            return None
        return round(max(0.0, (cpu_ms - start[1]) / 1000 / (wall - start[0])), 3)
