"""``python -m tests.simulation FIRST LAST``: run the seeds and print the failed checks."""

from __future__ import annotations

import sys

from twisted.logger import globalLogBeginner

from tests.simulation.run import failed_checks


def main(first: int, last: int) -> int:
    """Run the seeds from *first* up to, not including, *last*; 1 if a check failed."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    failures = failed_checks(range(first, last))
    sys.stdout.write("".join(f"{each}\n" for each in failures))
    sys.stdout.write(f"{last - first} seeds, {len(failures)} failed\n")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
