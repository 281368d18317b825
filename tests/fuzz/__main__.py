"""Search for inputs that fail a target's check: ``python -m tests.fuzz [--seconds N] [TARGET...]``.

Each target gets its seconds: half with Hypothesis, half with atheris, or all with Hypothesis if
atheris does not support this Python. atheris keeps its findings in ``build/fuzz/``, where the next
run continues; failing inputs are written there as ``found-*``.

* ``--keep`` adds the findings to the corpus and minimises it: of all inputs, the smallest set stays
  that covers as much. Needs atheris.
* ``--add FILE`` adds the file's bytes to the corpus of the one TARGET, without a run.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE, STDOUT, run
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings

from tests.fuzz import corpus
from tests.fuzz.targets import MAX_INPUT_BYTES, TARGETS, Target

FINDINGS = Path("build/fuzz")
"""The directory of atheris' findings and failing inputs."""

EXAMPLES = 200
"""Examples of Hypothesis between two checks of the time."""

MAX_INPUT_SECONDS = 20
"""A check that takes longer fails."""


def explore(target: Target, seconds: float) -> bool:
    """Run *target* with Hypothesis; returns whether every check passed."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(target.inputs())
    def check(data: bytes) -> None:
        target.check(data)

    deadline = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < deadline:
        try:
            check()
        except Exception:
            traceback.print_exc()
            return False
        rounds += 1
    print(f"{target.name}: Hypothesis: {rounds * EXAMPLES} examples passed", flush=True)
    return True


def _run_atheris(target: Target, *arguments: str | Path) -> tuple[bool, str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.guided", target.name]
    done = run([*command, *arguments], stdout=PIPE, stderr=STDOUT, check=False)
    return done.returncode == 0, done.stdout.decode("utf-8", "replace")


def _findings(target: Target) -> Path:
    directory = FINDINGS / target.name
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def explore_guided(target: Target, seconds: int) -> bool:
    """Run *target* with atheris; returns whether every check passed."""
    directory = _findings(target)
    for number, token in enumerate(target.tokens):
        (directory / f"token-{number}").write_bytes(target.prefix + token)
    dictionary = FINDINGS / f"{target.name}.dict"
    dictionary.write_text(target.dictionary())
    with TemporaryDirectory() as name:
        passed, output = _run_atheris(
            target,
            f"-max_total_time={max(1, seconds)}",
            f"-max_len={MAX_INPUT_BYTES}",
            f"-timeout={MAX_INPUT_SECONDS}",
            f"-dict={dictionary}",
            f"-artifact_prefix={FINDINGS}/found-{target.name}-",
            directory,
            corpus.unpack(corpus.read().get(target.name, []), Path(name)),
        )
    if not passed:
        print(output)
    else:
        summary = [line for line in output.splitlines() if line.startswith("Done ")]
        print(f"{target.name}: atheris: {''.join(summary)}, all passed", flush=True)
    return passed


def keep(target: Target) -> None:
    """Add the findings to the corpus of *target*, and minimise it."""
    before = corpus.read().get(target.name, [])
    with TemporaryDirectory() as name:
        minimal = Path(name, "minimal")
        minimal.mkdir()
        passed, output = _run_atheris(
            target,
            "-merge=1",
            f"-max_len={corpus.MAX_KEPT_BYTES}",
            minimal,
            corpus.unpack(before, Path(name, "corpus")),
            _findings(target),
        )
        if not passed:
            raise SystemExit(output)
        inputs = [path.read_bytes() for path in minimal.iterdir()]
    corpus.replace(target.name, inputs)
    print(f"{target.name}: {len(before)} inputs before, {len(inputs)} after", flush=True)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("--keep", action="store_true", help="add findings to the corpus, minimised")
    parser.add_argument("--add", type=Path, metavar="FILE", help="add an input to the corpus")
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], default=[])
    given = parser.parse_args()
    if given.add is not None and len(given.targets) != 1:
        parser.error("--add needs the one TARGET that the input is for")
    return given


def main() -> int:
    """Run the targets; the exit status is 1 if a check failed."""
    given = options()
    if given.add is not None:
        corpus.add(given.targets[0], [given.add.read_bytes()])
        return 0
    targets = [TARGETS[name] for name in given.targets or TARGETS]
    has_atheris = find_spec("atheris") is not None
    if not has_atheris:
        print("atheris is not installed for this Python: running Hypothesis only", flush=True)
    failed = 0
    for target in targets:
        seconds = given.seconds / 2 if has_atheris else given.seconds
        passed = explore(target, seconds)
        if has_atheris:
            passed = explore_guided(target, round(seconds)) and passed
        failed += not passed
        if has_atheris and given.keep:
            keep(target)
    print(f"{failed} of {len(targets)} targets failed" if failed else "all targets passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
