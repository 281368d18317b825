"""The format of a cache that was put away: what its file holds, and what keeps others from it.

1. A header, then frames: ``goproxyai cache`` and a zero, the version, the salt, the prefix of the
   nonces. The version stands for all that follows, the cost of the key and the way in which
   :mod:`~.key` makes keys included.
2. The records, one behind the other, are cut into frames of :data:`FRAME` bytes; the last one may
   be shorter. Neither side holds more than some frames and the record at hand.
3. A frame is sealed with AES-256-GCM, the header beside it as associated data. Its nonce is the
   prefix, its number and whether it is the last: STREAM, of Hoang, Reyhanitabar, Rogaway and Vizár
   (*Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance*, 2015). So whatever was
   flipped, cut off, appended or put elsewhere is told; :class:`Refused` says so.
4. The key is made with scrypt (RFC 7914), of the passphrase, of a salt that no other file has, and
   of the upstream: the keys of the cache do not name it, and another's answers are no answers.
5. A record is numbers, the lengths of six texts, and the texts. What it says is believed only once
   its frame is authentic; a length that leads outside is damage all the same.
6. Times are of the wall clock (unix seconds): monotonic ones mean nothing after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import Final

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from goproxyai.cache.entry import Entry
from goproxyai.usage.usage import Usage

MAGIC: Final = b"goproxyai cache\0"
"""What each of our files begins with, whatever its version."""

VERSION: Final = b"\x02"

FRAME: Final = 2**20
"""Bytes of records in a frame."""

COST: Final = 2**14
"""Of the key, scrypt's *N*: 16 MiB, and some 50 milliseconds."""

LEEWAY: Final = 60.0
"""Seconds by which the wall clock may have been set back."""

_SALT_BYTES = 16
_PREFIX_BYTES = 7
_TAG_BYTES = 16

RANDOM_BYTES: Final = _SALT_BYTES + _PREFIX_BYTES
"""In a header."""

HEADER_BYTES: Final = len(MAGIC) + len(VERSION) + RANDOM_BYTES

FOREIGN: Final = "it is no file of ours"
OTHER_VERSION: Final = "it is of another version"
DAMAGED: Final = "it is damaged, or of another key or upstream"

_NUMBER = Struct(">I?")  # the rest of a nonce
_RECORD = Struct("<32sHQddQQQQQQ4Q")
_NO_PACE = 2**64 - 1
_NO_USAGE = ("", _NO_PACE, _NO_PACE, _NO_PACE, _NO_PACE)


class Refused(Exception):
    """A file that cannot be read; ``str()`` says why, in few words and without a secret."""


@attrs.frozen
class Record:
    """What is kept of an entry, and of where it lies; see :class:`~.store.Entry`.

    :ivar key: 32 bytes.
    :ivar stored: unix seconds.
    :ivar expires: unix seconds.
    """

    key: bytes
    status: int
    head: bytes
    body: bytes
    timing: bytes | None
    initial_age: int
    stored: float
    expires: float
    path: bytes
    owner: bytes
    usage: Usage | None = None


def recorded(entry: Entry, shift: float) -> Record:
    """What is kept of a stored *entry*.

    :param shift: the wall clock's seconds less the monotonic ones.
    """
    place = entry.bucket
    assert place is not None, "what is kept is stored"
    return Record(
        entry.key,
        entry.status,
        entry.head,
        entry.body,
        entry.timing,
        entry.initial_age,
        entry.stored_at + shift,
        entry.expires_at + shift,
        place.path,
        place.owner,
        entry.usage(),
    )


def revived(record: Record, now: float, wall: float, stale: float) -> Entry | None:
    """The entry again; ``None`` where it has expired, or comes from the future.

    It lives no longer than it had to live when it was stored, whatever became of the wall clock.

    :param now: monotonic seconds.
    :param wall: unix seconds, at the same moment.
    :param stale: seconds for which an entry is kept once it has expired.
    """
    age = wall - record.stored
    stored_at = now - max(age, 0.0)
    expires_at = stored_at + (record.expires - record.stored)
    if age < -LEEWAY or expires_at + stale <= now:
        return None
    return Entry(
        record.key,
        record.status,
        record.head,
        record.body,
        stored_at,
        expires_at,
        record.initial_age,
        record.timing,
        record.usage,
    )


def new_header(randomness: bytes) -> bytes:
    """The header of a new file.

    :param randomness: :data:`RANDOM_BYTES` that no other file was given.
    """
    assert len(randomness) == RANDOM_BYTES
    return MAGIC + VERSION + randomness


def key_of(header: bytes, passphrase: bytes, upstream: bytes) -> bytes:
    """The key of the file that begins with *header*.

    :raises Refused: where no file of ours, and of this version, begins so.
    """
    if not header.startswith(MAGIC):
        raise Refused(FOREIGN)
    version = header[len(MAGIC) : len(MAGIC) + len(VERSION)]
    if version and version != VERSION:
        raise Refused(OTHER_VERSION)
    if len(header) != HEADER_BYTES:
        raise Refused(DAMAGED)
    salt = header[-RANDOM_BYTES:-_PREFIX_BYTES] + upstream
    return Scrypt(salt=salt, length=32, n=COST, r=8, p=1).derive(passphrase)


