"""Limits on the work that a check's code under test may do, in calls rather than seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from goproxyai.limits import addresses
from goproxyai.messages import redaction
from goproxyai.upstream import no_proxy


@contextmanager
def linear(size: int, each: int = 40, base: int = 2000) -> Iterator[None]:
    """Fail if the block makes more than *base* calls, plus *each* for each byte of *size*.

    Calls of Python and C functions count; every loop makes some. Work inside one C call, such as a
    regular expression search, counts as one call: the fuzzer's time limit covers it.
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


CACHING_MODULES: tuple[ModuleType, ...] = (addresses, redaction, no_proxy)


def clear_caches() -> None:
    """Empty the :func:`functools.lru_cache` of every function, so that each input is parsed."""
    for module in CACHING_MODULES:
        for function in vars(module).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()
