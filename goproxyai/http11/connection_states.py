"""States of connections, and their transitions.

A connection to a client has two state machines:

* input, kept by its :class:`~.request_parser.RequestParser`;
* output, kept by its :class:`~.response_output.ResponseOutput`.

So has a connection to an upstream:

* what it is used for, kept by its :class:`~.client_connection.ClientConnection`;
* input, kept by its :class:`~.response_parser.ResponseParser`.

After a switch of protocols, the state of both is that of their :class:`~.tunnel_end.TunnelEnd`.

The modules that use a state bind its members to names of their own, as in
``IDLE, HEAD, BODY, REPLAY, ENDED = InputState``: before Python 3.12 a look-up such as
``InputState.IDLE`` calls a function.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class InputState(Enum):
    """What the next byte from a client belongs to."""

    IDLE = "between two requests"
    HEAD = "a request head of which a part has been received"
    BODY = "a request body"
    REPLAY = "a head that the client did not send, see RequestParser._decline_upgrade"
    ENDED = "nothing: it is discarded"


class OutputState(Enum):
    """Whether responses can be written to a client."""

    WRITABLE = "the client takes what is written"
    BLOCKED = "the transport holds too many unsent bytes"
    CLOSING = "the last response is written, and input is discarded until the client closes"
    CLOSED = "the connection is lost"


class ClientState(Enum):
    """What a connection to an upstream is used for."""

    CONNECTING = "TCP or TLS is being set up"
    IDLE = "nothing: it can be used for a request"
    ACTIVE = "a request is sent, or its response is received"
    TUNNEL = "nothing of HTTP: the upstream has switched protocols"
    CLOSING = "nothing: it is closed after a response, and the upstream has not agreed yet"
    ABORTED = "nothing: it is reset, and Twisted has not reported its end yet"
    CLOSED = "nothing: it is lost"


class ResponseInputState(Enum):
    """What the next byte from an upstream belongs to."""

    HEAD = "the head of a response, or of an interim response"
    INTERIM = "the end of an interim response (RFC 9110 §15.2)"
    BODY = "a body with a length, or in chunks"
    UNTIL_CLOSE = "a body that the end of the connection delimits"
    COMPLETE = "nothing: the response is complete"
    SWITCHED = "another protocol"


class TunnelState(Enum):
    """The output of one end of a tunnel."""

    OPEN = "what the other end receives is written"
    FINISHED = "the FIN of the other end is passed on, and the input is still read"
    CLOSING = "the tunnel has ended, and input is discarded until the peer closes"
    ABORTED = "it is reset, and Twisted has not reported its end yet"
    CLOSED = "the connection is lost"


TRANSITIONS: Final[dict[Enum, set[Enum]]] = {
    # A head that one read completes leads from IDLE to HEAD and on within that read.
    InputState.IDLE: {InputState.HEAD, InputState.BODY, InputState.ENDED},
    InputState.HEAD: {InputState.IDLE, InputState.BODY, InputState.ENDED},
    InputState.BODY: {InputState.IDLE, InputState.REPLAY, InputState.ENDED},
    InputState.REPLAY: {InputState.BODY},
    InputState.ENDED: set(),
    OutputState.WRITABLE: {OutputState.BLOCKED, OutputState.CLOSING, OutputState.CLOSED},
    OutputState.BLOCKED: {OutputState.WRITABLE, OutputState.CLOSING, OutputState.CLOSED},
    OutputState.CLOSING: {OutputState.CLOSED},
    OutputState.CLOSED: set(),
    ClientState.CONNECTING: {ClientState.IDLE, ClientState.ABORTED, ClientState.CLOSED},
    ClientState.IDLE: {ClientState.ACTIVE, ClientState.ABORTED, ClientState.CLOSED},
    ClientState.ACTIVE: {
        ClientState.IDLE, ClientState.TUNNEL, ClientState.CLOSING, ClientState.ABORTED,
        ClientState.CLOSED,
    },
    ClientState.TUNNEL: {ClientState.ABORTED, ClientState.CLOSED},
    ClientState.CLOSING: {ClientState.ABORTED, ClientState.CLOSED},
    ClientState.ABORTED: {ClientState.CLOSED},
    ClientState.CLOSED: set(),
    # HEAD follows every state when the next request is sent, which ends a failed response as well.
    ResponseInputState.HEAD: {
        ResponseInputState.INTERIM, ResponseInputState.BODY, ResponseInputState.UNTIL_CLOSE,
        ResponseInputState.COMPLETE, ResponseInputState.SWITCHED,
    },
    ResponseInputState.INTERIM: {ResponseInputState.HEAD},
    ResponseInputState.BODY: {ResponseInputState.COMPLETE},
    ResponseInputState.UNTIL_CLOSE: set(),
    ResponseInputState.COMPLETE: {ResponseInputState.HEAD},
    ResponseInputState.SWITCHED: set(),
    TunnelState.OPEN: {TunnelState.FINISHED, TunnelState.ABORTED, TunnelState.CLOSED},
    TunnelState.FINISHED: {TunnelState.CLOSING, TunnelState.ABORTED, TunnelState.CLOSED},
    TunnelState.CLOSING: {TunnelState.ABORTED, TunnelState.CLOSED},
    TunnelState.ABORTED: {TunnelState.CLOSED},
    TunnelState.CLOSED: set(),
}  # fmt: skip
"""The states that may follow each state. Tests hold the connections to this table."""
