"""What a request parser needs of its receiver, and of all connections."""

from __future__ import annotations

from typing import Protocol

from goproxyai.errors import ProxyError
from goproxyai.http11.repeated_head import RepeatedHeadCache
from goproxyai.http11.request_body import RequestBody, WholeBody
from goproxyai.http11.request_head import FieldValues, RequestHead


class RequestReceiver(Protocol):
    """Receives what the parser has parsed."""

    def head_started(self) -> None:
        """The first byte of a head was received."""

    def request_received(
        self,
        head: RequestHead,
        values: FieldValues,
        body: RequestBody | WholeBody,
        problem: ProxyError | None,
    ) -> None:
        """A head was received. The parser feeds *body* until it is complete.

        llhttp is running: the request must not be handled before :meth:`RequestParser.feed` has
        returned. After a request that is refused, the receiver calls :meth:`RequestParser.end`.

        :param problem: why the request must be refused.
        """

    def repeated_request_received(
        self, head: RequestHead, values: FieldValues, body: RequestBody | WholeBody
    ) -> None:
        """A head was received that repeats the previous one. It may be handled at once."""

    def request_refused(self, head: RequestHead, values: FieldValues, problem: ProxyError) -> None:
        """The input ended in a head that cannot be served.

        :param head: what was received of it; of its fields, only ``X-Forwarded-For``, and only if
            the head was complete.
        """

    def body_refused(self, problem: ProxyError) -> None:
        """The input ended in the body of the last request."""


class ParserOptions(Protocol):
    """What the parsers of all connections share.

    :ivar heads: the heads that clients repeat.
    :ivar max_body_bytes: of a request body; may change at any time.
    """

    heads: RepeatedHeadCache
    max_body_bytes: int
