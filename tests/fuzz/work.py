"""How much work something is, in calls rather than in seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from goproxyai.limits import addresses
from goproxyai.messages import redaction
from goproxyai.upstream import no_proxy as noproxy


@contextmanager
def linear(size: int, each: int = 40, base: int = 2000) -> Iterator[None]:
    """Whatever is done inside makes no more calls than *base* and *each* for each byte of *size*.

    Calls of Python and of C count, of which every loop makes some; one that begins inside of C, as
    a search for a pattern, is one whatever it takes, and is left to the fuzzer's own time limit.
    """
    calls = 0

    def count(frame: Any, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before: Callable[..., Any] | None = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
    assert calls <= base + each * size, f"{calls} calls for {size} bytes"


def forget() -> None:
    """Empty what is remembered of earlier inputs, so that each is worked on anew."""
    addresses._normal_address.cache_clear()
    addresses.bucket_key.cache_clear()
    noproxy._entry.cache_clear()
    redaction.redacted_target.cache_clear()
