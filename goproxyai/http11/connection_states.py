"""States of connections.

A connection to a client has two state machines:

* input, kept by its :class:`~.request_parser.RequestParser`: what the next byte from the client
  belongs to;
* output, kept by its :class:`~.server_connection.ServerConnection`: whether responses can be
  written.

A connection to an upstream has a state of its own, kept by its
:class:`~.client_connection.ClientConnection`, and one of the response that it receives, kept by its
:class:`~.response_parser.ResponseParser`.

The modules that use a state bind its members to names of their own, as in
``IDLE, HEAD, BODY, REPLAY, ENDED = InputState``: until Python 3.12 a look-up such as
``InputState.IDLE`` calls a function.
"""

from __future__ import annotations

from enum import Enum


class InputState(Enum):
    """What the next byte from a client belongs to.

    ======  =======================================================  ====================
    state   meaning                                                  next states
    ======  =======================================================  ====================
    IDLE    between two requests                                     HEAD, BODY, ENDED
    HEAD    a part of a request head has been received               IDLE, BODY, ENDED
    BODY    a part of a request body is still to come                IDLE, REPLAY, ENDED
    REPLAY  llhttp reads a head that the client did not send, see    BODY
            :meth:`.RequestParser._decline_upgrade`
    ENDED   further bytes are discarded                              none
    ======  =======================================================  ====================

    A head that is received in one piece leads from IDLE to BODY without a read in HEAD.
    """

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    REPLAY = "replay"
    ENDED = "ended"


class OutputState(Enum):
    """Whether responses can be written to a client.

    ========  =========================================================  =========================
    state     meaning                                                    next states
    ========  =========================================================  =========================
    WRITABLE  the client takes what is written                           BLOCKED, CLOSING, CLOSED
    BLOCKED   the transport holds too many unsent bytes                  WRITABLE, CLOSING, CLOSED
    CLOSING   the last response is written: the output is shut or will   CLOSED
              be, and input is discarded until the client closes
    CLOSED    the connection is lost                                     none
    ========  =========================================================  =========================
    """

    WRITABLE = "writable"
    BLOCKED = "blocked"
    CLOSING = "closing"
    CLOSED = "closed"


class ClientState(Enum):
    """What a connection to an upstream is used for.

    ==========  =======================================================  =========================
    state       meaning                                                  next states
    ==========  =======================================================  =========================
    CONNECTING  TCP or TLS is being set up                               IDLE, ABORTED, CLOSED
    IDLE        it can be used for a request                             ACTIVE, ABORTED, CLOSED
    ACTIVE      a request is sent, or its response is received           IDLE, CLOSING, ABORTED,
                                                                         CLOSED
    CLOSING     it is closed after a complete response, and the          ABORTED, CLOSED
                upstream has not agreed yet
    ABORTED     it is reset, and Twisted has not reported the end yet    CLOSED
    CLOSED      it is lost                                               none
    ==========  =======================================================  =========================
    """

    CONNECTING = "connecting"
    IDLE = "idle"
    ACTIVE = "active"
    CLOSING = "closing"
    ABORTED = "aborted"
    CLOSED = "closed"


class ResponseInputState(Enum):
    """What the next byte from an upstream belongs to.

    ==========  =======================================================  =========================
    state       meaning                                                  next states
    ==========  =======================================================  =========================
    HEAD        the head of the response, or of an interim response      INTERIM, BODY, UNTIL_CLOSE,
                                                                         COMPLETE
    INTERIM     the end of an interim response (RFC 9110 §15.2)          HEAD
    BODY        a body with a length, or in chunks                       COMPLETE
    UNTIL_CLOSE a body that the end of the connection delimits           none
    COMPLETE    nothing: the response is complete                        HEAD, by the next request
    ==========  =======================================================  =========================
    """

    HEAD = "head"
    INTERIM = "interim"
    BODY = "body"
    UNTIL_CLOSE = "until close"
    COMPLETE = "complete"
