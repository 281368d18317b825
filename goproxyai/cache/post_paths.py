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

    def standard_path(self, path: bytes) -> bytes | None:
        """Return the path under ``/v1/`` that *path* corresponds to; ``None`` if not cached.

        Under ``/v1/`` the whole rest of *path* is a name. Under another prefix a name stands at the
        end: ``/openai/deployments/gpt-4o/chat/completions`` gives ``/v1/chat/completions``.

        :param path: without the query.
        """
        longest = b""
        for prefix in self.prefixes:
            encoded = prefix.encode("ascii")
            if path.startswith(encoded) and len(encoded) > len(longest):
                longest = encoded
        if not longest or longest == _STANDARD_PREFIX:
            found = [name for name in self.names if path == _STANDARD_PREFIX + name.encode("ascii")]
        else:
            rest = b"/" + path[len(longest) :]
            found = [name for name in self.names if rest.endswith(b"/" + name.encode("ascii"))]
        if not found:
            return None
        return _STANDARD_PREFIX + max(found, key=len).encode("ascii")


STANDARD_POST_PATHS: Final = PostPaths()
"""The default."""
