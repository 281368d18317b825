"""The proxy's own errors: one table, one exception, one JSON shape.

====== ======================== ==================================================
status code                     raised when
====== ======================== ==================================================
400    bad_request              the request is malformed, or was refused at the door
403    admin_forbidden          an operator's page was asked for by somebody else
404    not_found                nothing lives at that path
405    method_not_allowed       something does, but not for that method
413    request_too_large        the body exceeds ``MAX_BODY_SIZE``
414    target_too_long          more than 16 KiB of target
431    headers_too_large        more than 64 KiB or 200 fields of header
500    internal_error           a defect of ours
502    upstream_unreachable     DNS, refused, or reset before the response's head
502    egress_proxy_refused     CONNECT was answered with anything but 2xx
502    upstream_tls_failed      the certificate or the handshake did not hold
502    upstream_protocol_error  upstream did not speak HTTP/1.1
503    circuit_open             upstream failed too often, and is left alone for a moment
503    draining                 the process is stopping
503    overloaded               there are as many connections as there may be
504    upstream_timeout         connecting, or waiting for the head, took too long
504    only_if_cached           the client wanted a stored answer, there is none
508    loop_detected            our own name stands in ``Via``
====== ======================== ==================================================

The 429 of the rate limit has a shape of its own, see :mod:`goproxyai.proxy.replay`.
"""

from __future__ import annotations

import json

import msgspec

STATUS = {
    "bad_request": 400,
    "admin_forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_too_large": 413,
    "target_too_long": 414,
    "headers_too_large": 431,
    "internal_error": 500,
    "upstream_unreachable": 502,
    "egress_proxy_refused": 502,
    "upstream_tls_failed": 502,
    "upstream_protocol_error": 502,
    "circuit_open": 503,
    "draining": 503,
    "overloaded": 503,
    "upstream_timeout": 504,
    "only_if_cached": 504,
    "loop_detected": 508,
}
"""The closed vocabulary of error codes, and the status of each."""


OWNER = {
    "internal_error": "proxy",
    "admin_forbidden": "policy",
    "only_if_cached": "policy",
    "circuit_open": "policy",
    "draining": "policy",
    "overloaded": "policy",
    "loop_detected": "policy",
    "egress_proxy_refused": "egress",
    "upstream_unreachable": "upstream",
    "upstream_tls_failed": "upstream",
    "upstream_protocol_error": "upstream",
    "upstream_timeout": "upstream",
}
"""Whose failure a code is; of those that are not here, the ``caller``'s."""


_encode = msgspec.json.Encoder().encode


def is_printable(encoded: bytes) -> bool:
    """Whether JSON is printable ASCII: it has no control characters, but may have a DEL."""
    return encoded.isascii() and b"\x7f" not in encoded


def json_bytes(document: object) -> bytes:
    """Return *document* as JSON: printable ASCII, without white space.

    msgspec writes UTF-8. The few documents that are not ASCII are left to `json`, which escapes.
    """
    try:
        encoded = _encode(document)
        if is_printable(encoded):
            return encoded
    except UnicodeEncodeError:  # a lone surrogate
        pass
    return json.dumps(msgspec.to_builtins(document), separators=(",", ":")).encode("ascii")


class ProxyError(Exception):
    """An answer that is the proxy's own.

    :param code: a key of :data:`STATUS`.
    :param message: what went wrong and what to do about it; never a secret.
    :param headers: further fields of the answer, such as ``Allow``.
    :param detail: the log's view of the cause; never sent to a client, never a secret.
    """

    def __init__(
        self,
        code: str,
        message: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        detail: str = "",
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.status = STATUS[code]
        self.message = message
        self.headers = headers
        self.detail = detail

    def body(self) -> bytes:
        """The JSON document of the contract's error shape."""
        error = {"message": self.message, "type": "proxy_error", "code": self.code}
        return json_bytes({"error": error})
