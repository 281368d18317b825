"""The upload of a request body: its framing, and its end."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH

from goproxyai.http11.request_upload import RequestUpload


class RecordingConnection:
    """Records what an upload writes, and how it ends."""

    def __init__(self) -> None:
        self.data = b""
        self.endings: list[Failure | None] = []

    def send_body(self, data: bytes) -> None:
        self.data += data

    def upload_finished(self, failure: Failure | None) -> None:
        self.endings.append(failure)


class Body:
    """A body whose producer is the test."""

    def __init__(self, length: Any) -> None:
        self.length = length
        self.done: Deferred[None] = Deferred()
        self.stopped = 0

    def startProducing(self, consumer: object) -> Deferred[None]:
        return self.done

    def stopProducing(self) -> None:
        self.stopped += 1


def start_upload(length: Any) -> tuple[RequestUpload, RecordingConnection, Body]:
    connection, body = RecordingConnection(), Body(length)
    upload = RequestUpload(connection, body)  # type: ignore[arg-type]
    upload.start()
    return upload, connection, body


@pytest.mark.parametrize(
    ("length", "has_length", "line"),
    [
        (5, False, b"Content-Length: 5\r\n"),
        (5, True, b""),
        (UNKNOWN_LENGTH, False, b"Transfer-Encoding: chunked\r\n"),
    ],
)
def test_framing_line_follows_the_length(length: Any, has_length: bool, line: bytes) -> None:
    upload, _, _ = start_upload(length)
    assert upload.framing_line(has_length) == line


@pytest.mark.parametrize(
    ("length", "data"), [(4, b"body"), (UNKNOWN_LENGTH, b"4\r\nbody\r\n0\r\n\r\n")]
)
def test_complete_body_is_framed(length: Any, data: bytes) -> None:
    upload, connection, body = start_upload(length)
    upload.write(b"body")
    body.done.callback(None)
    assert (connection.data, connection.endings) == (data, [None])


def test_failed_producer_fails_the_upload() -> None:
    upload, connection, body = start_upload(UNKNOWN_LENGTH)
    failure = Failure(ValueError("planted"))
    body.done.errback(failure)
    upload.write(b"late")
    assert (connection.data, connection.endings) == (b"", [failure])


def test_cancelled_producer_ends_nothing() -> None:
    _, connection, body = start_upload(4)
    body.done.errback(CancelledError())
    assert connection.endings == []


def test_stopped_upload_writes_nothing_and_stops_the_producer_once() -> None:
    upload, connection, body = start_upload(UNKNOWN_LENGTH)
    upload.stop()
    upload.stop()
    upload.write(b"late")
    body.done.callback(None)
    assert (body.stopped, connection.data, connection.endings) == (1, b"", [])
