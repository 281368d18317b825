"""``python -m tests.soak``: a long run and its report."""

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


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="duration of the load")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plan", action="store_true", help="print the schedule and exit")
    parser.add_argument("--nginx", action="store_true", help="run nginx instead of the daemons")
    parser.add_argument("--tls", action="store_true", help="use TLS to both upstreams and clients")
    parser.add_argument("--keep", type=Path, help="a new directory in which to keep the logs")
    return parser.parse_args()


def main() -> int:
    given = options()
    if given.tls and given.nginx:
        raise SystemExit("--tls is for the daemons, and --nginx replaces them")
    plan = make_plan(given.seed, given.seconds)
    if given.plan:
        print(plan)
        return 0
    soaks: list[Soak] = []

    async def run(reactor: Any, directory: Path) -> None:
        install_lean_poll(reactor)
        soak = Soak(
            reactor, plan, Authority(directory), directory, given.nginx,
            log=lambda line: print(line, flush=True), tls=given.tls,
        )  # fmt: skip
        soaks.append(soak)
        await soak.run()

    with tempfile.TemporaryDirectory() as name:
        directory = given.keep or Path(name)
        directory.mkdir(exist_ok=given.keep is None)
        try:
            react(lambda reactor: Deferred.fromCoroutine(run(reactor, directory)))
        except SystemExit as end:
            if end.code:
                return 2
    print(f"\n{report(soaks[0])}")
    return 1 if soaks[0].problems and not given.nginx else 0


if __name__ == "__main__":
    sys.exit(main())
