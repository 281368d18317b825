"""TLS records of one connection, made and read by OpenSSL through memory BIOs.

pyOpenSSL's methods raise an exception where no complete record is left, allocate a buffer for each
call, and ask OpenSSL for errors after each success. A request and its response cost 9.5 us by
these methods and 4.7 us by the functions of OpenSSL that they call. The functions are not public:
:data:`OPENSSL_NAMES` and :data:`CONNECTION_NAMES` are used here only. Where a release of pyOpenSSL
lacks one of them, :data:`MISSING` says so, and TLS stays Twisted's (:mod:`.tls_transport`).

OpenSSL keeps a memory BIO as large as it has ever been. A BIO is replaced by a new one after it was
larger than :data:`MAX_KEPT_BYTES`, so that an idle connection does not hold the memory of its
largest read.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from OpenSSL import SSL

from goproxyai.reactor.private_names import missing_names

_ffi: Any = getattr(SSL, "_ffi", None)
_lib: Any = getattr(SSL, "_lib", None)

OPENSSL_NAMES: Final = (
    "BIO_get_mem_data", "BIO_new", "BIO_read", "BIO_s_mem", "BIO_write", "SSL_get_error",
    "SSL_read", "SSL_session_reused", "SSL_set_bio", "SSL_write",
    "SSL_ERROR_WANT_READ", "SSL_ERROR_ZERO_RETURN",
)  # fmt: skip
"""Functions and constants of OpenSSL, as pyOpenSSL has them."""

CONNECTION_NAMES: Final = ("_ssl", "_into_ssl", "_from_ssl", "_raise_ssl_error")
"""Private attributes of pyOpenSSL's connections."""

MAX_KEPT_BYTES: Final = 8 * 1024
"""Size up to which the BIOs of an idle connection are kept."""

_HEADER_BYTES: Final = 5
"""Of a record: its type, the version, and the length of the rest (RFC 8446 §5.1)."""

_UNKNOWN: Final = 1 << 20
"""Overhead of records that differ in it, or whose start is not known; more than any record has."""

_BUFFER_BYTES: Final = 32 * 1024
"""Of the buffer that all connections share; more than the 18 KiB of the largest record."""


_PROBE: Final = SSL.Connection(SSL.Context(SSL.TLS_METHOD))

MISSING: Final = missing_names(_lib, *OPENSSL_NAMES) + missing_names(_PROBE, *CONNECTION_NAMES)
"""The names that this release of pyOpenSSL lacks."""

if not MISSING:
    _read, _write, _set_bio = _lib.SSL_read, _lib.SSL_write, _lib.SSL_set_bio
    _bio_read, _bio_write, _bio_size = _lib.BIO_read, _lib.BIO_write, _lib.BIO_get_mem_data
    _error = _lib.SSL_get_error
    _WANT_READ, _ZERO_RETURN = _lib.SSL_ERROR_WANT_READ, _lib.SSL_ERROR_ZERO_RETURN
    _NULL = _ffi.NULL
    _buffer = _ffi.new("char[]", _BUFFER_BYTES)
    _bytes = _ffi.buffer(_buffer)


