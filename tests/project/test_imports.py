"""The import rules of the package.

1. Imports point one way through :data:`LAYERS`; imports under ``TYPE_CHECKING`` count.
2. No module is part of an import circle.
3. The pure packages import no framework, clock or I/O.
4. Only the entries of processes import the global reactor: ``goproxyai.plugin`` and
   ``goproxyai.worker``.

``test_private_names.py`` has the rule about private names of Twisted.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "goproxyai"

LAYERS = (
    {"goproxyai", "errors", "durations"},
    {"messages"},
    {"limits"},
    {"upstream"},
    {"usage"},
    {"cache"},
    {"state"},
    {"config"},
    {"reactor"},
    {"http11"},
    {"egress"},
    {"telemetry"},
    {"proxy"},
    {"admin"},
    {"router"},
    {"daemon"},
    {"plugin", "worker"},
    {"demo"},
    {"cli"},
    {"__main__"},
)
"""Modules and subpackages of goproxyai, lowest first; ``goproxyai`` is the package's own module.

A module may import from lower layers. A module of a subpackage may also import from its subpackage.
"""

RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

ENTRY_POINTS = {"goproxyai.plugin", "goproxyai.worker"}

PURE = {
    "goproxyai", "errors", "durations", "messages", "limits", "upstream", "usage", "cache",
    "config",
}  # fmt: skip
IMPURE = {
    "twisted", "zope", "klein", "treq", "OpenSSL", "time", "datetime", "random", "secrets", "os",
    "io", "pathlib", "socket", "ssl", "select", "selectors", "asyncio", "threading", "subprocess",
    "logging",
}  # fmt: skip
"""Modules that a pure package must not import."""

READS_FILES = {"goproxyai.config.sources"}
"""Modules of pure packages that do I/O: the file that ``CONFIG`` names has to be read."""


@attrs.frozen
class Import:
    """One imported name.

    :ivar name: full dotted name; for ``from m import n`` it is ``m.n``.
    """

    name: str
    line: int

    def reaches(self, module: str) -> bool:
        return f"{self.name}.".startswith(f"{module}.")


def imports(source: str, package: str) -> Iterator[Import]:
    """Yield every import in *source*, at any depth, of a module in *package*."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = [*(parts if node.level else []), *([node.module] if node.module else [])]
            names = [".".join([*base, alias.name]) for alias in node.names]
        for name in names:
            yield Import(name, getattr(node, "lineno", 0))


def layer(name: str) -> str:
    """Return the entry of :data:`LAYERS` for a dotted name."""
    part = [*name.split("."), "goproxyai"][1]
    return "goproxyai" if part.startswith("_") and part != "__main__" else part


def violations(name: str, source: str, is_package: bool = False) -> list[str]:
    """Return one line for each import of module *name* that breaks a rule."""
    package = name if is_package else name.rpartition(".")[0]
    here = layer(name)
    found = []
    for each in imports(source, package):
        violation = _violation(name, here, each)
        if violation:
            found.append(f"{name}:{each.line}: {violation}")
    return found


def _violation(name: str, here: str, each: Import) -> str:
    if each.reaches("twisted.internet.reactor") and name not in ENTRY_POINTS:
        return "only an entry of a process may import the reactor"
    if here in PURE and name not in READS_FILES and each.name.partition(".")[0] in IMPURE:
        return f"{here} is pure and must not import {each.name}"
    if not each.reaches("goproxyai"):
        return ""
    there = layer(each.name)
    if there not in RANK or here not in RANK:
        return f"{here} or {there} is missing from LAYERS"
    if RANK[there] < RANK[here] or (there == here and (PACKAGE / here).is_dir()):
        return ""
    return f"{here} must not import {each.name}"


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name: str) -> None:
    path = MODULES[name]
    assert violations(name, path.read_text(), path.name == "__init__.py") == []


def test_layers_name_every_module_and_subpackage() -> None:
    assert {layer(name) for name in MODULES} == set(RANK)


def test_top_level_holds_at_most_six_modules() -> None:
    modules = {path.name for path in PACKAGE.glob("*.py")}
    assert len(modules - {"__main__.py"}) <= 6  # Python gives that module its name


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return names of *graph* that lead back to the first of them, or an empty list."""
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


def test_no_module_is_part_of_an_import_circle() -> None:
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = {
            known
            for each in imports(path.read_text(), package)
            for known in (each.name, each.name.rpartition(".")[0])
            if known in MODULES and known != "goproxyai"
        }
    assert circle(graph) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("goproxyai.limits.addresses", "from goproxyai.config.settings import Settings"),
        ("goproxyai.limits.addresses", "import goproxyai.admin.app"),
        ("goproxyai.limits.addresses", "from goproxyai import admin"),
        ("goproxyai.limits.addresses", "from .. import admin as a"),
        ("goproxyai.limits.addresses", "from ..http11.exchange import Exchange"),
        ("goproxyai.limits.addresses", "import attrs, time"),
        ("goproxyai.limits.addresses", "def late():\n    from socket import socket"),
        ("goproxyai.limits.addresses", "from twisted.internet.task import Clock"),
        ("goproxyai.limits.addresses", "import asyncio.events as e"),
        ("goproxyai.errors", "from goproxyai.durations import parse_duration"),
        ("goproxyai.config.settings", "import datetime"),
        ("goproxyai.http11.exchange", "from goproxyai.egress.agent import RelayAgent"),
        ("goproxyai.http11.exchange", "from goproxyai.telemetry.counters import Counters"),
        ("goproxyai.egress.agent", "from goproxyai.proxy import forward"),
        ("goproxyai.proxy.handler", "if TYPE_CHECKING:\n    from goproxyai.admin.app import x"),
        ("goproxyai.daemon.service", "from goproxyai import plugin"),
        ("goproxyai.daemon.service", "from twisted.internet import reactor"),
        ("goproxyai.daemon.service", "import twisted.internet.reactor"),
        ("goproxyai.admin.app", "from goproxyai.brandnew import thing"),
        ("goproxyai.admin.app", "from goproxyai.router import Router"),
        ("goproxyai.router", "from goproxyai.daemon import service"),
        ("goproxyai.brandnew", "from goproxyai.messages.headers import Headers"),
    ],
)
def test_forbidden_import_is_reported(name: str, source: str) -> None:
    assert len(violations(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("goproxyai.cache.store", "from goproxyai.cache.key import cache_key"),
        ("goproxyai.cache.store", "from .key import cache_key\nfrom . import rules"),
        ("goproxyai.messages.targets", "from goproxyai.errors import ProxyError"),
        ("goproxyai.admin.app", "from goproxyai import __version__\nimport time"),
        ("goproxyai.router", "from goproxyai.admin.app import AdminApp"),
        ("goproxyai.plugin", "def make():\n    from twisted.internet import reactor"),
    ],
)
def test_allowed_import_is_not_reported(name: str, source: str) -> None:
    assert violations(name, source) == []


def test_planted_import_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
