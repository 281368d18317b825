"""The head of a request, validated (RFC 9112 §3.2, §6.1, §6.3).

A head is immutable in all that concerns its request line and its fixed fields. Some fields, such as
``Content-Length`` and ``traceparent``, differ from request to request while everything else of the
head is repeated: the *variable fields*, see :data:`VARIABLE_FIELDS`. Nothing that is decided from a
head depends on the values of its variable fields, so a :class:`RequestHead` can be shared by all
requests that repeat it, and each request carries the values (:data:`FieldValues`).
:mod:`.repeated_head` does so.
"""

from __future__ import annotations

import re
from itertools import chain

from goproxyai.errors import ProxyError
from goproxyai.http11.framing import MAX_MULTIPART_FRAMING_BYTES
from goproxyai.messages.headers import Fields, Headers, index_fields
from goproxyai.messages.targets import check_host, origin_form

VARIABLE_FIELDS = frozenset(
    (
        b"content-length", b"date",
        # SDKs
        b"x-stainless-retry-count", b"idempotency-key", b"x-client-request-id",
        # load balancers, CDNs and platforms
        b"x-forwarded-for", b"x-real-ip", b"x-request-id", b"x-request-start", b"x-correlation-id",
        b"x-amzn-trace-id", b"x-cloud-trace-context", b"cf-ray", b"cf-connecting-ip",
        # tracers
        b"traceparent", b"tracestate", b"baggage", b"sentry-trace", b"newrelic",
        b"b3", b"x-b3-traceid", b"x-b3-spanid", b"uber-trace-id", b"elastic-apm-traceparent",
        b"x-datadog-trace-id", b"x-datadog-parent-id", b"x-datadog-tags",
    )
)  # fmt: skip
"""Lower-cased names of fields that concern one request, and nothing that is decided from a head."""

LONG_VARIABLE_FIELDS = frozenset((b"tracestate", b"baggage", b"newrelic", b"x-datadog-tags"))
"""Variable fields that have an ID of the trace among other texts."""

MAX_VARIABLE_BYTES = 128
"""Size of the largest value of a variable field; a field with a larger one is a fixed field.

The cache counts the bytes of a request's fields (:mod:`goproxyai.proxy.request_plan`).
"""

MAX_LONG_VARIABLE_BYTES = 512
"""The same for :data:`LONG_VARIABLE_FIELDS`: proxies should pass on as much of ``tracestate`` (W3C
Trace Context §3.3.1.5). A ``baggage`` of Sentry has 200 to 400 bytes."""

_FORM_DATA = re.compile(rb"multipart/form-data[ \t]*(?:;|$)", re.IGNORECASE)
_LENGTH_ONLY = frozenset((b"content-length",))

FieldValues = tuple[bytes, ...]
"""The values of a head's variable fields, in the order of its lines."""


