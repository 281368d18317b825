"""The corpus: the inputs of all targets, in the one text file ``corpus.txt``.

A target's name in brackets begins its section; every other line is one input as a bytes literal.
Sections and inputs are sorted, so that the file depends on its contents only, and a change of the
corpus is a small diff.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).with_name("corpus.txt")

MAX_KEPT_BYTES: Final = 300
"""The length of an input that may enter the corpus."""


def read(path: Path = CORPUS) -> dict[str, list[bytes]]:
    """The inputs by target."""
    corpus: dict[str, list[bytes]] = {}
    name = ""
    for line in path.read_text("ascii").splitlines():
        if line.startswith("["):
            name = line.strip("[]")
            corpus[name] = []
        else:
            corpus[name].append(ast.literal_eval(line))
    return corpus


def text(corpus: Mapping[str, Iterable[bytes]]) -> str:
    """The text of the corpus file for *corpus*."""
    return "".join(f"{line}\n" for line in _lines(corpus))


def _lines(corpus: Mapping[str, Iterable[bytes]]) -> Iterator[str]:
    for name, inputs in sorted(corpus.items()):
        unique = sorted(set(inputs), key=lambda data: (len(data), data))
        if unique:
            yield f"[{name}]"
            yield from map(repr, unique)


def replace(target: str, inputs: Iterable[bytes], path: Path = CORPUS) -> None:
    """Make *inputs* the corpus of *target*."""
    path.write_text(text({**read(path), target: inputs}), "ascii")


def add(target: str, inputs: Iterable[bytes], path: Path = CORPUS) -> None:
    """Add *inputs* to the corpus of *target*."""
    replace(target, [*read(path).get(target, []), *inputs], path)


def unpack(inputs: Iterable[bytes], directory: Path) -> Path:
    """Write each input to a file of its own in *directory*, as libFuzzer reads them."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(inputs):
        (directory / f"{number:04}").write_bytes(data)
    return directory