class TLSRecords:
    """Turns plaintext into records, and records into plaintext.

    It holds at most one incomplete record of the peer (16 KiB) between two calls.

    Most reads are of whole records of data, which their sizes tell. After such a read, OpenSSL
    holds nothing and has nothing to send: two of four calls of OpenSSL are omitted for one record,
    and the headers of several are not read here.

    :param connection: with memory BIOs, whose handshake has not begun.
    :ivar ended: the peer has sent ``close_notify``: it sends nothing more.
    :ivar error: why the records of the peer cannot be read; ``None`` while they can.
    :ivar has_message: the last :meth:`decrypt` was of records other than data and the end, such as
        a ticket.
    :ivar is_whole: the last :meth:`decrypt` was of whole records of data, and of nothing else.
    """

    __slots__ = (
        "_begun", "_incoming", "_missing", "_outgoing", "_overhead", "_ssl", "_whole_overhead",
        "connection", "ended", "error", "has_message", "is_whole",
    )  # fmt: skip

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.ended = False
        self.error: SSL.Error | None = None
        self.is_whole = self.has_message = False
        self._begun = b""  # the first bytes of a header
        self._missing = 0  # bytes of a record whose header was read
        self._overhead = _UNKNOWN  # of each record
        self._whole_overhead = _UNKNOWN  # of each record, if the next read begins with a record
        self._ssl = connection._ssl
        self._incoming = connection._into_ssl
        self._outgoing = connection._from_ssl

    # The handshake, and the end.

    def handshake(self, records: bytes) -> bool:
        """Take *records* of the peer; return whether the handshake is complete.

        What follows the handshake in *records* is returned by the next :meth:`decrypt`.

        :raises SSL.Error: the handshake has failed. :meth:`output` has the alert for the peer.
        """
        if records:
            self._follow(records)
            _bio_write(self._incoming, records, len(records))
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return False
        self._overhead = _overhead(self.connection)
        return True

    @property
    def is_resumed(self) -> bool:
        """Whether the handshake has resumed a session."""
        return bool(_lib.SSL_session_reused(self._ssl))

    def release_handshake(self) -> None:
        """Release what the messages of the handshake took, after they are sent."""
        if not _bio_size(self._incoming, _NULL):
            self._renew_incoming()
        if not _bio_size(self._outgoing, _NULL):
            self._renew_outgoing()

    def close(self) -> bool:
        """Make a ``close_notify``; return whether the peer has sent one too."""
        with suppress(SSL.Error):  # the connection has failed before
            return bool(self.connection.shutdown())
        return False

    # Records.

    def encrypt(self, data: bytes) -> bytes:
        """Return the records of *data*, which is not empty, after what was not sent before.

        :raises SSL.Error: OpenSSL does not take *data*.
        """
        size = len(data)
        written = _write(self._ssl, data, size)
        if written == size and size <= MAX_KEPT_BYTES:
            return self.output()
        records = []
        with _ffi.from_buffer(data) as start:
            done = 0
            while written > 0:  # one record for each call
                records.append(self.output())
                done += written
                if done == size:
                    self._renew_outgoing()
                    return b"".join(records)
                written = _write(self._ssl, start + done, size - done)
        raise self._problem(written)

    def decrypt(self, records: bytes) -> bytes:
        """Return the plaintext of the records that are complete with *records*.

        Sets :attr:`ended` or :attr:`error`, which concern what follows the returned plaintext.
        """
        length = len(records)
        if length:
            _bio_write(self._incoming, records, length)
        size = _read(self._ssl, _buffer, _BUFFER_BYTES)
        if size > 0 and size + self._whole_overhead == length:
            self.is_whole = True
            plaintext: bytes = _bytes[:size]
        else:
            plaintext = self._decrypt_all(size, records)
        if length > MAX_KEPT_BYTES and self.is_whole:
            self._renew_incoming()
        return plaintext

    def _follow(self, records: bytes) -> int:
        """Find out how much of a record is incomplete after *records*.

        :returns: how many records are complete with *records*.
        """
        data = self._begun + records
        size, end = len(data), self._missing
        complete = 1 if 0 < end <= size else 0
        while end + _HEADER_BYTES <= size:
            end += _HEADER_BYTES + (data[end + 3] << 8 | data[end + 4])
            complete += end <= size
        self._begun = data[end:]
        self._missing = max(0, end - size)
        self._whole_overhead = _UNKNOWN if self._begun or self._missing else self._overhead
        return complete

    def _decrypt_all(self, size: int, records: bytes) -> bytes:
        """Read until no complete record is left.

        :param size: what OpenSSL's first read has returned; the plaintext is in the buffer.
        :param records: the added bytes.
        """
        found, left, overhead = [], len(records), self._whole_overhead
        while size > 0:
            found.append(_bytes[:size])
            left -= size + overhead
            if not left:
                break
            size = _read(self._ssl, _buffer, _BUFFER_BYTES)
        self.is_whole = size > 0
        if not self.is_whole:
            self._take_other_records(size, len(found), records)
        return b"".join(found)

    def _take_other_records(self, result: int, found: int, records: bytes) -> None:
        """Find out what *records* are besides records of data, and why OpenSSL reads no more.

        :param result: of OpenSSL's last read.
        :param found: records of data.
        """
        complete = self._follow(records)
        reason = _error(self._ssl, result)
        alerts = reason != _WANT_READ  # the last record is an alert, or invalid
        self.has_message = complete > found + alerts
        if reason == _ZERO_RETURN:
            self.ended = True
        elif reason != _WANT_READ:
            self.error = self._problem(result)
        elif len(records) > MAX_KEPT_BYTES:
            self._renew_incoming()

    @property
    def has_output(self) -> bool:
        """Whether :meth:`output` has something to send."""
        return bool(_bio_size(self._outgoing, _NULL))

    def output(self) -> bytes:
        """Return the records that are to be sent."""
        size = _bio_read(self._outgoing, _buffer, _BUFFER_BYTES)
        if size < _BUFFER_BYTES:
            records: bytes = _bytes[:size] if size > 0 else b""
            return records
        found = []
        while size > 0:
            found.append(_bytes[:size])
            size = _bio_read(self._outgoing, _buffer, _BUFFER_BYTES)
        return b"".join(found)

    def _problem(self, result: int) -> SSL.Error:
        """Return OpenSSL's error after a call with *result*."""
        error = SSL.Error([("SSL routines", "", f"unexpected result {result}")])
        try:
            self.connection._raise_ssl_error(self._ssl, result)
        except SSL.Error as raised:
            error = raised.with_traceback(None)  # its frames refer to this object
        return error

    # The BIOs, which OpenSSL frees. They are replaced while they are empty.

    def _renew_incoming(self) -> None:
        self._incoming = self.connection._into_ssl = _lib.BIO_new(_lib.BIO_s_mem())
        _set_bio(self._ssl, self._incoming, self._outgoing)

    def _renew_outgoing(self) -> None:
        self._outgoing = self.connection._from_ssl = _lib.BIO_new(_lib.BIO_s_mem())
        _set_bio(self._ssl, self._incoming, self._outgoing)


def _overhead(connection: Any) -> int:
    """Return the bytes that each record of data has besides its plaintext and padding.

    They are the header, the tag, and the content type of TLS 1.3 or the nonce of TLS 1.2.
    """
    cipher = connection.get_cipher_name() or ""
    if "CCM" in cipher:
        return _UNKNOWN
    if cipher.startswith("TLS_"):  # of TLS 1.3
        return _HEADER_BYTES + 1 + 16
    if "GCM" in cipher:
        return _HEADER_BYTES + 8 + 16
    return _HEADER_BYTES + 16 if "CHACHA20" in cipher else _UNKNOWN
