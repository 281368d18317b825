"""States of connections.

A connection to a client has two state machines:

* input, kept by its :class:`~.request_parser.RequestParser`: what the next byte from the client
  belongs to;
* output, kept by its :class:`~.server_connection.ServerConnection`: whether responses can be
  written.

A connection to an upstream has one, kept by its
:class:`~.client_connection.ClientConnection`.

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
