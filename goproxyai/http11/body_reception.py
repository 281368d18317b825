"""The body of a request on its way from llhttp: gathered from steps, and limited."""

from __future__ import annotations

from goproxyai.errors import ProxyError
from goproxyai.http11.framing import MAX_HEADER_BYTES
from goproxyai.http11.request_body import RequestBody

MAX_FRAMING_BYTES_PER_BODY_BYTE = 16
"""Bytes of chunk sizes, chunk extensions and trailers, above :data:`.MAX_HEADER_BYTES`."""


class BodyReception:
    """Gathers what llhttp parses of a body, so that tiny chunks are fed together.

    :param body: is fed by :meth:`deliver`.
    :param limit: bytes of the body; ``None`` for one whose length was checked with its head.
    :ivar unfinished_bytes: the most that llhttp keeps of a trailer field that is incomplete.
    """

    __slots__ = (
        "_body", "_framing_bytes", "_limit", "_piece_bytes", "_pieces", "unfinished_bytes",
    )  # fmt: skip

    def __init__(self, body: RequestBody, limit: int | None) -> None:
        self._body = body
        self._limit = limit
        self._pieces: list[bytes] = []
        self._piece_bytes = 0
        self._framing_bytes = 0
        self.unfinished_bytes = 0

    @property
    def received(self) -> int:
        """Bytes of the body so far, delivered or not."""
        return self._body.received + self._piece_bytes

    def add(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        self._pieces.append(data)
        self._piece_bytes += len(data)

    def deliver(self) -> None:
        """Feed the body with the bytes of all steps since the last call.

        :raises ProxyError: if the body is too large.
        """
        pieces = self._pieces
        if not pieces:
            return
        self._pieces = []
        self._piece_bytes = 0
        self._body.feed(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._limit is not None and self._body.received > self._limit:
            raise body_too_large()

    def count_framing(self, size: int, content: int) -> None:
        """Limit the bytes of a chunked body that are not content; llhttp does not.

        :param size: of these bytes in one step.
        :param content: bytes of the body in the step.
        :raises ProxyError: if there are too many bytes of framing, or too many in one piece.
        """
        self._framing_bytes += size
        self.unfinished_bytes = size if content else self.unfinished_bytes + size
        most = MAX_HEADER_BYTES + MAX_FRAMING_BYTES_PER_BODY_BYTE * self.received
        if self._framing_bytes > most or self.unfinished_bytes > MAX_HEADER_BYTES:
            raise ProxyError(
                "bad_request",
                "The chunk framing and trailers of the request body are too large for its "
                "content; send larger chunks.",
            )


def body_too_large() -> ProxyError:
    """Return the 413 for a body over ``MAX_BODY_SIZE``."""
    return ProxyError(
        "request_too_large", "The request body exceeds MAX_BODY_SIZE; send less or raise the limit."
    )
