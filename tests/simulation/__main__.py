"""``python -m tests.simulation FIRST LAST``: worlds by seed; says what is wrong with which."""

from __future__ import annotations

import sys

from twisted.logger import globalLogBeginner

from tests.simulation.run import complaints


def main(first: int, last: int) -> int:
    """Run the seeds from *first* up to *last*; 1 where something is wrong."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    told = complaints(range(first, last))
    sys.stdout.write("".join(f"{each}\n" for each in told))
    sys.stdout.write(f"{last - first} seeds, {len(told)} complaints\n")
    return int(bool(told))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
