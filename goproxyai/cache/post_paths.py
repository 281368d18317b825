"""The paths of POST requests that may be answered from the cache."""

from __future__ import annotations

from typing import Final

import attrs

ALWAYS_CACHED: Final = ("chat/completions", "completions", "embeddings")
"""Paths below ``/v1/`` that ``CACHE_PATHS`` cannot leave out."""

_STANDARD_PREFIX = b"/v1/"


@attrs.frozen
class PostPaths:
    """The values of ``CACHE_PATHS`` under the prefixes of ``RELAY_PATHS``.

    :ivar names: paths as they follow ``/v1/``, such as ``chat/completions``.
    :ivar prefixes: relayed path prefixes, each with a slash at both ends.
    """

    names: tuple[str, ...] = ALWAYS_CACHED
    prefixes: tuple[str, ...] = ("/v1/",)
    _prefixes: tuple[bytes, ...] = attrs.field(init=False)
    _ends: tuple[bytes, ...] = attrs.field(init=False)

    @_prefixes.default
    def _longest_prefixes_first(self) -> tuple[bytes, ...]:
        return tuple([each.encode("ascii") for each in sorted(self.prefixes, key=len)[::-1]])

    @_ends.default
    def _longest_ends_first(self) -> tuple[bytes, ...]:
        return tuple([b"/" + each.encode("ascii") for each in sorted(self.names, key=len)[::-1]])

    def standard_path(self, path: bytes) -> bytes | None:
        """Return the path under ``/v1/`` that *path* corresponds to; ``None`` if not cached.

        Under ``/v1/`` the whole rest of *path* is a name. Under another prefix a name stands at the
        end: ``/openai/deployments/gpt-4o/chat/completions`` gives ``/v1/chat/completions``.

        :param path: without the query.
        """
        prefix = next(filter(path.startswith, self._prefixes), _STANDARD_PREFIX)
        if prefix == _STANDARD_PREFIX:
            is_name = path.startswith(prefix) and path[len(prefix) - 1 :] in self._ends
            return path if is_name else None
        rest = path[len(prefix) - 1 :]
        for end in self._ends:
            if rest.endswith(end):
                return _STANDARD_PREFIX + end[1:]
        return None


STANDARD_POST_PATHS: Final = PostPaths()
"""The default."""
