"""The parser of responses, alone: its limits, and how it delimits bodies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.web.iweb import UNKNOWN_LENGTH

from goproxyai.http11.connection_states import ResponseInputState
from goproxyai.http11.errors import ProtocolViolation
from goproxyai.http11.framing import MAX_HEADER_BYTES, MAX_HEADER_FIELDS
from goproxyai.http11.response_parser import (
    MAX_INTERIM_RESPONSES,
    MAX_REASON_BYTES,
    ResponseParser,
)
from goproxyai.messages.headers import Headers

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class RecordingConnection:
    """Records the interim responses."""

    def __init__(self) -> None:
        self.interim: list[tuple[int, bytes, Headers]] = []

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        self.interim.append((status, reason, headers))

    def pause_reading(self) -> None:
        raise NotImplementedError

    resume_reading = abort = pause_reading


def parse(*reads: bytes, method: bytes = b"GET") -> ResponseParser:
    parser = ResponseParser(RecordingConnection())
    parser.start(method)
    for data in reads:
        parser.feed(data)
    return parser


@pytest.mark.parametrize(
    ("method", "head", "state", "length"),
    [
        (b"GET", OK + b"Content-Length: 5\r\n\r\n", ResponseInputState.BODY, 5),
        (b"GET", CHUNKED, ResponseInputState.BODY, UNKNOWN_LENGTH),
        (b"GET", OK + b"\r\n", ResponseInputState.UNTIL_CLOSE, UNKNOWN_LENGTH),
        (b"GET", OK + b"Content-Length: 0\r\n\r\n", ResponseInputState.COMPLETE, 0),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", ResponseInputState.COMPLETE, 0),
        (
            b"GET",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            ResponseInputState.COMPLETE,
            0,
        ),
        (b"HEAD", OK + b"Content-Length: 5\r\n\r\n", ResponseInputState.COMPLETE, 5),
        (b"HEAD", OK + b"\r\n", ResponseInputState.COMPLETE, UNKNOWN_LENGTH),
    ],
)
def test_body_is_delimited_by_method_status_and_fields(
    method: bytes, head: bytes, state: ResponseInputState, length: object
) -> None:
    parser = parse(head, method=method)
    assert parser.state is state
    assert parser.response is not None
    assert parser.response.length == length


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_response_is_the_same_however_it_is_split(step: int) -> None:
    data = CHUNKED + b"2\r\nok\r\n3\r\nand\r\n0\r\nX-Trailer: a\r\n\r\n"
    parser, body = parse(), b""
    for start in range(0, len(data), step):
        parser.feed(data[start : start + step])
        body += parser.take_body()
    assert (parser.state, body) == (ResponseInputState.COMPLETE, b"okand")
    assert parser.response is not None
    assert parser.response.raw_headers == [(b"Transfer-Encoding", b"chunked")]
    assert parser.keep_alive


def test_parser_is_used_for_the_next_response() -> None:
    parser = parse(OK + b"Content-Length: 2\r\n\r\nok")
    assert parser.take_body() == b"ok"
    parser.start(b"GET")
    assert (parser.response, parser.read_bytes) == (None, 0)
    parser.feed(OK + b"Content-Length: 3\r\n\r\nyes")
    assert parser.take_body() == b"yes"


@pytest.mark.parametrize(
    "head",
    [
        OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_response_that_closes_does_not_keep_the_connection(head: bytes) -> None:
    assert not parse(head).keep_alive


def test_response_to_head_does_not_keep_the_connection() -> None:
    assert not parse(OK + b"Content-Length: 0\r\n\r\n", method=b"HEAD").keep_alive


@pytest.mark.parametrize("surplus", [b"x", OK, b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_bytes_after_the_response_do_not_keep_the_connection(surplus: bytes) -> None:
    parser = parse(OK + b"Content-Length: 2\r\n\r\nok" + surplus)
    assert parser.take_body() == b"ok"
    assert not parser.keep_alive


def test_interim_responses_are_reported_except_100() -> None:
    connection = RecordingConnection()
    parser = ResponseParser(connection)
    parser.start(b"GET")
    parser.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    parser.feed(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    assert connection.interim == [(103, b"Early Hints", [(b"Link", b"</a>")])]
    assert (parser.state, parser.response) == (ResponseInputState.HEAD, None)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 099 X\r\n\r\n",
        b"HTTP/1.1 000 X\r\n\r\n",
        b"HTTP/1.1 600 X\r\n\r\n",
        b"HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 O\x7fK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 " + b"a" * (MAX_REASON_BYTES + 1),
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * (MAX_INTERIM_RESPONSES + 1),
        OK + b"X-A: a\r\n" * (MAX_HEADER_FIELDS + 1) + b"\r\n",
        OK + b"X-A: %b\r\n\r\n" % (b"a" * MAX_HEADER_BYTES),
        OK + b"Transfer-Encoding: gzip\r\n\r\n",
    ],
    ids=[
        "status below 100", "status 0", "status over 599", "control character in the reason",
        "DEL in the reason", "long reason", "101", "too many interim responses", "too many fields",
        "header over 64 KiB", "unsupported coding",
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [1000, 1 << 20])
def test_invalid_head_is_a_violation(data: bytes, step: int) -> None:
    reads = [data[start : start + step] for start in range(0, len(data), step)]
    with pytest.raises(ProtocolViolation):
        parse(*reads)


@pytest.mark.parametrize(
    ("start", "repeated"),
    [
        (OK + b"X-A: ", b"a" * 1000),
        (CHUNKED + b"1;", b"a" * 1000),
        (CHUNKED + b"0\r\n", b"X-A: b\r\n" * 100),
    ],
    ids=["field", "chunk extension", "trailers"],
)
def test_endless_head_or_framing_is_a_violation(start: bytes, repeated: bytes) -> None:
    reads = [repeated] * (3 * MAX_HEADER_BYTES // len(repeated))
    with pytest.raises(ProtocolViolation):
        parse(start, *reads)


def test_body_of_a_response_to_head_is_a_violation_only_for_the_connection() -> None:
    for framing in (
        b"Content-Length: 4\r\n\r\nevil",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\nevil",
    ):
        parser = parse(OK + framing, method=b"HEAD")
        assert parser.state is ResponseInputState.COMPLETE
        assert parser.take_body() == b""
        assert not parser.keep_alive


@given(
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5),
    st.sampled_from([b"", b";x=1", b';x="a;b"']),
    st.sampled_from([b"", b"X-Trailer: t\r\n"]),
    st.integers(1, 60),
)
def test_chunked_body_is_the_same_in_reads_of_any_size(
    chunks: list[bytes], extension: bytes, trailer: bytes, size: int
) -> None:
    framed = [b"%x%b\r\n%b\r\n" % (len(each), extension, each) for each in chunks]
    message = CHUNKED + b"".join(framed) + b"0\r\n" + trailer + b"\r\n"
    parser, body = parse(), b""
    for at in range(0, len(message), size):
        parser.feed(message[at : at + size])
        body += parser.take_body()
    assert body == b"".join(chunks)
    assert parser.state is ResponseInputState.COMPLETE
    assert parser.keep_alive


def test_parser_keeps_no_body_for_the_next_response() -> None:
    parser = parse(OK + b"Content-Length: 4\r\n\r\nbody")
    parser.start(b"GET")
    parser.feed(OK + b"Content-Length: 0\r\n\r\n")
    assert parser.take_body() == b""
