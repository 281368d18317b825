"""Private names of Twisted are used only in ``goproxyai.reactor``.

The source does not tell whose attribute ``transport._tempDataBuffer`` is. So the rule is wider: of
other objects, a module uses only private names that the module itself defines. Of its own object, a
method uses only private names that the package defines. The rule finds private names of any
library, and private names of the package's other modules.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from goproxyai.reactor import accept, accepted_connection, lean_loop, socket_write
from tests.project.test_imports import MODULES

EXEMPT_PACKAGE = "goproxyai.reactor"

DOCUMENTED = {"_asdict", "_replace", "_make", "_fields", "_exit"}
"""Documented names with an underscore: of named tuples, and ``os._exit``."""

INTERNALS = {
    *lean_loop.PRIVATE_NAMES, *socket_write.PRIVATE_NAMES, *accept.PRIVATE_NAMES,
    *accepted_connection.PRIVATE_NAMES,
    "doIteration", "doPoll", "doWrite", "writeSomeData", "_appSendBuffer", "_bindPath",
    "_tlsConnection",
} - {"offset", "_logger"}  # fmt: skip
"""Twisted's internal names, with or without an underscore. They may not be used of other objects,
even where a module defines the same name. ``offset`` and ``_logger`` are too common for this."""

OWN_OBJECTS = {"self", "cls"}

BY_NAME = {"getattr", "hasattr", "setattr", "delattr"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED | {"_"}


def is_own_object(node: ast.expr) -> bool:
    """Return whether *node* is ``self``, ``cls`` or ``super()``."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in OWN_OBJECTS


def defined_names(tree: ast.AST) -> set[str]:
    """Return the private names of functions, classes, variables and attributes of ``self``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if is_own_object(node.value):
                found.add(node.attr)
    return {name for name in found if is_private(name)}


def uses(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Yield line, name and whether the object is the method's own, for each use of an attribute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr, is_own_object(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in BY_NAME and len(node.args) > 1:
                name = node.args[1]
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield node.lineno, name.value, is_own_object(node.args[0])


def private_imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of each import of a private name of another package."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if not name.startswith("goproxyai") and any(map(is_private, name.split("."))):
                yield node.lineno, name  # type: ignore[attr-defined]  # both kinds have a line


PACKAGE_NAMES = {
    name for path in MODULES.values() for name in defined_names(ast.parse(path.read_text()))
}


def violations(name: str, source: str) -> list[str]:
    """Return one line for each private name that module *name* must not use."""
    if name.startswith(EXEMPT_PACKAGE):
        return []
    tree = ast.parse(source)
    here = defined_names(tree)
    found = [f"{name}:{line}: import of {private}" for line, private in private_imports(tree)]
    for line, used, own in uses(tree):
        known = PACKAGE_NAMES | here if own else here - INTERNALS
        if (is_private(used) or (used in INTERNALS and not own)) and used not in known:
            found.append(f"{name}:{line}: use of {used}")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_private_names_of_other_objects_are_not_used(name: str) -> None:
    assert violations(name, MODULES[name].read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "def size(transport):\n    return transport._tempDataLen",
        "def size(transport):\n    return len(transport.dataBuffer)",
        "def keep(port):\n    port._bindPath = b''",
        "def keep(port):\n    setattr(port, '_bindPath', b'')",
        "def layers(transport):\n    return getattr(transport, '_tlsConnection', None)",
        "def layers(transport):\n    return hasattr(transport, '_appSendBuffer')",
        "def read(selectable):\n    selectable.doRead()",
        "class Pool:\n    def close(self):\n        self._connectionsOfTwisted.clear()",
        "class Pool:\n    def close(self):\n        super()._closeOfTwisted()",
        "def delegate(handler, body):\n    handler._forward(body)",
        "from twisted.internet.tcp import _reservedFD",
        "from twisted.web._newclient import Request",
        "import twisted.internet._sslverify",
        "def later():\n    from twisted.internet.endpoints import _SystemdParser",
    ],
)
def test_use_of_a_private_name_is_reported(source: str) -> None:
    assert len(violations("goproxyai.http11.planted", source)) == 1
    assert violations("goproxyai.reactor.planted", source) == []


@pytest.mark.parametrize(
    "source",
    [
        "class Buffer:\n    def __init__(self):\n        self._parts = []\n\n"
        "def merge(one, other):\n    one._parts += other._parts",
        "def fields(usage):\n    return usage._asdict()",
        "import os\n\ndef end():\n    os._exit(1)",
        "class Kind(type):\n    def name(cls):\n        return cls.__name__",
        "class Peer:\n    def poll(self):\n        self._poller = 1\n        return self._poller",
        "def pause(transport):\n    transport.pauseProducing()",
    ],
)
def test_other_names_are_not_reported(source: str) -> None:
    assert violations("goproxyai.http11.planted", source) == []
