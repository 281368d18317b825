"""The messages between the parent process and its workers, and their framing.

A frame is the length of the payload, 4 bytes in network order, and the payload: one message, as
MessagePack. Both ends run the same release.
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import Any, Final

import msgspec

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""Of a payload; the largest ones are pages of operators with thousands of metrics."""

_LENGTH = Layout("!I")


class FrameError(ValueError):
    """The bytes are no frame of this protocol."""


class _Message(msgspec.Struct, array_like=True, tag=True):
    """A message; its class is its kind."""


class PassedSocket(msgspec.Struct, array_like=True, frozen=True):
    """A listening socket that the worker has inherited.

    :ivar description: endpoint string. :ivar descriptor: in the worker.
    """

    description: str
    descriptor: int


class Welcome(_Message):
    """Parent to worker, first: what the worker needs to start.

    :ivar version: of the parent; a worker of another release cannot start.
    :ivar workers: number of workers.
    :ivar options: settings from the command line, by variable; may hold secrets.
    :ivar directory: of relative paths.
    :ivar instance: identifies the service in ``Via``.
    :ivar log_file: path of the log; empty for standard output.
    :ivar shared: descriptor of a file in memory, which is the lock for writing to a log that is not
        a file, and has the number of connections of each worker.
    :ivar index: of the worker, 0 for the first.
    """

    version: str
    workers: int
    options: dict[str, str]
    directory: str
    instance: bytes
    log_file: str
    shared: int
    index: int
    sockets: list[PassedSocket]
    admin_sockets: list[PassedSocket]


class Started(_Message):
    """Worker to parent: the worker can accept connections."""


class Failed(_Message):
    """Worker to parent: the worker cannot start, because of *problem*, one line."""

    problem: str


class Ask(_Message):
    """Worker to parent: a question for tokens of *client*."""

    client: str
    tokens: int


class Granted(_Message):
    """Parent to worker: the answer to :class:`Ask`; see :class:`.Grant`."""

    client: str
    tokens: int
    wait: float


class PutBack(_Message):
    """Worker to parent: unused tokens, by client."""

    tokens: list[tuple[str, int]]


class Written(_Message):
    """Both ways: the owner's cached responses are outdated."""

    owner: bytes


class Replaced(_Message):
    """Both ways: drop the responses of *keys* from the memory of a worker; there are newer ones."""

    keys: list[bytes]


class Clear(_Message):
    """Both ways: drop the cached responses of *path*, or all.

    :ivar number: identifies the :class:`Done` that answers it; 0 for no answer.
    """

    path: bytes | None
    number: int


class Done(_Message):
    """Both ways: the request *number* has been carried out."""

    number: int


class Collect(_Message):
    """Parent to worker: report now."""

    number: int


class Report(_Message):
    """Worker to parent: the counters of the worker.

    :ivar number: of the :class:`Collect` that it answers; 0: none.
    :ivar document: see :mod:`goproxyai.admin.worker_report`.
    :ivar reachable: whether an upstream may be reached.
    """

    number: int
    document: dict[str, Any]
    reachable: bool


class AskPage(_Message):
    """Worker to parent: render a page for operators.

    :ivar known: number of the newest slot of the dashboard that the worker knows.
    """

    number: int
    page: str
    known: int


class Page(_Message):
    """Parent to worker: the answer to :class:`AskPage`."""

    number: int
    body: bytes


class Reachable(_Message):
    """Parent to worker: whether any worker may reach an upstream."""

    reachable: bool


class Serve(_Message):
    """Parent to worker, after :class:`Started`: accept connections; questions get answers now."""


class Reload(_Message):
    """Parent to worker: read the configuration and the certificates again."""


class Reopen(_Message):
    """Parent to worker: open the log file again."""


class Drain(_Message):
    """Parent to worker: stop as after SIGTERM."""


class LookUp(_Message):
    """Worker to parent: wait for the worker that asks upstream for *key*, or get the claim.

    The parameters are those of :meth:`.SecondLevel.look_up`. The answer is :class:`Missing`, or
    :class:`Waits` and later :class:`Found` or :class:`Missing`.

    :ivar number: identifies the answers; at least 1.
    """

    number: int
    key: bytes
    owner: bytes
    path: bytes


class Found(_Message):
    """Parent to worker: a response has been stored for the look-up *number*."""

    number: int


class Missing(_Message):
    """Parent to worker: the look-up *number* is to ask upstream.

    :ivar claim: number of the exclusive claim, or :data:`~.claims.NOT_EXCLUSIVE`.
    """

    number: int
    claim: int


class Waits(_Message):
    """Parent to worker: the look-up *number* waits for another worker.

    Once a second with the number 0: the look-ups still wait.
    """

    number: int


class AskClaim(_Message):
    """Parent to worker: has the worker claimed *key* by a mark (:mod:`.claim_marks`)?

    The answer is :class:`Claimed`, or :class:`EndClaim` if it has not, or no longer.

    :ivar number: of the claim from now on.
    """

    number: int
    key: bytes


class Claimed(_Message):
    """Worker to parent: the worker has the claim *number*.

    :ivar generation: of the second level at the look-up.
    """

    number: int
    generation: int


class Unwanted(_Message):
    """Worker to parent: the look-up *number* no longer waits."""

    number: int


class Stored(_Message):
    """Worker to parent: the exclusive claim ends, because its response has been stored."""

    claim: int


class EndClaim(_Message):
    """Worker to parent: the exclusive claim ends without a response.

    :ivar failed: what :meth:`.Claim.fail` means, and not :meth:`.Claim.give_up`.
    """

    claim: int
    failed: bool


Message = (
    Welcome | Started | Failed | Ask | Granted | PutBack | Written | Replaced | Clear | Done
    | Collect | Report | AskPage | Page | Reachable | Serve | Reload | Reopen | Drain
    | LookUp | Found | Missing | Waits | AskClaim | Claimed
    | Unwanted | Stored | EndClaim
)  # fmt: skip

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def frame(message: Message) -> bytes:
    """Return the frame of *message*."""
    payload = encode(message)
    return _LENGTH.pack(len(payload)) + payload


def decode(payload: bytes | bytearray | memoryview) -> Message:
    """Return the message of *payload*.

    :raises FrameError: the bytes are invalid.
    """
    try:
        return _decode(payload)
    except msgspec.MsgspecError as error:
        raise FrameError(f"an invalid message: {error}") from None


class FrameReader:
    """Takes bytes as they arrive, and returns messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that *data* completes.

        :raises FrameError: the bytes are invalid.
        """
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        position = 0
        while len(buffer) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, position)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a frame of {length} bytes")
            begin = position + _LENGTH.size
            if len(buffer) < begin + length:
                break
            position = begin + length
            messages.append(decode(memoryview(buffer)[begin:position]))
        del buffer[:position]
        return messages
