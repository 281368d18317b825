"""A strict parser of the bytes that a client received."""

from __future__ import annotations

import attrs


class CheckFailed(Exception):
    """A property does not hold; the argument says which."""


@attrs.frozen
class Answer:
    """An answer, or the received part of one.

    :ivar fields: values by lower-case name.
    :ivar complete: whether the body ended by its framing, or may have by the connection's end.
    """

    status: int
    fields: dict[bytes, list[bytes]]
    body: bytes
    complete: bool

    def first(self, name: bytes) -> bytes:
        """The first value of a field, empty if there is none."""
        return self.fields.get(name, [b""])[0]

    @property
    def is_proxy_error(self) -> bool:
        """Whether the proxy made the answer; the upstreams here send no JSON."""
        return self.first(b"content-type") == b"application/json"


def parse(raw: bytes) -> Answer | None:
    """The final answer in *raw*; ``None`` if its head is incomplete.

    :raises CheckFailed: if bytes follow the answer, or it has two framings.
    """
    status = 0
    while status < 200:
        head, blank, raw = raw.partition(b"\r\n\r\n")
        if not blank:
            return None
        lines = head.split(b"\r\n")
        status = int(lines[0].split()[1])
    fields: dict[bytes, list[bytes]] = {}
    for line in lines[1:]:
        name, _, value = line.partition(b": ")
        fields.setdefault(name.lower(), []).append(value)
    lengths = fields.get(b"content-length", [])
    chunked = b"transfer-encoding" in fields
    if len(lengths) + chunked > 1:
        raise CheckFailed("an answer has two framings")
    if chunked:
        return Answer(status, fields, *_unchunked(raw))
    if status == 204 or lengths:
        length = int(lengths[0]) if lengths else 0
        if len(raw) > length:
            raise CheckFailed(f"a body of {len(raw)} bytes, but its length is {length}")
        return Answer(status, fields, raw, len(raw) == length)
    return Answer(status, fields, raw, True)


def _unchunked(raw: bytes) -> tuple[bytes, bool]:
    """The body in *raw*, and whether the last chunk is there."""
    body = b""
    while raw:
        line, end, rest = raw.partition(b"\r\n")
        if not end:
            break
        size = int(line, 16)
        if not size:
            if rest not in (b"", b"\r\n"):
                raise CheckFailed("bytes after the last chunk")
            return body, rest == b"\r\n"
        body += rest[:size]
        raw = rest[size + 2 :]
    return body, False
