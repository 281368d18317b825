"""Response headers by the sequence of their names.

Upstreams send the same names in the same order again and again. A :class:`HeaderTemplate` keeps
what depends on the names alone: the lower-cased names, which lines are relayed, and these lines
with placeholders for the values. The cache of templates is bounded in number and in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final

from goproxyai.messages.headers import (
    PLAIN_CONNECTION,
    Fields,
    Headers,
    index_fields,
    is_never_relayed,
    is_shareable,
    nominated_fields,
    response_headers_for_client,
    serialize_headers,
)
from goproxyai.messages.locations import LOCATION_FIELDS

MAX_TEMPLATES: Final = 512

MAX_TEMPLATE_NAME_BYTES: Final = 1024
"""A template with longer names, all names and a separator for each, is not cached."""

FieldValues = tuple[bytes, ...]


class HeaderTemplate:
    """The field names of a header, in order.

    :param names: as received.
    :ivar locations: positions of the fields in :data:`~.locations.LOCATION_FIELDS`.
    """

    __slots__ = ("_has_repeats", "_lowered", "_names", "_relayed", "_shareable", "locations")

    def __init__(self, names: Sequence[bytes]) -> None:
        self._names = names
        lowered = self._lowered = tuple([name.lower() for name in names])
        self._has_repeats = len(set(lowered)) < len(lowered)
        self.locations = tuple([at for at, name in enumerate(lowered) if name in LOCATION_FIELDS])
        relayed = [at for at, name in enumerate(lowered) if not is_never_relayed(name)]
        self._relayed = _template(names, relayed)
        self._shareable = _template(names, [at for at in relayed if is_shareable(lowered[at])])

    def headers(self, values: FieldValues) -> Headers:
        """Return (name, value) pairs in order."""
        return list(zip(self._names, values, strict=True))

    def fields(self, values: FieldValues) -> Fields:
        """Return the same as :func:`~.headers.index_fields`."""
        if self._has_repeats:
            return index_fields(self.headers(values))[0]
        # 0.3 us less than with `strict=True`; a template is used with the values of its own names.
        return dict(zip(self._lowered, values))  # noqa: B905

    def relayed_lines(self, values: FieldValues, fields: Fields) -> bytes:
        """Return the serialized :func:`~.headers.response_headers_for_client`.

        :param fields: of the same *values*.
        """
        if fields.get(b"connection") not in PLAIN_CONNECTION and nominated_fields(fields):
            return serialize_headers(response_headers_for_client(self.headers(values), fields))
        template, pick = self._relayed
        return template % pick(values)

    def shareable_lines(self, values: FieldValues, fields: Fields) -> bytes:
        """Return those of :meth:`relayed_lines` that are :func:`~.headers.is_shareable`."""
        if fields.get(b"connection") not in PLAIN_CONNECTION and nominated_fields(fields):
            relayed = response_headers_for_client(self.headers(values), fields)
            return serialize_headers([pair for pair in relayed if is_shareable(pair[0].lower())])
        template, pick = self._shareable
        return template % pick(values)


def _template(
    names: Sequence[bytes], positions: list[int]
) -> tuple[bytes, Callable[[FieldValues], FieldValues]]:
    """Return lines with placeholders, and a function that picks the values at *positions*."""
    text = b"".join([b"%b: %%b\r\n" % names[at].replace(b"%", b"%%") for at in positions])
    return text, _picker(positions, len(names))


def _picker(positions: list[int], count: int) -> Callable[[FieldValues], FieldValues]:
    if len(positions) == count:
        return tuple
    if len(positions) > 1:
        pick: Any = itemgetter(*positions)
        return pick  # type: ignore[no-any-return]  # returns a tuple for several positions
    return lambda values: tuple([values[position] for position in positions])


_templates: Final[dict[bytes, HeaderTemplate]] = {}


def template_of(names: Sequence[bytes]) -> HeaderTemplate:
    """Return the template of *names*, from the cache if possible."""
    key = b"\n".join(names)  # hashed and compared faster than a tuple; no name has a line feed
    template = _templates.get(key)
    if template is None:
        template = HeaderTemplate(names)
        if len(key) <= MAX_TEMPLATE_NAME_BYTES:
            if len(_templates) >= MAX_TEMPLATES:
                _templates.clear()
            _templates[key] = template
    return template
