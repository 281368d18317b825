"""What the names of a response's header say, whatever its values are.

Upstreams answer in few shapes: the same names in the same order, again and again. What follows from
the names alone is worked out once and remembered: their lower case, which lines stay on this hop,
and the lines that are relayed with holes for the values. The memory is bounded, and a shape of
unusual size does not enter it.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final

from goproxyai.messages.headers import (
    Fields,
    Headers,
    index_fields,
    is_never_relayed,
    is_shareable,
    nominated_fields,
    response_headers_for_client,
    serialize_headers,
)

MAX_TEMPLATES: Final = 512
"""Shapes that are remembered."""

MAX_TEMPLATE_NAME_BYTES: Final = 1024
"""Bytes of names in a shape that is remembered."""

FieldNames = tuple[bytes, ...]
FieldValues = tuple[bytes, ...]


class HeaderTemplate:
    """The names of a header, in order.

    :param names: as they were received.
    """

    __slots__ = ("_kept", "_lowered", "_names", "_relayed", "_repeats")

    def __init__(self, names: FieldNames) -> None:
        self._names = names
        lowered = self._lowered = tuple([name.lower() for name in names])
        self._repeats = len(set(lowered)) < len(lowered)
        passing = [position for position, name in enumerate(lowered) if not is_never_relayed(name)]
        self._relayed = _template(names, passing)
        self._kept = _template(names, [at for at in passing if is_shareable(lowered[at])])

    def headers(self, values: FieldValues) -> Headers:
        """(name, value) in order."""
        return list(zip(self._names, values, strict=True))

    def fields(self, values: FieldValues) -> Fields:
        """As :func:`~.headers.index_fields`."""
        if self._repeats:
            return index_fields(self.headers(values))[0]
        return dict(zip(self._lowered, values, strict=True))

    def relayed_lines(self, values: FieldValues, fields: Fields) -> bytes:
        """The lines of :func:`~.headers.relayed`, on the wire.

        :param fields: of these *values*.
        """
        if nominated_fields(fields):
            return serialize_headers(response_headers_for_client(self.headers(values), fields))
        template, pick = self._relayed
        return template % pick(values)

    def shareable_lines(self, values: FieldValues, fields: Fields) -> bytes:
        """Those of :meth:`lines` that are given to others, too: :func:`~.headers.is_shareable`."""
        if nominated_fields(fields):
            return serialize_headers(
                [
                    pair
                    for pair in response_headers_for_client(self.headers(values), fields)
                    if is_shareable(pair[0].lower())
                ]
            )
        template, pick = self._kept
        return template % pick(values)


def _template(
    names: FieldNames, positions: list[int]
) -> tuple[bytes, Callable[[FieldValues], FieldValues]]:
    """Lines with holes for the values at *positions*, and what takes these out of all."""
    text = b"".join([b"%b: %%b\r\n" % names[at].replace(b"%", b"%%") for at in positions])
    return text, _picker(positions, len(names))


def _picker(positions: list[int], count: int) -> Callable[[FieldValues], FieldValues]:
    """What takes the values at *positions* out of *count*."""
    if len(positions) == count:
        return tuple
    if len(positions) > 1:
        pick: Any = itemgetter(*positions)
        return pick  # type: ignore[no-any-return]  # of several positions it makes a tuple
    return lambda values: tuple([values[position] for position in positions])


_shapes: Final[dict[FieldNames, HeaderTemplate]] = {}


def template_of(names: FieldNames) -> HeaderTemplate:
    """The shape with these names."""
    shape = _shapes.get(names)
    if shape is None:
        shape = HeaderTemplate(names)
        if sum(map(len, names)) <= MAX_TEMPLATE_NAME_BYTES:
            if len(_shapes) >= MAX_TEMPLATES:
                _shapes.clear()
            _shapes[names] = shape
    return shape
