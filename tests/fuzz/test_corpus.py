"""What the fuzzers are let loose on holds; see ``tests/fuzz``."""

from __future__ import annotations

from hashlib import sha1
from typing import Any

import pytest
from hypothesis import given

from goproxyai.http11.client_connection import ClientConnection
from goproxyai.http11.request_head import RequestHead
from tests.fuzz.targets import CORPUS, TARGETS, Target

LARGEST_CORPUS = 128 * 1024

each = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@each
def test_what_once_led_somewhere_new_still_breaks_nothing(target: Target) -> None:
    for path in target.kept:
        target.check(path.read_bytes())


@each
def test_no_token_breaks_anything_alone(target: Target) -> None:
    target.check(b"")
    for token in target.tokens:
        target.check(target.opening + token)


@each
def test_whatever_is_put_together_breaks_nothing(target: Target) -> None:
    given(target.inputs())(target.check)()


def test_the_corpus_is_small_and_says_nothing_twice() -> None:
    kept = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in kept} <= set(TARGETS)
    assert sum(path.stat().st_size for path in kept) < LARGEST_CORPUS
    for path in kept:
        assert path.name == sha1(path.read_bytes()).hexdigest()


PLANTED = [
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


@pytest.mark.parametrize(("name", "owner", "attribute", "data"), PLANTED)
def test_a_planted_fault_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, owner: Any, attribute: str, data: bytes
) -> None:
    TARGETS[name].check(data)
    monkeypatch.setattr(owner, attribute, lambda *_: True)
    with pytest.raises(AssertionError):
        TARGETS[name].check(data)
