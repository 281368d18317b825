"""Search for what breaks a target: ``python -m tests.fuzz [--seconds N] [--keep] [TARGET...]``.

A target gets its seconds, one half under Hypothesis and one under atheris; all of them under
Hypothesis where there is no atheris for this Python. What atheris gathers lies in ``build/fuzz/``,
and is where the next run begins; ``--keep`` puts what of it leads somewhere new into the corpus.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE, STDOUT, run

from hypothesis import HealthCheck, given, settings

from tests.fuzz.targets import CORPUS, LONGEST, TARGETS, Target

GATHERED = Path("build/fuzz")
"""Where atheris puts what it gathers and what it finds."""

LONGEST_KEPT = 300
"""Bytes of an input that enters the corpus."""

ROUND = 200
"""Examples between two looks at the clock."""

LONGEST_SECONDS = 20
"""For one input: beyond that it takes too long, whatever else it does."""


def explored(target: Target, seconds: float) -> bool:
    """Let Hypothesis look for an input that breaks *target*; whether it found none."""

    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(target.inputs())
    def look(data: bytes) -> None:
        target.check(data)

    deadline = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < deadline:
        try:
            look()
        except Exception:
            traceback.print_exc()
            return False
        rounds += 1
    print(f"{target.name}: {rounds * ROUND} examples put together, none breaks it", flush=True)
    return True


def _guided(target: Target, *arguments: str | Path) -> tuple[bool, str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.guided", target.name]
    done = run([*command, *arguments], stdout=PIPE, stderr=STDOUT, check=False)
    return done.returncode == 0, done.stdout.decode("utf-8", "replace")


def _gathered(target: Target) -> Path:
    place = GATHERED / target.name
    place.mkdir(parents=True, exist_ok=True)
    return place


def guided(target: Target, seconds: int) -> bool:
    """Let atheris look; whether it found none."""
    place = _gathered(target)
    for number, token in enumerate(target.tokens):
        (place / f"token-{number}").write_bytes(target.opening + token)
    dictionary = GATHERED / f"{target.name}.dict"
    dictionary.write_text(target.dictionary())
    good, said = _guided(
        target,
        f"-max_total_time={max(1, seconds)}",
        f"-max_len={LONGEST}",
        f"-timeout={LONGEST_SECONDS}",
        f"-dict={dictionary}",
        f"-artifact_prefix={GATHERED}/found-{target.name}-",
        place,
        *([CORPUS / target.name] if target.kept else []),
    )
    last = [line for line in said.splitlines() if line.startswith("Done ")]
    if not good:
        print(said)
    else:
        print(f"{target.name}: atheris: {''.join(last)}, none breaks it", flush=True)
    return good


def keep(target: Target) -> None:
    """Put what was gathered, and leads where nothing in the corpus does, into it."""
    (CORPUS / target.name).mkdir(parents=True, exist_ok=True)
    good, said = _guided(
        target, "-merge=1", f"-max_len={LONGEST_KEPT}", CORPUS / target.name, _gathered(target)
    )
    if not good:
        raise SystemExit(said)


def main() -> int:
    """Run the targets; 1 where one of them was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], default=[])
    given = parser.parse_args()
    targets = [TARGETS[name] for name in given.targets or TARGETS]
    led = find_spec("atheris") is not None
    if not led:
        print("There is no atheris for this Python: only Hypothesis looks.", flush=True)
    broken = 0
    for target in targets:
        seconds = given.seconds / 2 if led else given.seconds
        good = explored(target, seconds)
        if led:
            good = guided(target, round(seconds)) and good
        broken += not good
        if led and given.keep:
            keep(target)
    print(f"{broken} of {len(targets)} targets were broken" if broken else "nothing was found")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
