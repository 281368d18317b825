"""A check that requests leave no reference cycles to the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def assert_no_cycles(ignored: frozenset[str] = frozenset()) -> Iterator[None]:
    """Check that the block leaves no object of a goproxyai class in a reference cycle.

    :param ignored: names of classes.
    """
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        classes = [type(each) for each in gc.garbage]
        ours = [each for each in classes if each.__module__.startswith("goproxyai")]
        assert [each for each in ours if each.__name__ not in ignored] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
