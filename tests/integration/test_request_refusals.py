"""What is refused at the door: how, with which words, and that upstream never hears of it."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import pytest_twisted
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from goproxyai.http11.exchange import Exchange
from goproxyai.http11.server_factory import ServerFactory
from goproxyai.reactor.deadlines import Ticker
from tests.support.harness import Answer, ProxyHarness, RawClient, request
from tests.support.steps import Pause

SMALL = "0.01"
"""``MAX_BODY_SIZE`` in megabytes, so that a body of 11,000 bytes is too large."""

TOO_MANY = b"x" * 11_000


def head(
    *lines: bytes, line: bytes = b"GET /v1/models HTTP/1.1", host: bytes | None = b"a"
) -> bytes:
    """A request's head: its line, a Host unless told otherwise, further lines."""
    hosts = [] if host is None else [b"Host: " + host]
    return b"\r\n".join([line, *hosts, *lines, b"", b""])


def upload(*lines: bytes, version: bytes = b"1.1", body: bytes = b"") -> bytes:
    """A POST that is streamed, with the header lines that frame it."""
    return head(*lines, line=b"POST /v1/files HTTP/" + version) + body


def assert_is_our_refusal(answer: Answer, status: int, code: str) -> None:
    """The contract's error shape, on a connection that ends."""
    assert (answer.status, answer.cut) == (status, False)
    assert answer.get("Content-Type") == b"application/json"
    assert answer.all("Connection") == [b"close"]
    document = json.loads(answer.body)
    assert list(document) == ["error"]
    assert set(document["error"]) == {"message", "type", "code"}
    assert document["error"]["type"] == "proxy_error"
    assert document["error"]["code"] == code
    assert document["error"]["message"].endswith(".")


async def refused(harness: ProxyHarness, raw: bytes, status: int, code: str) -> RawClient:
    """Send *raw*; it is refused, the connection ends, and upstream was not contacted."""
    wire = await harness.connect()
    wire.send(raw)
    assert_is_our_refusal(await wire.answer(), status, code)
    await wire.wait_closed()
    assert wire.received == b""
    assert harness.upstream.connections_made == 0
    return wire


CHUNKED = b"Transfer-Encoding: chunked"
CHUNK = b"5\r\nhello\r\n0\r\n\r\n"

