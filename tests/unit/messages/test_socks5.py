"""The client side of SOCKS 5."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.messages.socks5 import (
    NO_ACCEPTABLE_METHOD,
    REPLIES,
    WRONG_CREDENTIALS,
    Socks5Handshake,
    SocksMalformed,
    SocksRefused,
)

CREDENTIALS = (b"user", b"p@ss")
NO_AUTH, PASSWORD, ACCEPTED = b"\5\0", b"\5\2", b"\1\0"
OPENED = b"\5\0\0\1\0\0\0\0\0\0"
OPENED_BY_IPV6 = b"\5\0\0\4" + bytes(18)
OPENED_BY_NAME = b"\5\0\0\3\4host\0\1"
REQUEST = b"\5\1\0\3\x0eapi.openai.com\1\xbb"


def handshake(credentials: tuple[bytes, bytes] | None = CREDENTIALS) -> Socks5Handshake:
    made = Socks5Handshake("api.openai.com", 443, credentials)
    made.request_bytes()
    return made


def outcome(pieces: list[bytes]) -> tuple[object, bytes]:
    """Return the result of receiving *pieces*, and what was sent."""
    made, sent, rest = handshake(), b"", None
    try:
        for index, piece in enumerate(pieces):
            rest = made.receive(piece)
            sent += made.data_to_send()
            if rest is not None:
                return rest + b"".join(pieces[index + 1 :]), sent
    except SocksRefused as refused:
        return refused.reply, b""
    except SocksMalformed as malformed:
        return str(malformed), b""
    return None, sent


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("api.openai.com", b"\3\x0eapi.openai.com"),
        ("192.0.2.7", b"\1\xc0\0\2\7"),
        ("2001:db8::7", b"\4\x20\1\x0d\xb8" + bytes(11) + b"\7"),
        ("my_service", b"\3\x0amy_service"),
    ],
)
def test_request_has_name_or_address(host: str, address: bytes) -> None:
    made = Socks5Handshake(host, 443)
    assert made.request_bytes() == b"\5\1\0"
    assert made.receive(NO_AUTH) is None
    assert made.data_to_send() == b"\5\1\0" + address + b"\1\xbb"
    assert made.data_to_send() == b""


def test_credentials_are_sent_if_the_server_asks() -> None:
    made = Socks5Handshake("api.openai.com", 443, CREDENTIALS)
    assert made.request_bytes() == b"\5\2\0\2"
    assert made.receive(PASSWORD) is None
    assert made.data_to_send() == b"\1\4user\4p@ss"
    assert made.receive(ACCEPTED) is None
    assert made.data_to_send() == REQUEST


@pytest.mark.parametrize("reply", [OPENED, OPENED_BY_IPV6, OPENED_BY_NAME])
def test_bytes_after_the_reply_belong_to_the_tunnel(reply: bytes) -> None:
    made = handshake()
    assert made.receive(NO_AUTH) is None
    assert made.receive(reply[:-1]) is None
    assert made.receive(reply[-1:] + b"tunnel") == b"tunnel"


@pytest.mark.parametrize(
    ("answers", "reply"),
    [
        (b"\5\xff", NO_ACCEPTABLE_METHOD),
        (PASSWORD + b"\1\1", WRONG_CREDENTIALS),
        *[(NO_AUTH + bytes((5, code)), code) for code in (*REPLIES, 9, 255)],
    ],
)
def test_refusal_is_read(answers: bytes, reply: int) -> None:
    assert outcome([answers]) == (reply, b"")
    refused = SocksRefused(reply)
    assert str(refused) == {
        NO_ACCEPTABLE_METHOD: "no acceptable method of authentication",
        WRONG_CREDENTIALS: "wrong user or password",
        **REPLIES,
    }.get(reply, f"reply {reply}")
    assert not (refused.would_recur and refused.concerns_address) or reply == 8


@pytest.mark.parametrize(
    "answers",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"SSH-2.0",
        b"\0\x5a",
        b"\4",
        b"\5\1",
        PASSWORD + b"\5",
        NO_AUTH + b"\4",
        NO_AUTH + b"\5\0\0\2\0",
        NO_AUTH + b"\5\0\0\0\0",
    ],
)
def test_other_protocol_is_malformed(answers: bytes) -> None:
    made = handshake()
    with pytest.raises(SocksMalformed):
        made.receive(answers)


def test_method_that_was_not_offered_is_malformed() -> None:
    with pytest.raises(SocksMalformed):
        handshake(None).receive(PASSWORD)


@given(
    answers=st.sampled_from(
        [
            NO_AUTH + OPENED + b"first",
            PASSWORD + ACCEPTED + OPENED_BY_NAME + b"first",
            PASSWORD + ACCEPTED + OPENED_BY_IPV6,
            PASSWORD + b"\1\1",
            NO_AUTH + b"\5\5\0\1",
            NO_AUTH + OPENED[:-1],
            b"HTTP/1.1 200 OK",
        ]
    )
    | st.binary(max_size=40).map(lambda data: NO_AUTH + data)
    | st.binary(max_size=20),
    cuts=st.lists(st.integers(1, 40), max_size=10),
)
def test_outcome_does_not_depend_on_the_reads(answers: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted({cut for cut in cuts if cut < len(answers)}), len(answers)]
    pieces = [answers[begin:end] for begin, end in pairwise(bounds)]
    assert outcome(pieces) == outcome([answers])
    assert outcome([answers[n : n + 1] for n in range(len(answers))]) == outcome([answers])


@pytest.mark.parametrize(
    ("host", "credentials"),
    [("a" * 256, None), ("", None), ("a", (b"u" * 256, b"")), ("a", (b"u", b"p" * 256))],
)
def test_part_that_is_too_long_is_an_error(
    host: str, credentials: tuple[bytes, bytes] | None
) -> None:
    with pytest.raises(ValueError, match="255 bytes"):
        Socks5Handshake(host, 1, credentials)
