"""Every shell and code example of the pages is run, but for those that say why they are not.

The commands of a page are run in their order, in one shell. A page without a command that starts a
server has a daemon on port 8080, as after ``goproxyai run``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from goproxyai.config import env_file
from goproxyai.config.settings import Settings
from goproxyai.config.sources import CONFIG, VARIABLE_NAMES
from tests.examples.blocks import Block, blocks, commands, file_name, matches
from tests.examples.sandbox import CHECKOUT, SERVER, Sandbox, unshare

pytestmark = pytest.mark.examples

PAGES = sorted(
    str(path.relative_to(CHECKOUT))
    for path in (
        CHECKOUT / "README.md",
        CHECKOUT / "CONTRIBUTING.md",
        CHECKOUT / "examples" / "README.md",
        *(CHECKOUT / "docs").rglob("*.md"),
    )
)

CODE = {"python", "js", "sh"}
DATA = {"json", "toml", "ini"}
OTHER = {
    "text",
    "promql",  # tests/e2e/test_prometheus.py sends these queries to Prometheus
}

NOT_RUN = {
    "changes the system": 9,
    "for several shells": 1,
    "installs packages": 6,
    "needs a Docker daemon": 3,
    "needs a Kubernetes cluster": 3,
    "needs a Redis server with TLS": 2,
    "needs the development environment": 9,
}
"""The number of examples that are not run, by reason."""

DAEMON = "goproxyai run"


def blocks_of(page: str) -> list[Block]:
    return blocks(page, (CHECKOUT / page).read_text("utf-8"))


ALL = [block for page in PAGES for block in blocks_of(page)]


def runs(block: Block) -> bool:
    return not block.reason and block.language in {"console", *CODE}


PAGES_THAT_RUN = [page for page in PAGES if any(map(runs, blocks_of(page)))]


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The directory with the package ``openai``, or nothing where npm cannot install it."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    directory = tmp_path_factory.mktemp("npm")
    done = subprocess.run(
        [npm, "install", "--prefix", str(directory), "--no-audit", "--no-fund", "openai"],
        capture_output=True,
        timeout=120,
        check=False,
    )
    return directory / "node_modules" if done.returncode == 0 else None


@contextmanager
def new_sandbox(directory: Path) -> Iterator[Sandbox]:
    if not unshare():
        pytest.skip("this system permits no network namespace")
    sandbox = Sandbox(directory)
    yield sandbox
    sandbox.close()


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with new_sandbox(tmp_path) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def used_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox for several tests: its servers take a second of processor time to start."""
    with new_sandbox(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox


def run_page(sandbox: Sandbox, examples: list[Block]) -> None:
    """Run the examples of a page; fail with the first that is broken."""
    consoles = [block.content for block in examples if block.language == "console"]
    if not any(SERVER.search(sandbox.substituted(content)) for content in consoles):
        sandbox.run(DAEMON)
    saved: list[str] = []
    for block in examples:
        if block.language in CODE:
            name = file_name(block.content)
            assert name, f"{block.name}: neither saved as a file nor marked as not run"
            sandbox.save(name, block.content)
            saved.append(name)
            continue
        for command in commands(block.content):
            assert command.prompt == "$", f"{block.name}: commands of root are not run"
            status, output = sandbox.run(command.text)
            where = f"{block.name}: $ {command.text}"
            assert status == 0, f"{where}\nstatus {status}\n{output}\n{sandbox.log()}"
            if command.output:
                expected = sandbox.substituted(command.output)
                assert matches(expected, output), f"{where}\n{output}\nis not\n{expected}"
    commanded = "\n".join(consoles)
    assert [name for name in saved if name not in commanded] == [], "saved, and not run"


@pytest.mark.parametrize("page", PAGES_THAT_RUN)
def test_examples_of_page_work(page: str, sandbox: Sandbox, node_modules: Path | None) -> None:
    examples = [block for block in blocks_of(page) if runs(block)]
    content = "".join(block.content for block in examples)
    for module in ("langchain_openai", "openai"):
        if f"from {module} " in content and find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    if "node " in content:
        if node_modules is None:
            pytest.skip("npm cannot install openai")
        (sandbox.cwd / "node_modules").symlink_to(node_modules)
    run_page(sandbox, examples)


@pytest.mark.parametrize("block", [b for b in ALL if b.language in DATA], ids=lambda b: b.name)
def test_data_of_page_is_valid(block: Block) -> None:
    if block.language == "json":
        json.loads(block.content)
    elif block.language == "toml":
        tomllib.loads(block.content)
    else:
        content = block.content.encode()
        Settings.from_texts(env_file.parse_env_file(content, VARIABLE_NAMES - {CONFIG}))


def test_languages_of_blocks_are_known() -> None:
    assert {block.language for block in ALL} <= {"console"} | CODE | DATA | OTHER


def test_examples_that_are_not_run_are_counted() -> None:
    assert Counter(block.reason for block in ALL if block.reason) == NOT_RUN


def test_files_named_in_examples_exist() -> None:
    missing = [
        f"{block.name}: {name}"
        for block in ALL
        for name in re.findall(r"\b(?:deploy|examples|bench)/[\w./-]+\w", block.content)
        if not (CHECKOUT / name).exists()
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```console\n$ curl -fsS http://localhost:8080/no\n```\n", "status 22"),
        ("```console\n$ curl -fsS http://localhost:8080/v1/no\n```\n", "status 22"),
        ("```console\n$ echo one\ntwo\n```\n", "is not"),
        ("```console\n$ goproxyai config --no-such\n```\n", "status 2"),
        ("```console\n# true\n```\n", "commands of root"),
        ("```python\nprint(1)\n```\n", "neither saved"),
        ("```python\n# a.py\nprint(1)\n```\n", "saved, and not run"),
        ("```python\n# a.py\n1 / 0\n```\n\n```console\n$ python a.py\n```\n", "status 1"),
    ],
)
def test_broken_example_is_reported(text: str, message: str, used_sandbox: Sandbox) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        run_page(used_sandbox, blocks("page.md", text))
