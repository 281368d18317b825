"""Session tickets that a TLS server issues."""

from __future__ import annotations

from typing import Any, Final

from OpenSSL.SSL import OP_NO_TICKET

OPTION_NAMES: Final = ("_options",)
"""Private attributes of ``CertificateOptions`` in Twisted."""


def issue_tickets(options: Any) -> None:
    """Let the contexts that *options* makes issue tickets, with which clients resume sessions.

    Twisted's ``ssl:`` endpoints have no argument for that. A ticket is valid for the context that
    has issued it: its keys are random and in the memory of one process only.

    :param options: Twisted's ``CertificateOptions``, which have made no context yet.
    """
    flags = getattr(options, "_options", None)
    if flags is not None:
        options._options = flags & ~OP_NO_TICKET
