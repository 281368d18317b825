"""One target under atheris, in a process of its own: ``python -m tests.fuzz.guided TARGET ARG...``.

libFuzzer wants the process to itself, and the modules that it is led by must be imported under its
eyes; so this one imports nothing of ours before that. The arguments are libFuzzer's.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["goproxyai", "h11"]):
    from tests.fuzz.targets import TARGETS


def main(arguments: list[str]) -> None:
    """Run until libFuzzer has enough."""
    target = TARGETS[arguments[1]]
    # To merge, libFuzzer has a shell run what it takes for its own name.
    again = f"{sys.executable} -W ignore -m {__spec__.name} {target.name}"
    atheris.Setup([again, *arguments[2:]], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
