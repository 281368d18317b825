"""The targets: their checks, and the tokens from which their inputs are built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
from hypothesis import strategies as st

from tests.fuzz import addresses, answers, bodies, messages, requests, texts

MAX_INPUT_BYTES: Final = 4096


@attrs.frozen
class Target:
    """A parser of untrusted bytes.

    :ivar check: raises :class:`AssertionError` where a property of the parser does not hold.
    :ivar tokens: byte strings with a meaning for the parser.
    :ivar prefix: what precedes a token to make it an input.
    """

    name: str
    check: Callable[[bytes], None]
    tokens: tuple[bytes, ...]
    prefix: bytes = b""

    def inputs(self) -> st.SearchStrategy[bytes]:
        """Tokens and random bytes, in any order."""
        pieces = st.sampled_from(self.tokens) | st.binary(max_size=8)
        return st.tuples(
            st.binary(min_size=len(self.prefix), max_size=len(self.prefix)),
            st.lists(pieces, max_size=12).map(b"".join),
        ).map(b"".join)

    def dictionary(self) -> str:
        """The tokens in libFuzzer's dictionary format."""
        return "".join(f'"{_escaped(token)}"\n' for token in self.tokens if len(token) <= 64)


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02X}" for byte in token)


TARGETS: Final = {
    target.name: target
    for target in (
        Target("requests", requests.check_requests, requests.TOKENS, b"\5"),
        Target("answers", answers.check_answers, answers.TOKENS, b"\0"),
        Target("addresses", addresses.check_addresses, addresses.ADDRESSES),
        Target("proxyprotocol", addresses.check_proxy_protocol, addresses.PROXY_PROTOCOL),
        Target("noproxy", addresses.check_noproxy, addresses.NOPROXY),
        Target("durations", texts.check_durations, texts.DURATIONS),
        Target("settings", texts.check_settings, texts.SETTINGS),
        Target("redaction", texts.check_redaction, texts.REDACTION),
        Target("directives", messages.check_directives, messages.DIRECTIVES),
        Target("headers", messages.check_headers, messages.HEADERS),
        Target("targets", messages.check_targets, messages.TARGETS),
        Target("tunnel", messages.check_tunnel, messages.TUNNEL),
        Target("socks", messages.check_socks, messages.SOCKS),
        Target("usage", bodies.check_usage, bodies.USAGE, b"\1"),
        Target("prices", bodies.check_prices, bodies.PRICES),
        Target("streams", bodies.check_streams, bodies.STREAMS),
        Target("coalescing", bodies.check_coalescing, bodies.COALESCING),
        Target("snapshots", bodies.check_snapshots, bodies.SNAPSHOTS),
    )
}
"""All targets by name, in the order in which they run."""
