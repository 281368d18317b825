"""Freeing large containers in slices: dropping the last reference to one frees all of it at once.

A million entries would take about a second to free, and the reactor would stop for that time.
"""

from __future__ import annotations

from typing import Any

from goproxyai.cache.entry import Entry, OwnerBucket, OwnerGroup


class DeferredFree:
    """Containers of a cleared store.

    :ivar pending: dicts, sets and lists of entries and of such containers.
    """

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending: list[Any] = []

    def add(self, containers: list[Any]) -> None:
        """Take over *containers*; the last one is freed first."""
        self.pending += containers

    def free(self, budget: int) -> bool:
        """Free at most *budget* items; return whether there are more."""
        containers = self.pending
        while containers and budget > 0:
            budget -= 1
            container = containers[-1]
            if not container:
                containers.pop()
                if (
                    isinstance(container, OwnerBucket | OwnerGroup)
                    and container.previous is not None
                ):
                    # A chain would otherwise be freed at once with its first container.
                    containers.append(container.previous)
                    container.previous = None
                continue
            item = container.popitem()[1] if isinstance(container, dict) else container.pop()
            if isinstance(item, Entry):
                item.free()
            elif item:
                containers.append(item)
        return bool(containers)
