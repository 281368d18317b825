"""What came by a connection, read as a strict client reads it."""

from __future__ import annotations

import attrs


class Wrong(Exception):
    """Something is not as it must be; the argument says what."""


@attrs.frozen
class Answer:
    """An answer, or what came of it.

    :ivar fields: lower-cased name to values.
    :ivar complete: whether its framing ended it, or the end of the connection may have.
    """

    status: int
    fields: dict[bytes, list[bytes]]
    body: bytes
    complete: bool

    def first(self, name: bytes) -> bytes:
        """The first value of a field, empty where there is none."""
        return self.fields.get(name, [b""])[0]

    @property
    def ours(self) -> bool:
        """Whether it is an error of the proxy's own; upstreams here speak no JSON."""
        return self.first(b"content-type") == b"application/json"


def read(raw: bytes) -> Answer | None:
    """The final answer in *raw*; ``None`` where its head did not come.

    :raises Wrong: what came behind it, or framed twice.
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
        raise Wrong("an answer is framed twice")
    if chunked:
        return Answer(status, fields, *_unchunked(raw))
    if status == 204 or lengths:
        length = int(lengths[0]) if lengths else 0
        if len(raw) > length:
            raise Wrong(f"{len(raw)} bytes of body, of {length}")
        return Answer(status, fields, raw, len(raw) == length)
    return Answer(status, fields, raw, True)


def _unchunked(raw: bytes) -> tuple[bytes, bool]:
    body = b""
    while raw:
        line, end, rest = raw.partition(b"\r\n")
        if not end:
            break
        size = int(line, 16)
        if not size:
            if rest not in (b"", b"\r\n"):
                raise Wrong("bytes behind the last chunk")
            return body, rest == b"\r\n"
        body += rest[:size]
        raw = rest[size + 2 :]
    return body, False