MALFORMED = {
    "no Host": head(host=None),
    "no Host in HTTP/1.0": head(line=b"GET /v1/models HTTP/1.0", host=None),
    "two Hosts": head(b"Host: b"),
    "two Hosts that agree": head(b"host: a"),
    "an empty Host": head(host=b""),
    "garbage in Host": head(host=b"a b"),
    "a user in Host": head(host=b"user@a"),
    "Content-Length and Transfer-Encoding": upload(b"Content-Length: 5", CHUNKED, body=CHUNK),
    "Transfer-Encoding and Content-Length": upload(CHUNKED, b"Content-Length: 5", body=CHUNK),
    "two Content-Lengths": upload(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    "Content-Lengths that differ": upload(b"Content-Length: 5", b"Content-Length: 6"),
    "a list in Content-Length": upload(b"Content-Length: 5, 5", body=b"hello"),
    "a negative Content-Length": upload(b"Content-Length: -5"),
    "a signed Content-Length": upload(b"Content-Length: +5", body=b"hello"),
    "a hexadecimal Content-Length": upload(b"Content-Length: 0x5", body=b"hello"),
    "an empty Content-Length": upload(b"Content-Length:"),
    "a Content-Length of 5000 digits": upload(b"Content-Length: " + b"9" * 5000),
    "gzip, chunked": upload(b"Transfer-Encoding: gzip, chunked", body=CHUNK),
    "chunked, gzip": upload(b"Transfer-Encoding: chunked, gzip", body=CHUNK),
    "chunked twice": upload(CHUNKED, CHUNKED, body=CHUNK),
    "chunked and identity": upload(CHUNKED, b"Transfer-Encoding: identity", body=CHUNK),
    "identity": upload(b"Transfer-Encoding: identity", body=b"hello"),
    "an unknown coding": upload(b"Transfer-Encoding: xchunked", body=CHUNK),
    "chunked with a parameter": upload(b"Transfer-Encoding: chunked;q=1", body=CHUNK),
    "an empty Transfer-Encoding": upload(b"Transfer-Encoding:"),
    "chunked in HTTP/1.0": upload(CHUNKED, version=b"1.0", body=CHUNK),
    "a folded line": head(b"X-A: b", b" c"),
    "a folded first line": head(host=None).replace(b"\r\n\r\n", b"\r\n Host: a\r\n\r\n"),
    "bare line feeds": head().replace(b"\r\n", b"\n"),
    "a bare line feed behind a field": head(b"X-A: b\nX-B: c"),
    "a bare carriage return in a field": head(b"X-A: b\rX-B: c"),
    "a NUL in a field": head(b"X-A: b\x00c"),
    "a NUL in a name": head(b"X-\x00A: b"),
    "a space before the colon": head(b"X-A : b"),
    "a name without a colon": head(b"X-A"),
    "a field without a name": head(b": b"),
    "a space in the target": head(line=b"GET /v1/mo dels HTTP/1.1"),
    "a target that starts with @": head(line=b"GET @v1/models HTTP/1.1"),
    "a target that starts with a letter": head(line=b"GET Xv1/models HTTP/1.1"),
    "an asterisk": head(line=b"OPTIONS * HTTP/1.1"),
    "a byte over 0x7f in the target": head(line=b"GET /v1/mod\xe8les HTTP/1.1"),
    "UTF-8 in the target": head(line="GET /v1/modèles HTTP/1.1".encode()),
    "DEL in the target": head(line=b"GET /v1/mod\x7fels HTTP/1.1"),
    "a tab in the target": head(line=b"GET /v1/mod\tels HTTP/1.1"),
    "a dot segment": head(line=b"GET /v1/../stats HTTP/1.1"),
    "a single dot": head(line=b"GET /v1/./models HTTP/1.1"),
    "an encoded dot segment": head(line=b"GET /v1/%2e%2E/stats HTTP/1.1"),
    "a dot segment behind an encoded slash": head(line=b"GET /v1/a%2f..%2fb HTTP/1.1"),
    "a fragment": head(line=b"GET /v1/models#x HTTP/1.1"),
    "a URL of another authority": head(line=b"GET http://b/v1/models HTTP/1.1"),
    "a URL with a user": head(line=b"GET http://user@a/v1/models HTTP/1.1"),
    "a URL of another scheme": head(line=b"GET ftp://a/v1/models HTTP/1.1"),
    "CONNECT": head(line=b"CONNECT api.openai.com:443 HTTP/1.1", host=b"api.openai.com:443"),
    "CONNECT to ourselves": head(line=b"CONNECT a:80 HTTP/1.1", host=b"a:80"),
    "an unknown method": head(line=b"BREW /v1/models HTTP/1.1"),
    "a method in lower case": head(line=b"get /v1/models HTTP/1.1"),
    "HTTP/2.0": head(line=b"GET /v1/models HTTP/2.0"),
    "HTTP/1.2": head(line=b"GET /v1/models HTTP/1.2"),
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTPS/1.1": head(line=b"GET /v1/models HTTPS/1.1"),
    "no version": head(line=b"GET /v1/models "),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 9,
    "a TLS hello": bytes.fromhex("16030100a5010000a10303") + b"\x00" * 32,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "an unknown expectation": upload(b"Expect: 200-ok", b"Content-Length: 5"),
    "two expectations": upload(b"Expect: 100-continue, x", b"Content-Length: 5"),
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
@pytest_twisted.ensureDeferred
async def test_what_is_malformed_is_answered_with_400(harness: ProxyHarness, raw: bytes) -> None:
    await harness.start()
    await refused(harness, raw, 400, "bad_request")


@pytest_twisted.ensureDeferred
async def test_what_was_refused_is_logged(harness: ProxyHarness) -> None:
    await harness.start()
    await refused(harness, head(host=None), 400, "bad_request")
    (event,) = await harness.logged()
    assert (event["status"], event["code"]) == (400, "bad_request")


# Sizes.

LONG_TARGET = head(line=b"GET /v1/" + b"a" * 17_000 + b" HTTP/1.1")


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (LONG_TARGET, 414, "target_too_long"),
        (LONG_TARGET[:16_800], 414, "target_too_long"),
        (head(b"X-A: " + b"a" * 66_000), 431, "headers_too_large"),
        (head(*[b"X-%d: %b" % (i, b"a" * 1000) for i in range(70)]), 431, "headers_too_large"),
        (head(*[b"X-%d: a" % i for i in range(200)]), 431, "headers_too_large"),
        (head(b"X-A: " + b"a" * 500_000)[:-4], 431, "headers_too_large"),
        (head(b"X-" + b"a" * 500_000)[:-4], 431, "headers_too_large"),
    ],
    ids=[
        "a target over 16 KiB",
        "a target over 16 KiB that has not ended",
        "one field over 64 KiB",
        "many fields over 64 KiB",
        "201 fields",
        "an endless value",
        "an endless name",
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_too_large_is_refused(
    harness: ProxyHarness, raw: bytes, status: int, code: str
) -> None:
    await harness.start()
    await refused(harness, raw, status, code)


@pytest_twisted.ensureDeferred
async def test_what_is_just_not_too_large_is_served(harness: ProxyHarness) -> None:
    await harness.start()
    key = b"Authorization: Bearer sk-good"
    for raw in (
        head(key, *[b"X-%d: a" % i for i in range(198)]),
        head(key, b"X-A: " + b"a" * 65_000),
        head(key, line=b"GET /v1/models?" + b"a" * 16_300 + b" HTTP/1.1"),
    ):
        assert (await harness.ask(raw)).status == 200


@pytest_twisted.ensureDeferred
async def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(
    harness: ProxyHarness,
) -> None:
    await harness.start(MAX_BODY_SIZE=SMALL)
    await refused(harness, upload(b"Content-Length: 11000"), 413, "request_too_large")
    await refused(harness, upload(b"Content-Length: 9999999999999"), 413, "request_too_large")


@pytest_twisted.ensureDeferred
async def test_a_client_that_sends_too_much_all_the_same_gets_its_answer(
    harness: ProxyHarness,
) -> None:
    await harness.start(MAX_BODY_SIZE=SMALL)
    body = b"x" * 3_000_000
    raw = upload(b"Content-Length: %d" % len(body), body=body)
    await refused(harness, raw, 413, "request_too_large")


@pytest_twisted.ensureDeferred
async def test_a_client_that_waits_for_100_is_not_told_to_send_what_is_too_large(
    harness: ProxyHarness,
) -> None:
    await harness.start(MAX_BODY_SIZE=SMALL)
    raw = upload(b"Expect: 100-continue", b"Content-Length: 11000")
    await refused(harness, raw, 413, "request_too_large")


@pytest_twisted.ensureDeferred
async def test_a_body_that_was_too_large_is_never_taken_for_a_request(
    harness: ProxyHarness,
) -> None:
    await harness.start(MAX_BODY_SIZE=SMALL)
    smuggled = head() + TOO_MANY
    length = b"Content-Length: %d" % len(smuggled)
    await refused(harness, upload(length) + smuggled, 413, "request_too_large")
    upgrade = upload(length, b"Connection: Upgrade", b"Upgrade: h2c")
    await refused(harness, upgrade + smuggled, 413, "request_too_large")


@pytest.mark.parametrize("path", [b"/v1/files", b"/v1/chat/completions"])
@pytest_twisted.ensureDeferred
async def test_a_chunked_body_that_grows_too_large_is_refused(
    harness: ProxyHarness, path: bytes
) -> None:
    await harness.start(MAX_BODY_SIZE=SMALL)
    wire = await harness.connect()
    wire.send(head(CHUNKED, line=b"POST " + path + b" HTTP/1.1"))
    wire.send(b"2af8\r\n" + TOO_MANY + b"\r\n")
    assert_is_our_refusal(await wire.answer(), 413, "request_too_large")
    await wire.wait_closed()
    await harness.upstream.wait_closed()
    assert not [one for one in harness.upstream.requests if one.complete]


@pytest_twisted.ensureDeferred
async def test_a_body_of_exactly_the_limit_is_served(harness: ProxyHarness) -> None:
    await harness.start(MAX_BODY_SIZE="0.005")
    assert harness.daemon is not None
    most = harness.daemon.listeners.factory.max_body_bytes
    harness.upstream.script("/v1/files", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    body = b"x" * most
    for raw in (
        upload(b"Content-Length: %d" % most, body=body),
        upload(CHUNKED, body=b"%x\r\n%b\r\n0\r\n\r\n" % (most, body)),
    ):
        assert (await harness.ask(raw)).status == 200
    assert [one.body_length for one in harness.upstream.requests] == [most, most]


# Bodies that go wrong.


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX A: b\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX-A: b\r\n c\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX-A: b\x00\r\n\r\n",
    ],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["with the head", "after the head"])
@pytest_twisted.ensureDeferred
async def test_upstream_never_sees_a_malformed_chunked_body_as_complete(
    harness: ProxyHarness, body: bytes, at_once: bool
) -> None:
    await harness.start()
    wire = await harness.connect()
    raw = upload(CHUNKED, b"Authorization: Bearer sk-good")
    if at_once:
        wire.send(raw + body)
    else:
        wire.send(raw)
        await harness.upstream.wait_for(lambda one: True)
        wire.send(body)
    assert_is_our_refusal(await wire.answer(), 400, "bad_request")
    await wire.wait_closed()
    assert wire.received == b""
    await harness.upstream.wait_closed()
    assert not [one for one in harness.upstream.requests if one.complete]
    assert harness.upstream.malformed == []


# What is not refused, and what is nobody's.


@pytest_twisted.ensureDeferred
async def test_an_absolute_form_that_names_the_host_goes_upstream_in_origin_form(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    answer = await harness.ask(request("http://Proxy.test/v1/models?a=%2f"))
    assert answer.status == 200
    assert harness.upstream.requests[0].target == b"/v1/models?a=%2f"
    host = b"127.0.0.1:%d" % harness.upstream_port
    assert harness.upstream.requests[0].all(b"host") == [host]


@pytest.mark.parametrize(
    "target",
    ["/v1", "//v1/models", "/v1%2fmodels", "/v1%2Fmodels", "/%761/models", "/V1/models", "/v1x/a"],
)
@pytest_twisted.ensureDeferred
async def test_what_only_resembles_the_api_is_404(harness: ProxyHarness, target: str) -> None:
    await harness.start()
    answer = await harness.ask(request(target))
    assert answer.status == 404
    assert json.loads(answer.body)["error"]["code"] == "not_found"
    assert answer.get("Content-Type") == b"application/json"
    assert harness.upstream.connections_made == 0


@pytest.mark.parametrize("method", ["PROPFIND", "TRACE", "MKCOL", "PURGE", "CONNECT"])
@pytest_twisted.ensureDeferred
async def test_a_method_that_is_not_relayed_is_405_with_allow(
    harness: ProxyHarness, method: str
) -> None:
    await harness.start()
    answer = await harness.ask(request(method=method))
    assert answer.status == 405
    document = json.loads(answer.body)["error"]
    assert (document["type"], document["code"]) == ("proxy_error", "method_not_allowed")
    allowed = (answer.get("Allow") or b"").split(b", ")
    assert set(allowed) == {
        b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS",
    }  # fmt: skip
    assert harness.upstream.connections_made == 0


# Order.


@pytest.mark.parametrize("bad", ["no Host", "a folded line", "HTTP/2.0", "a TLS hello", "CONNECT"])
@pytest_twisted.ensureDeferred
async def test_a_refused_request_is_answered_behind_the_good_ones_before_it(
    harness: ProxyHarness, bad: str
) -> None:
    await harness.start()
    pause = Pause()
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
    harness.upstream.script("/v1/a", [pause, ok + b"one"])
    harness.upstream.script("/v1/b", ok + b"two")
    wire = await harness.connect()
    wire.send(request("/v1/a") + request("/v1/b") + MALFORMED[bad] + request("/v1/c"))
    await harness.upstream.wait_for(lambda one: one.paused)
    assert wire.received == b""
    pause.release()
    assert (await wire.answer()).body == b"one"
    assert (await wire.answer()).body == b"two"
    assert_is_our_refusal(await wire.answer(), 400, "bad_request")
    await wire.wait_closed()
    assert wire.received == b""
    assert [one.target for one in harness.upstream.requests] == [b"/v1/a", b"/v1/b"]


# Pieces: however the bytes are cut up, they mean the same.

KINDS = [
    head(line=b"GET /v1/models?a=b HTTP/1.1"),
    upload(b"Content-Length: 11", body=b"hello world"),
    upload(CHUNKED, body=b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-T: u\r\n\r\n"),
    head(b"Upgrade: h2c", b"Connection: Upgrade", line=b"GET /v1/up HTTP/1.1"),
    upload(b"Upgrade: h2c", b"Connection: Upgrade", b"Content-Length: 3", body=b"abc"),
    upload(b"Connection: Upgrade", CHUNKED, b"Upgrade: h2c", body=b"3\r\nabc\r\n0\r\n\r\n"),
    b"\r\n" + head(line=b"HEAD /v1/models HTTP/1.1"),
]


class Echo:
    """A connection in memory, whose requests are answered with themselves.

    :param eager: answer in the turn in which the request is there; else only when the
        connection would not be read otherwise.
    """

    def __init__(self, eager: bool) -> None:
        factory = ServerFactory(Ticker(Clock()), self._dispatch, 1 << 20)
        self._eager = eager
        self._asked: list[Exchange] = []
        self.transport = StringTransport()
        self._connection = factory.buildProtocol(None)
        self._connection.makeConnection(self.transport)

    def _dispatch(self, exchange: Exchange) -> None:
        assert self._asked == []
        self._asked.append(exchange)
        if self._eager:
            self._answer()

    def _answer(self) -> None:
        exchange = self._asked.pop()
        exchange.body.collect(1 << 20, lambda body: self._echo(exchange, body))

    @staticmethod
    def _echo(exchange: Exchange, body: bytes | None) -> None:
        status = exchange.problem.status if exchange.problem else 200
        told = repr((exchange.method, exchange.target, body)).encode()
        exchange.start_response(status, b"HTTP/1.1 %d Echo\r\n" % status, len(told))
        exchange.write(told, True)

    def feed(self, data: bytes) -> None:
        while self.transport.producerState == "paused":
            self._answer()
        self._connection.dataReceived(data)

    def end(self) -> bytes:
        """Everything that was answered."""
        while self._asked:
            self._answer()
        return self.transport.value()


def answers(pieces: list[bytes], eager: bool) -> bytes:
    echo = Echo(eager)
    for piece in pieces:
        echo.feed(piece)
    return echo.end()


TRIOS = st.lists(st.sampled_from(KINDS), min_size=3, max_size=3)
ALL_KINDS = b"".join(KINDS)


@given(TRIOS, st.lists(st.integers(0, 2000), max_size=12), st.booleans())
@example(KINDS[:3], list(range(2000)), True)
@example(KINDS[3:6], list(range(2000)), True)
@example(KINDS, list(range(2000)), False)
def test_three_requests_get_the_same_answers_however_their_bytes_are_split(
    trio: list[bytes], cuts: list[int], eager: bool
) -> None:
    stream = b"".join(trio)
    edges = [0, *sorted({cut % len(stream) for cut in cuts} - {0}), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    expected = b"".join(answers([one], True) for one in trio)
    assert expected.count(b"HTTP/1.1 200 Echo") == len(trio)
    assert answers(pieces, eager) == expected


@given(st.sampled_from(sorted(MALFORMED.values())), st.lists(st.integers(0, 6000), max_size=6))
def test_a_malformed_request_is_refused_however_its_bytes_are_split(
    raw: bytes, cuts: list[int]
) -> None:
    edges = [0, *sorted({cut % len(raw) for cut in cuts} - {0}), len(raw)]
    echo = Echo(True)
    for start, end in pairwise(edges):
        if not echo.transport.disconnecting:
            echo.feed(raw[start:end])
    assert echo.end().startswith(b"HTTP/1.1 400 Echo")
    assert echo.end().count(b"HTTP/1.1") == 1


@pytest_twisted.ensureDeferred
async def test_a_head_that_comes_byte_by_byte_over_the_wire_gets_the_same_answer(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    whole = await harness.ask(request())
    wire = await harness.connect()
    raw = request()
    for i in range(len(raw)):
        wire.transport.socket.send(raw[i : i + 1])
    answer = await wire.answer()
    assert (answer.status, answer.body) == (whole.status, whole.body)
