"""Every target: what is checked, and the pieces that its input is put together from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
from hypothesis import strategies as st

from tests.fuzz import answers, bodies, messages, requests, texts

CORPUS: Final = Path(__file__).parent / "corpus"
"""A directory for each target, of the inputs that are kept."""

LONGEST: Final = 4096
"""Bytes of an input."""


@attrs.frozen
class Target:
    """Something that reads a stranger's bytes, and what must hold whatever they are.

    :ivar check: raises where it does not hold.
    :ivar tokens: pieces that mean something to it.
    :ivar opening: what stands before a token that is an input of its own.
    """

    name: str
    check: Callable[[bytes], None]
    tokens: tuple[bytes, ...]
    opening: bytes = b""

    @property
    def kept(self) -> list[Path]:
        """The inputs that are kept."""
        return sorted((CORPUS / self.name).glob("*"))

    def inputs(self) -> st.SearchStrategy[bytes]:
        """Tokens and noise, in any order."""
        pieces = st.sampled_from(self.tokens) | st.binary(max_size=8)
        return st.tuples(
            st.binary(min_size=len(self.opening), max_size=len(self.opening)),
            st.lists(pieces, max_size=12).map(b"".join),
        ).map(b"".join)

    def dictionary(self) -> str:
        """The tokens, as libFuzzer reads them."""
        return "".join(f'"{_escaped(token)}"\n' for token in self.tokens if len(token) <= 64)


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02X}" for byte in token)


TARGETS: Final = {
    target.name: target
    for target in (
        Target("requests", requests.check, requests.TOKENS, b"\5"),
        Target("answers", answers.check, answers.TOKENS, b"\0"),
        Target("addresses", texts.check_addresses, texts.ADDRESSES),
        Target("noproxy", texts.check_noproxy, texts.NOPROXY),
        Target("durations", texts.check_durations, texts.DURATIONS),
        Target("settings", texts.check_settings, texts.SETTINGS),
        Target("redaction", texts.check_redaction, texts.REDACTION),
        Target("directives", messages.check_directives, messages.DIRECTIVES),
        Target("headers", messages.check_headers, messages.HEADERS),
        Target("targets", messages.check_targets, messages.TARGETS),
        Target("usage", bodies.check_usage, bodies.USAGE, b"\1"),
        Target("prices", bodies.check_prices, bodies.PRICES),
        Target("streams", bodies.check_streams, bodies.STREAMS),
        Target("coalescing", bodies.check_coalescing, bodies.COALESCING),
        Target("tunnel", bodies.check_tunnel, bodies.TUNNEL),
        Target("snapshots", bodies.check_snapshots, bodies.SNAPSHOTS),
    )
}
"""By name, in the order in which they are run."""
