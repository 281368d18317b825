"""The framing of messages between the parent and its workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.state import messages
from goproxyai.state.messages import (
    Ask,
    Clear,
    Drain,
    FrameError,
    FrameReader,
    Granted,
    Message,
    PassedSocket,
    PutBack,
    Replaced,
    Report,
    Welcome,
    Written,
    frame,
)

EVERY: list[Message] = [
    Welcome("1.0", 2, {"PORT": "1"}, "/", b"id", "", 4, 0, [PassedSocket("tcp:1", 5)], []),
    Ask("client", 7),
    Granted("client", 0, 1.5),
    PutBack([("client", 3)]),
    Written(b"\x00\xff"),
    Replaced([b"\x00" * 32, b"\xff" * 32]),
    Clear(None, 0),
    Clear(b"/v1/models", 3),
    Report(1, {"counters": {"requests": 2}}, True),
    Drain(),
]


@given(st.lists(st.sampled_from(EVERY), max_size=8), st.integers(1, 40))
def test_messages_survive_any_split(sent: list[Message], size: int) -> None:
    data = b"".join([frame(message) for message in sent])
    reader = FrameReader()
    received = []
    for start in range(0, len(data), size):
        received += reader.feed(data[start : start + size])
    assert received == sent


def test_oversized_frame_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_FRAME_BYTES", 10)
    with pytest.raises(FrameError, match="a frame of 11 bytes"):
        FrameReader().feed(b"\0\0\0\x0b")


def test_invalid_payload_is_an_error() -> None:
    with pytest.raises(FrameError, match="an invalid message"):
        FrameReader().feed(b"\0\0\0\x01\xc1")
