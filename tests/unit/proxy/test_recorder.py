"""The recorder of a response body."""

from __future__ import annotations

import tracemalloc

from goproxyai.proxy.recorder import Recorder
from tests.unit.proxy.parts import proxy_parts, response_of

STREAM = [(b"Content-Type", b"text/event-stream")]
PIECE_BYTES = 100_000


def test_recorder_without_room_releases_the_incomplete_event_of_a_stream() -> None:
    parts = proxy_parts()
    store = parts.context.store
    recorder = Recorder(store, response_of(STREAM), 60.0, parts.clock.seconds)
    tracemalloc.start()
    while recorder.add(b"data: " + b"x" * PIECE_BYTES):
        assert recorder.size < store.max_entry_bytes
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < PIECE_BYTES
    assert store.reserved == 0