def seal(records: Iterable[Record], header: bytes, key: bytes) -> Iterator[bytes]:
    """What is to be written, a frame at a time.

    :param records: least recently used first.
    :param header: of :func:`new_header`; one that was used before gives the frames away.
    :param key: of :func:`key_of`.
    """
    yield header
    yield from _sealed(_cut(_encoded(records)), header, key)


def opened(read: Callable[[int], bytes], header: bytes, key: bytes) -> Iterator[Record]:
    """The records, in the order in which they were sealed.

    Each is authentic as it comes; that nothing is missing behind it is known at the end.

    :param read: gives that many bytes of what follows the header, fewer at the end only.
    :raises Refused: where it is not what :func:`seal` made, from the first byte to the last.
    """
    frames = iter(lambda: read(FRAME + _TAG_BYTES), b"")
    text = _Text(_authentic(frames, header, key))
    while not text.ended():
        yield _decoded(text)


# Frames.


def _cut(parts: Iterable[bytes]) -> Iterator[bytearray]:
    """The bytes of *parts* in frames, one at least, none but the last shorter than the others."""
    frame = bytearray()
    for part in parts:
        left = memoryview(part)
        while left:
            if len(frame) == FRAME:
                yield frame
                frame = bytearray()
            fitting = left[: FRAME - len(frame)]
            frame += fitting
            left = left[len(fitting) :]
    yield frame


def _sealed(frames: Iterator[bytearray], header: bytes, key: bytes) -> Iterator[bytes]:
    cipher = AESGCM(key)
    for nonce, frame in _with_nonces(frames, header):
        yield cipher.encrypt(nonce, frame, header)


def _authentic(frames: Iterator[bytes], header: bytes, key: bytes) -> Iterator[bytes]:
    cipher = AESGCM(key)
    for nonce, frame in _with_nonces(frames, header):
        try:
            yield cipher.decrypt(nonce, frame, header)
        except InvalidTag:
            raise Refused(DAMAGED) from None


def _with_nonces(
    frames: Iterator[bytes | bytearray], header: bytes
) -> Iterator[tuple[bytes, bytes | bytearray]]:
    """Each of *frames* behind its nonce; where there is none, one that is empty."""
    prefix = header[-_PREFIX_BYTES:]
    number, frame = 0, next(frames, b"")
    for following in frames:
        yield prefix + _NUMBER.pack(number, False), frame
        number, frame = number + 1, following
    yield prefix + _NUMBER.pack(number, True), frame


# Records.


def _encoded(records: Iterable[Record]) -> Iterator[bytes]:
    """Two parts a record: a body may be large, and is not copied here."""
    for one in records:
        pace = b"" if one.timing is None else one.timing
        model, *tokens = _NO_USAGE if one.usage is None else one.usage
        numbers = _RECORD.pack(
            one.key,
            one.status,
            one.initial_age,
            one.stored,
            one.expires,
            len(one.head),
            _NO_PACE if one.timing is None else len(pace),
            len(one.path),
            len(one.owner),
            len(model),
            len(one.body),
            *tokens,
        )
        name = model.encode("ascii")
        yield b"".join((numbers, one.head, pace, one.path, one.owner, name))
        yield one.body


def _decoded(text: _Text) -> Record:
    numbers = _RECORD.unpack(text.take(_RECORD.size))
    key, status, initial_age, stored, expires, head, pace, path, owner, model, body = numbers[:11]
    tokens = numbers[11:]
    return Record(
        key=key,
        status=status,
        initial_age=initial_age,
        stored=stored,
        expires=expires,
        # In the order of the file, which is the order in which arguments are evaluated.
        head=text.take(head),
        timing=None if pace == _NO_PACE else text.take(pace),
        path=text.take(path),
        owner=text.take(owner),
        usage=_usage(text.take(model), tokens),
        body=text.take(body),
    )


def _usage(model: bytes, tokens: tuple[int, ...]) -> Usage | None:
    return None if tokens == _NO_USAGE[1:] else Usage(model.decode("ascii", "replace"), *tokens)


class _Text:
    """What frames hold, as one text that is read from its beginning."""

    __slots__ = ("_at", "_frame", "_frames")

    def __init__(self, frames: Iterator[bytes]) -> None:
        self._frames = frames
        self._frame = b""
        self._at = 0

    def ended(self) -> bool:
        """Whether nothing is left; reads the next frame to know."""
        while self._at == len(self._frame):
            frame = next(self._frames, None)
            if frame is None:
                return True
            self._frame, self._at = frame, 0
        return False

    def take(self, count: int) -> bytes:
        """The next *count* bytes; no more memory than the file has bytes, whatever is asked for.

        :raises Refused: where there are not so many.
        """
        at, end = self._at, self._at + count
        if end <= len(self._frame):
            self._at = end
            return self._frame[at:end]
        parts = []
        while count:
            if self.ended():
                raise Refused(DAMAGED)
            part = self._frame[self._at : self._at + count]
            self._at += len(part)
            count -= len(part)
            parts.append(part)
        return b"".join(parts)
