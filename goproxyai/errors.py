"""The errors that the proxy itself responds with: their codes, statuses and JSON body.

====== ======================== =====================================================
status code                     reason
====== ======================== =====================================================
400    bad_request              the request is malformed or not allowed
403    admin_forbidden          the client may not use the administration endpoints
404    not_found                no endpoint has the path
405    method_not_allowed       the endpoint does not support the method
413    request_too_large        the body exceeds ``MAX_BODY_SIZE``
414    target_too_long          the target exceeds 16 KiB
426    upgrade_refused          the request asks for a WebSocket, and ``UPGRADES`` is ``off``
431    headers_too_large        the header exceeds 64 KiB or 200 fields
500    internal_error           a defect of the proxy
502    upstream_unreachable     DNS failed, or the connection was refused or reset before
                                the response headers
502    egress_proxy_refused     the egress proxy refused the tunnel, or did not speak its protocol
                                than 2xx
502    upstream_tls_failed      the certificate is invalid or the handshake failed
502    upstream_protocol_error  the response is not valid HTTP/1.1
503    circuit_open             the circuit breaker of each upstream is open
503    draining                 the process is stopping
503    overloaded               the connection limit is reached, or the process or its machine
                                is short of descriptors, ports or memory
504    upstream_timeout         connecting, or the response headers, took too long
504    only_if_cached           the request allows only a stored response; there is none
508    loop_detected            this instance, or too many instances, are in ``Via``
====== ======================== =====================================================

The response to a rate-limited request (429) has a JSON body of another shape, see
:mod:`goproxyai.proxy.error_response`.
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
    "upgrade_refused": 426,
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
"""The status of each error code. There are no other codes."""

OWNER = {
    "internal_error": "proxy",
    "admin_forbidden": "policy",
    "only_if_cached": "policy",
    "upgrade_refused": "policy",
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
"""The party that caused the error, by code; codes that are not listed are the ``caller``'s."""


_encode = msgspec.json.Encoder().encode


def is_printable(encoded: bytes) -> bool:
    """Whether JSON is printable ASCII. JSON escapes all control characters except DEL."""
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
    """An error that the proxy responds with.

    :param code: a key of :data:`STATUS`.
    :param message: the reason and what the client can do; sent to the client.
    :param headers: additional header fields of the response, such as ``Allow``.
    :param detail: the cause for the log; never sent to a client. Neither holds a secret.
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
        """Return the JSON body of the response."""
        error = {"message": self.message, "type": "proxy_error", "code": self.code}
        return json_bytes({"error": error})


def out_of_memory() -> ProxyError:
    """Return the 503 for a request that the budget of memory has no room for."""
    return ProxyError(
        "overloaded",
        "The requests in progress have used up MAX_REQUEST_MEMORY; try again in a second, or raise "
        "the limit.",
        ((b"Retry-After", b"1"),),
    )
