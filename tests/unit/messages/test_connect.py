"""The client side of CONNECT."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from goproxyai.messages.connect import MAX_CONNECT_RESPONSE_BYTES, ConnectParser
from goproxyai.messages.connect_errors import (
    ConnectMalformed,
    ConnectRefused,
    unsupported_schemes,
)

AUTHORITY = b"api.openai.com:443"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def connecting() -> ConnectParser:
    tunnel = ConnectParser(AUTHORITY, [])
    tunnel.request_bytes()
    return tunnel


def outcome(pieces: list[bytes]) -> tuple[object, ...]:
    """Return the outcome, with all bytes of an open tunnel."""
    tunnel = connecting()
    for number, piece in enumerate(pieces):
        try:
            rest = tunnel.receive(piece)
        except ConnectRefused as refused:
            return ("refused", refused.status, refused.reason)
        except ConnectMalformed:
            return ("broken",)
        if rest is not None:
            return ("open", rest + b"".join(pieces[number + 1 :]))
    return ("waiting",)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


def test_request_has_authority_and_credentials() -> None:
    tunnel = ConnectParser(b"[2001:db8::1]:443", [(b"Proxy-Authorization", b"Basic dTpw")])
    assert tunnel.request_bytes() == (
        b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n"
        b"Host: [2001:db8::1]:443\r\n"
        b"Proxy-Authorization: Basic dTpw\r\n\r\n"
    )


@pytest.mark.parametrize(
    "answer",
    [
        ESTABLISHED,
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nVia: 1.1 proxy\r\n\r\n",
        b"HTTP/1.1 299 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\n\r\n" + ESTABLISHED,
    ],
)
def test_2xx_opens_the_tunnel(answer: bytes) -> None:
    assert connecting().receive(answer) == b""
    assert connecting().receive(answer + b"\x16\x03\x01 hello") == b"\x16\x03\x01 hello"


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n"
            b"Proxy-Authenticate: Basic\r\nContent-Length: 3\r\n\r\nno!",
            407,
            b"Proxy Authentication Required",
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n", 302, b"Found"),
        (b"HTTP/1.1 502\r\n\r\n", 502, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 No\r\n\r\n", 403, b"No"),
    ],
)
def test_other_status_is_refused(answer: bytes, status: int, reason: bytes) -> None:
    with pytest.raises(ConnectRefused) as caught:
        connecting().receive(answer)
    assert (caught.value.status, caught.value.reason) == (status, reason)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"SSH-2.0-OpenSSH_9.0\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad : space\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/0.9 200 OK\r\n\r\n",
    ],
)
def test_invalid_response_is_malformed(answer: bytes) -> None:
    with pytest.raises(ConnectMalformed):
        connecting().receive(answer)


def test_empty_read_is_ignored() -> None:
    tunnel = connecting()
    assert tunnel.receive(b"") is None
    assert tunnel.receive(ESTABLISHED) == b""


def padded(length: int) -> bytes:
    """Return a 2xx response whose header has *length* bytes."""
    start, end = b"HTTP/1.1 200 OK\r\nX-Pad: ", b"\r\n\r\n"
    return start + b"x" * (length - len(start) - len(end)) + end


@pytest.mark.parametrize("size", [1, 7, 4096, MAX_CONNECT_RESPONSE_BYTES, 10**6])
def test_response_header_is_limited_to_16_kib(size: int) -> None:
    def in_reads(data: bytes) -> list[bytes]:
        return [data[at : at + size] for at in range(0, len(data), size)]

    assert outcome(in_reads(padded(MAX_CONNECT_RESPONSE_BYTES) + b"rest")) == ("open", b"rest")
    assert outcome(in_reads(padded(MAX_CONNECT_RESPONSE_BYTES + 1) + b"rest")) == ("broken",)


def test_endless_interim_responses_are_malformed() -> None:
    assert outcome([b"HTTP/1.1 100 Continue\r\n\r\n"] * 10_000) == ("broken",)


ANSWERS = st.sampled_from(
    [
        ESTABLISHED,
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + ESTABLISHED,
        b"HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 O",
    ]
)


@given(ANSWERS, st.binary(max_size=40), st.lists(st.integers(0, 200), max_size=12))
@example(ESTABLISHED, b"HTTP/1.1 500 Trap\r\n\r\n", [5, 20, 39])
def test_outcome_does_not_depend_on_reads(answer: bytes, rest: bytes, places: list[int]) -> None:
    whole = answer + rest if answer.endswith(b"\r\n\r\n") else answer
    expected = outcome([whole])
    assert outcome(cut(whole, places)) == expected
    assert outcome([bytes([byte]) for byte in whole]) == expected


@given(st.binary(max_size=300))
def test_any_bytes_have_an_outcome(data: bytes) -> None:
    assert outcome([data])[0] in {"open", "refused", "broken", "waiting"}


@pytest.mark.parametrize(
    ("challenges", "schemes"),
    [
        ([b"NTLM"], ("NTLM",)),
        ([b"Negotiate", b"NTLM"], ("NTLM", "Negotiate")),
        ([b"negotiate, NTLM TlRMTVNTUAAB"], ("NTLM", "Negotiate")),
        ([b'Digest realm="a, Basic", qop="auth", nonce="x\\" Basic"'], ("Digest",)),
        ([b"Kerberos", b'Basic realm="x"'], ()),
        ([b'basic realm="x", NTLM'], ()),
        ([b"NTLM", b"Digest realm=x, BASIC"], ()),
        ([b"Unheard-Of"], ()),
        ([b""], ()),
        ([], ()),
    ],
)
def test_schemes_of_a_challenge_without_basic(
    challenges: list[bytes], schemes: tuple[str, ...]
) -> None:
    assert unsupported_schemes(challenges) == schemes


def test_refusal_names_the_schemes_of_a_407() -> None:
    for status, schemes in ((407, ("NTLM",)), (403, ())):
        answer = b"HTTP/1.1 %d No\r\nProxy-Authenticate: NTLM\r\n\r\n" % status
        with pytest.raises(ConnectRefused) as refused:
            connecting().receive(answer)
        assert refused.value.schemes == schemes
        assert ("supports only Basic" in str(refused.value)) is (status == 407)