class RequestHead:
    """A request line and header lines.

    :ivar target: in origin-form, validated; of a refused request the part that was received.
    :ivar version: ``1.1`` or ``1.0``; a later minor version is ``1.1`` (RFC 9110 §6.2).
    :ivar headers: (name, value) in order.
    :ivar keep_alive: whether the client allows another request on the connection.
    :ivar fields: lower-cased name to value, repeated lines joined.
    :ivar repeated: whether any name occurs more than once.
    :ivar chunked: whether the body is.
    :ivar expects_continue: whether the client waits for ``100 Continue`` (RFC 9110 §10.1.1).
    :ivar variable_lines: index among the header lines to index among the variable fields.
    :ivar variable_fields: lower-cased name to index among the variable fields.
    :ivar length_index: index of ``Content-Length`` among the variable fields, -1 without one.
    :ivar memory_bytes: memory of the head and its plan, as far as it is counted for each request.
    :ivar logged_target: the redacted target for the access log; empty until one is made.
    :ivar plan: what the user of the head has derived from it, computed once while clients repeat
        the head; must not depend on the values of variable fields. The type is the user's own.
    """

    __slots__ = (
        "chunked", "expects_continue", "fields", "headers", "keep_alive", "length_index",
        "logged_target", "memory_bytes", "method", "plan", "repeated", "target", "variable_fields",
        "variable_lines", "version",
    )  # fmt: skip

    def __init__(
        self, method: bytes, target: bytes, version: str, headers: Headers, keep_alive: bool
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.keep_alive = keep_alive
        self.fields, self.repeated = index_fields(headers)
        self.variable_lines = variable_lines(headers, self.repeated)
        self.variable_fields = {
            headers[line][0].lower(): index for line, index in self.variable_lines.items()
        }
        self.length_index = self.variable_fields.get(b"content-length", -1)
        self.chunked = False
        self.expects_continue = False
        self.memory_bytes = 0
        self.logged_target = ""
        self.plan: object | None = None

    @classmethod
    def validated(
        cls, method: bytes, target: bytes, version: str, headers: Headers, keep_alive: bool
    ) -> RequestHead:
        """Return the head of a request that may be served.

        :param target: as received, in any form.
        :raises ProxyError: if the request must be refused; a ``method_not_allowed`` without the
            ``Allow`` that its response must have.
        """
        head = cls(method, target, version, headers, keep_alive)
        if version not in ("1.1", "1.0"):
            raise ProxyError(
                "bad_request", f"The version HTTP/{version} is not supported; send HTTP/1.1."
            )
        hosts = [name for name, _ in headers if name.lower() == b"host"] if head.repeated else ()
        host = head.fields.get(b"host")
        check_host(host, len(hosts) > 1, required=version != "1.0")
        head._check_form()
        head._check_transfer_encoding()
        head._check_expectation()
        head.target = origin_form(target, host)
        return head

    def release_fields(self) -> None:
        """Release the header and the plan, which are not needed any more.

        Only for a head that no other request repeats, such as one with ``Upgrade``.
        """
        self.headers = []
        self.fields, self.variable_fields, self.variable_lines = {}, {}, {}
        self.plan = None

    def _check_form(self) -> None:
        """Refuse the forms of targets for servers and forward proxies (RFC 9112 §3.2)."""
        if self.method == b"CONNECT":
            raise ProxyError(
                "method_not_allowed",
                "The proxy does not support CONNECT; set its URL as the base URL of the client, "
                "not as its HTTPS proxy.",
            )
        if self.method == b"OPTIONS" and self.target == b"*":
            raise ProxyError(
                "method_not_allowed",
                "The proxy does not answer OPTIONS for the whole server; send it for a path.",
            )

    @property
    def max_framing_bytes(self) -> int:
        """Bytes of the body that do not count towards its limit."""
        form_data = _FORM_DATA.match(self.fields.get(b"content-type", b"")) is not None
        return MAX_MULTIPART_FRAMING_BYTES if form_data else 0

    def _check_transfer_encoding(self) -> None:
        coding = self.fields.get(b"transfer-encoding")
        if coding is None:
            return
        if self.version == "1.0":
            raise ProxyError(
                "bad_request", "HTTP/1.0 has no Transfer-Encoding; send Content-Length or HTTP/1.1."
            )
        if coding.strip(b" \t").lower() != b"chunked":
            raise ProxyError(
                "bad_request",
                "The only Transfer-Encoding that is supported is chunked.",
            )
        self.chunked = True

    def _check_expectation(self) -> None:
        expect = self.fields.get(b"expect")
        if expect is None or self.version == "1.0":
            return
        if expect.strip(b" \t").lower() != b"100-continue":
            raise ProxyError("bad_request", "The only Expect that is supported is 100-continue.")
        self.expects_continue = True

    @property
    def fixed_fields(self) -> Fields:
        """:attr:`fields`, with empty values of the variable fields."""
        variable = self.variable_fields
        if len(variable) == (self.length_index >= 0):  # whose value is no matter of decisions
            return self.fields
        return {**self.fields, **dict.fromkeys(variable, b"")}

    def values(self, headers: Headers) -> FieldValues:
        """Return the values of the variable fields in *headers*.

        :param headers: equal to those of this head except for variable fields.
        """
        return tuple([headers[line][1] for line in self.variable_lines])

    def body_length(self, values: FieldValues) -> int | None:
        """Return the length of the body in bytes, ``None`` for a chunked body."""
        if self.chunked:
            return None
        return int(values[self.length_index]) if self.length_index >= 0 else 0

    def estimated_memory(self) -> int:
        """Return the memory of the head and its plan in bytes, at least.

        The factors were measured with ``tracemalloc``, for 5 to 195 fields of 10 to 700 bytes.
        """
        size = len(self.target) + sum(map(len, chain.from_iterable(self.headers)))
        return 2_000 + 3 * size + 250 * len(self.headers)

    def drop_values(self) -> None:
        """Empty the values of variable fields, so that the head can be shared by requests."""
        self.headers = self.headers.copy()  # the caller still reads the original
        for line in self.variable_lines:
            self.headers[line] = (self.headers[line][0], b"")
        for name in self.variable_fields:
            self.fields[name] = b""


def variable_lines(headers: Headers, repeated: bool) -> dict[int, int]:
    """Return the index among the lines to the index among the variable fields.

    :param repeated: whether any name occurs more than once. Then only ``Content-Length`` is
        variable: llhttp refuses a second one, so that name cannot be the repeated one.
    """
    names = _LENGTH_ONLY if repeated else VARIABLE_FIELDS
    lines = [
        line
        for line, (name, value) in enumerate(headers)
        if name.lower() in names and len(value) <= max_variable_bytes(name.lower())
    ]
    return {line: index for index, line in enumerate(lines)}


def max_variable_bytes(name: bytes) -> int:
    """Return the size of the largest value of a variable field.

    :param name: in lower case.
    """
    return MAX_LONG_VARIABLE_BYTES if name in LONG_VARIABLE_FIELDS else MAX_VARIABLE_BYTES
