"""The properties that the fuzzers check hold for the corpus, all tokens and random examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from goproxyai.http11.client_connection import ClientConnection
from goproxyai.http11.request_head import RequestHead
from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS, Target

MAX_CORPUS_BYTES = 128 * 1024

each_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@pytest.fixture(scope="module")
def inputs() -> dict[str, list[bytes]]:
    return corpus.read()


@each_target
def test_corpus_passes(target: Target, inputs: dict[str, list[bytes]]) -> None:
    for data in inputs.get(target.name, []):
        target.check(data)


@each_target
def test_single_tokens_pass(target: Target) -> None:
    target.check(b"")
    for token in target.tokens:
        target.check(target.prefix + token)


@each_target
def test_generated_inputs_pass(target: Target) -> None:
    given(target.inputs())(target.check)()


def test_corpus_is_small_sorted_and_without_repeats(inputs: dict[str, list[bytes]]) -> None:
    assert set(inputs) <= set(TARGETS)
    assert sum(len(data) for section in inputs.values() for data in section) < MAX_CORPUS_BYTES
    assert corpus.CORPUS.read_text("ascii") == corpus.text(inputs)


def test_added_input_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text(corpus.text({"targets": [b"/b"]}))
    data = bytes(range(256))
    corpus.add("headers", [data, b"", data], path)
    corpus.add("targets", [b"/a"], path)
    assert corpus.read(path) == {"headers": [b"", data], "targets": [b"/a", b"/b"]}


PLANTED_DEFECTS = [
    (
        "requests",
        RequestHead,
        "_check_transfer_encoding",
        b"\5POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "answers",
        ClientConnection,
        "_closes_body",
        b"\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
    ),
]


@pytest.mark.parametrize(("name", "owner", "attribute", "data"), PLANTED_DEFECTS)
def test_planted_defect_fails_the_check(
    monkeypatch: pytest.MonkeyPatch, name: str, owner: Any, attribute: str, data: bytes
) -> None:
    TARGETS[name].check(data)
    monkeypatch.setattr(owner, attribute, lambda *_: True)
    with pytest.raises(AssertionError):
        TARGETS[name].check(data)
