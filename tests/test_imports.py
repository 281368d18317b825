"""Imports point one way; policy is pure; the reactor has one importer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "goproxyai"

LAYERS = (
    {"goproxyai", "problems", "durations", "envfile"},
    {"policy"},
    {"tokens"},
    {"counters"},
    {"settings"},
    {"http11"},
    {"egress"},
    {"pipeline"},
    {"metrics", "history", "stats", "spans"},
    {"live", "assets"},
    {"web", "output", "snapshot", "listening", "configuration", "tracing"},
    {"service"},
    {"reload"},
    {"tap"},
)
"""Modules and subpackages of goproxyai, lowest first; ``goproxyai`` is the package's own module.

One may import from lower layers, and a subpackage from itself, nothing else.
"""

RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

VALUES = {
    "goproxyai", "problems", "durations", "envfile", "tokens", "counters", "settings",
}  # fmt: skip
IMPURE = {
    "twisted", "zope", "klein", "treq", "OpenSSL", "time", "datetime", "random", "secrets", "os",
    "io", "pathlib", "socket", "ssl", "select", "selectors", "asyncio", "threading", "subprocess",
    "logging",
}  # fmt: skip
"""What policy and values do not import: frameworks, clocks and I/O."""


@attrs.frozen
class Import:
    """One imported thing.

    :ivar name: its full dotted name; what is imported from a module counts as a part of it.
    :ivar typing: only there under ``if TYPE_CHECKING``.
    """

    name: str
    line: int
    typing: bool = False

    def reaches(self, module: str) -> bool:
        return f"{self.name}.".startswith(f"{module}.")


def imports(source: str, package: str) -> Iterator[Import]:
    """Every import in *source*, wherever it stands, of a module in *package*."""
    tree = ast.parse(source)
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for each in node.body
        for inner in ast.walk(each)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = [*(parts if node.level else []), *([node.module] if node.module else [])]
            names = [".".join([*base, alias.name]) for alias in node.names]
        for name in names:
            yield Import(name, getattr(node, "lineno", 0), node in guarded)


def layer(name: str) -> str:
    """The row of the table that the dotted *name* in goproxyai belongs to."""
    part = [*name.split("."), "goproxyai"][1]
    return "goproxyai" if part.startswith("_") else part


def faults(name: str, source: str, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of the module *name*."""
    package = name if is_package else name.rpartition(".")[0]
    here = layer(name)
    found = []
    for each in imports(source, package):
        complaint = _complaint(name, here, each)
        if complaint:
            found.append(f"{name}:{each.line}: {complaint}")
    return found


def _complaint(name: str, here: str, each: Import) -> str:
    if each.reaches("twisted.internet.reactor") and name != "goproxyai.plugin":
        return "only goproxyai.plugin may import the reactor"
    if here in VALUES | {"policy"} and each.name.partition(".")[0] in IMPURE:
        return f"{here} is pure, and {each.name} is not"
    if not each.reaches("goproxyai"):
        return ""
    there = layer(each.name)
    if there not in RANK or here not in RANK:
        return f"{here} or {there} is in no layer; give it one"
    if RANK[there] < RANK[here] or (there == here and (PACKAGE / here).is_dir()):
        return ""
    return f"{here} must not import {each.name}"


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name: str) -> None:
    path = MODULES[name]
    assert faults(name, path.read_text(), path.name == "__init__.py") == []


def test_the_table_of_layers_is_that_of_the_modules() -> None:
    assert {layer(name) for name in MODULES} == set(RANK)


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Names that lead back to the first of them, none if nothing does."""
    done: set[str] = set()

    def search(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in done:
            for each in sorted(graph.get(name, ())):
                found = search(each, [*way, name])
                if found:
                    return found
            done.add(name)
        return []

    return next(filter(None, (search(name, []) for name in graph)), [])


def test_no_module_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = {
            known
            for each in imports(path.read_text(), package)
            if not each.typing
            for known in (each.name, each.name.rpartition(".")[0])
            if known in MODULES and known != "goproxyai"
        }
    assert cycle(graph) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("goproxyai.limits.token_buckets", "from goproxyai.config.settings import Settings"),
        ("goproxyai.limits.token_buckets", "import goproxyai.admin.app"),
        ("goproxyai.limits.token_buckets", "from goproxyai import web"),
        ("goproxyai.limits.token_buckets", "from .. import web as w"),
        ("goproxyai.limits.token_buckets", "from ..http11.pool import Pool"),
        ("goproxyai.limits.token_buckets", "import attrs, time"),
        ("goproxyai.limits.token_buckets", "def late():\n    from socket import socket"),
        ("goproxyai.limits.token_buckets", "from twisted.internet.task import Clock"),
        ("goproxyai.limits.token_buckets", "import asyncio.events as e"),
        ("goproxyai.errors", "from goproxyai.durations import parse_duration"),
        ("goproxyai.config.settings", "import datetime"),
        ("goproxyai.http11.connection_pool", "from goproxyai.egress.agent import RelayAgent"),
        ("goproxyai.egress.agent", "from goproxyai.pipeline import answers"),
        ("goproxyai.proxy.handler", "if TYPE_CHECKING:\n    from goproxyai.admin.app import Front"),
        ("goproxyai.admin.app", "from goproxyai.telemetry.log_output import Output"),
        ("goproxyai.daemon.service", "from goproxyai import tap"),
        ("goproxyai.daemon.service", "from twisted.internet import reactor"),
        ("goproxyai.daemon.service", "import twisted.internet.reactor"),
        ("goproxyai.admin.app", "from goproxyai.brandnew import thing"),
        ("goproxyai.brandnew", "from goproxyai.messages.headers import Headers"),
    ],
)
def test_a_planted_fault_is_found(name: str, source: str) -> None:
    assert len(faults(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("goproxyai.cache.store", "from goproxyai.messages.headers import Headers"),
        ("goproxyai.cache.store", "from .headers import Headers\nfrom . import buckets"),
        ("goproxyai.messages.targets", "from goproxyai.errors import Problem"),
        ("goproxyai.admin.app", "from goproxyai import __version__\nimport time"),
        ("goproxyai.plugin", "def make():\n    from twisted.internet import reactor"),
    ],
)
def test_what_is_allowed_is_not_complained_about(name: str, source: str) -> None:
    assert faults(name, source) == []


def test_a_planted_circle_is_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
