"""One target under atheris, in its own process: ``python -m tests.fuzz.guided TARGET ARG...``.

libFuzzer requires a process of its own. It instruments modules on import, so this module imports
none of the project's before. The arguments are libFuzzer's.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["goproxyai", "h11"]):
    from tests.fuzz.targets import TARGETS


def main(arguments: list[str]) -> None:
    """Run until libFuzzer stops."""
    target = TARGETS[arguments[1]]
    # To merge, libFuzzer starts itself in a shell by its program name.
    command = f"{sys.executable} -W ignore -m {__spec__.name} {target.name}"
    atheris.Setup([command, *arguments[2:]], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
