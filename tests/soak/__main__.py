"""``python -m tests.soak``: a long run, and its report."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from goproxyai.reactor.lean_loop import install_lean_poll
from tests.soak.plan import make_plan
from tests.soak.report import report
from tests.soak.soak import Soak
from tests.support.authority import Authority


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of load")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plan", action="store_true", help="print what would happen when")
    parser.add_argument("--nginx", action="store_true", help="in the place of the daemons")
    parser.add_argument("--keep", type=Path, help="a directory for the logs, which must not exist")
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    plan = make_plan(asked.seed, asked.seconds)
    if asked.plan:
        print(plan)
        return 0
    found: list[Soak] = []

    async def run(reactor: Any, directory: Path) -> None:
        install_lean_poll(reactor)
        authority = Authority(directory)
        soak = Soak(
            reactor, plan, authority, directory, asked.nginx,
            told=lambda line: print(line, flush=True),
        )  # fmt: skip
        found.append(soak)
        await soak.run()

    with tempfile.TemporaryDirectory() as name:
        directory = asked.keep or Path(name)
        directory.mkdir(exist_ok=asked.keep is None)
        try:
            react(lambda reactor: Deferred.fromCoroutine(run(reactor, directory)))
        except SystemExit as end:
            if end.code:
                return 2
    print(f"\n{report(found[0])}")
    return 1 if found[0].complaints and not asked.nginx else 0


if __name__ == "__main__":
    sys.exit(main())
