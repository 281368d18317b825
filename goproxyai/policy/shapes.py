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

from goproxyai.policy.headers import (
    Fields,
    Headers,
    fields_of,
    lines,
    nominated,
    relayed,
    stays_here,
)

MOST_SHAPES: Final = 512
"""Shapes that are remembered."""

LARGEST_SHAPE: Final = 1024
"""Bytes of names in a shape that is remembered."""

Names = tuple[bytes, ...]
Values = tuple[bytes, ...]


class Shape:
    """The names of a header, in order.

    :param names: as they were received.
    """

    __slots__ = ("_lowered", "_names", "_pick", "_repeats", "_template")

    def __init__(self, names: Names) -> None:
        self._names = names
        lowered = self._lowered = tuple([name.lower() for name in names])
        self._repeats = len(set(lowered)) < len(lowered)
        kept = [position for position, name in enumerate(lowered) if not stays_here(name)]
        self._template = b"".join(
            [b"%b: %%b\r\n" % names[position].replace(b"%", b"%%") for position in kept]
        )
        self._pick = _picker(kept, len(names))

    def headers(self, values: Values) -> Headers:
        """(name, value) in order."""
        return list(zip(self._names, values, strict=True))

    def fields(self, values: Values) -> Fields:
        """As :func:`~.headers.fields_of`."""
        if self._repeats:
            return fields_of(self.headers(values))[0]
        return dict(zip(self._lowered, values, strict=True))

    def lines(self, values: Values, fields: Fields) -> bytes:
        """The lines of :func:`~.headers.relayed`, on the wire.

        :param fields: of these *values*.
        """
        if nominated(fields):
            return lines(relayed(self.headers(values), fields))
        return self._template % self._pick(values)


def _picker(positions: list[int], count: int) -> Callable[[Values], Values]:
    """What takes the values at *positions* out of *count*."""
    if len(positions) == count:
        return tuple
    if len(positions) > 1:
        pick: Any = itemgetter(*positions)
        return pick  # type: ignore[no-any-return]  # of several positions it makes a tuple
    return lambda values: tuple([values[position] for position in positions])


_shapes: Final[dict[Names, Shape]] = {}


def shape_of(names: Names) -> Shape:
    """The shape with these names."""
    shape = _shapes.get(names)
    if shape is None:
        shape = Shape(names)
        if sum(map(len, names)) <= LARGEST_SHAPE:
            if len(_shapes) >= MOST_SHAPES:
                _shapes.clear()
            _shapes[names] = shape
    return shape
